"""Run what is stale side by side on Ray, a stage per GPU: this machine's, a cluster's. `--dry` says what it costs.

Each stage is a task of Ray that takes those before it as arguments and runs `dvc repro`. Ray places them, orders them
and runs again what a worker that died had. On one machine all is done in this folder. On several, each node has a
clone of the commit; results go through a remote of DVC's and come back here by its run cache.
"""

import collections
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

from lib.config.load import load_params
from lib.config.settings import ParamsError

from . import board, watched

HEAVY = ("experts", "distill", "evaluate", "continual", "membership", "scores", "external")  # these take a GPU
WELL = {"done": "Running stage '{}'", "restored": "Stage '{}' is cached", "unchanged": ""}  # by what DVC prints


def stage(targets=(), dry=False, address=None, remote=None, gpus_per_stage=None, cpus_per_stage=1):
    """Run the stale stages of the targets, all where there are none; exit status 1 unless each ends well."""
    from .stale import stale

    params = load_params()
    try:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray
    except ImportError:
        raise ParamsError("fanout: ray is not installed; `pip install 'ray>=2.50'` brings it") from None
    where = clones(remote) if remote else {"root": str(Path.cwd()), "python": sys.executable}
    waits = stale([f"report@{name}" if name in params.suites else name for name in targets])
    describe(params, waits)
    if dry or not waits:
        return
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    if address:
        answers(address)
    ray.init(address or "local", **quiet, **({} if address else {"_node_ip_address": "127.0.0.1"}))
    try:
        if len(nodes := [node for node in ray.nodes() if node["Alive"]]) > 1 and not remote:
            raise ParamsError(f"fanout: {len(nodes)} machines share results by a remote of DVC's: name it by --remote")
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus_per_stage and not gpus:
            raise ParamsError(f"fanout: --gpus-per-stage {gpus_per_stage:g}, but found no GPU; leave it out, or use 0")
        outcomes = run_all(
            ray, waits, where, min(gpus, 1) if gpus_per_stage is None else gpus_per_stage, cpus_per_stage
        )
    finally:
        ray.shutdown()
    if remote and (names := [name for name, (end, _) in outcomes.items() if end in WELL]):
        bring_back(remote, names)
    summary(outcomes)


def answers(address):
    """ParamsError unless something listens at HOST:PORT. Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # not `auto`
            socket.create_connection((host, port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ParamsError(f"fanout: found --address {address}; no Ray cluster answers there: {error}") from None


def describe(params, waits):
    """Say what will run, and what distilling and training in it costs."""
    from .cost import cost_of_stages
    from .inputs import device_of

    kinds = collections.Counter(name.partition("@")[0] for name in waits)
    stages = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(f"fanout: {len(waits)} stages are stale" + (f": {stages}" if stages else ""))
    print(cost_of_stages(params, waits, device_of(params.runtime)), flush=True)


def clones(remote):
    """What a worker on another machine needs to make a clone of this commit. ParamsError where it could not."""

    def out(*words):
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    if edits := out("git", "status", "--porcelain", "--", ".", ":!dvc.lock", ":!reports"):  # which stages write
        raise ParamsError(f"fanout: results belong to a commit; commit these first, or take them back:\n{edits}")
    known = out(sys.executable, "-m", "dvc", "remote", "list").split()
    if remote not in known:
        raise ParamsError(f"fanout: found --remote {remote}; DVC has {known[::2]}; `dvc remote add NAME URL` makes one")
    local = Path(".dvc/config.local")
    if (pushed := "origin" in out("git", "remote").split()) and not out("git", "branch", "-r", "--contains", "HEAD"):
        raise ParamsError("fanout: the last commit is not at origin, where the workers would look for it; `git push`")
    url = out("git", "remote", "get-url", "origin") if pushed else str(Path.cwd())
    config = local.read_text(encoding="utf-8") if local.is_file() else ""
    return {"url": url, "commit": out("git", "rev-parse", "HEAD"), "remote": remote, "config": config}


def bring_back(remote, names):
    """Have the stages here as they are in the remote. Computes nothing: all of them are in its run cache."""
    from dvc.repo import Repo

    with Repo(remote=remote) as repo:
        repo.fetch(run_cache=True, targets=["plan"])
        repo.reproduce(names, pull=True)


def run_all(ray, waits, where, gpus, cpus):
    """Give all stages to Ray, show what runs -> {name: (how it ended, words)}."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from rich.live import Live

    for module in (sys.modules[__name__], board, watched):  # a node has them from here
        ray.cloudpickle.register_pickle_by_value(module)
    head = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    said = ray.remote(num_cpus=0, scheduling_strategy=head)(board.Board).remote()
    task, tasks, outcomes = ray.remote(max_retries=2)(work), {}, {}
    for name, before in waits.items():
        share = gpus if name.partition("@")[0] in HEAVY else 0
        options = task.options(num_cpus=cpus if share or not gpus else 1, num_gpus=share, name=name)
        tasks[name] = options.remote(name, where, cpus, said, *(tasks[other] for other in before))
    names = {ref: name for name, ref in tasks.items()}
    waiting = [*names]
    with Live(refresh_per_second=1, transient=True) as live:
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=1)
            for ref in ended:
                try:
                    _, end, words = ray.get(ref)
                except ray.exceptions.RayError as error:  # its worker died each time, or that of a stage before it
                    end, words = "failed", f"{type(error).__name__}: {str(error).splitlines()[0]}"
                outcomes[names[ref]] = end, words
                live.console.print(f"{end:9} {names[ref]}", highlight=False)
            live.update(board.table(ray.get(said.read.remote()), len(outcomes), len(names)))
    return outcomes


def work(name, where, cpus, said, *before):
    """In a worker: one stage, after those before it -> (name, how it ended, words)."""
    import ray

    if failed := [other for other, end, _ in before if end not in WELL]:
        return name, "not run", f"{failed[0]} failed"
    node, python = ray.get_runtime_context().get_node_id(), where.get("python", sys.executable)
    place = " ".join([node[:6], *(f"GPU {number}" for number in ray.get_gpu_ids())])
    tell = partial(said.say.remote, name, place)
    env = {"OMP_NUM_THREADS": str(cpus), "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}

    def dvc(*words):
        return watched.run([python, "-m", "dvc", *words], folder, env, tell, "tage '")

    try:
        if folder := where.get("root"):
            code, output = dvc("--wait-for-lock", "repro", "--single-item", name)
        else:
            folder = clone(where, node)
            dvc("fetch", "--run-cache", "plan")
            code, output = dvc("--wait-for-lock", "repro", "--pull", name)
            if not code:
                code, words = dvc("--wait-for-lock", "push", "--run-cache", name)
                output += words if code else ""
    except (OSError, subprocess.CalledProcessError) as error:
        code, output = 1, f"{error} {getattr(error, 'stderr', '') or ''}"
    tell(None)
    if code:
        return name, "failed", f"on node {node[:6]}, in {folder}:\n{output}"
    return name, next(end for end, text in WELL.items() if text.format(name) in output), ""


def clone(where, node):
    """A node's clone of the commit -> its folder. It stays, for the next stage and the next fanout on this node."""
    from filelock import FileLock

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "distillery" / f"{where['commit'][:12]}-{node[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            new, remote = Path(f"{folder}.new"), [sys.executable, "-m", "dvc", "remote", "default", "--local"]
            for words, cwd in (
                (["git", "clone", "--quiet", where["url"], new], None),
                (["git", "checkout", "--quiet", where["commit"]], new),
            ):
                subprocess.run(words, cwd=cwd, check=True, capture_output=True, text=True)
            (new / ".dvc/config.local").write_text(where["config"], encoding="utf-8")
            subprocess.run([*remote, where["remote"]], cwd=new, check=True, capture_output=True, text=True)
            new.replace(folder)
    return str(folder)


def summary(outcomes):
    """Say how all ended; exit status 1 unless each ended well."""
    for name, (end, words) in outcomes.items():
        if end not in WELL:
            print(f"{end}: {name}: " + words.replace("\n", "\n    "))
    counts = collections.Counter(end for end, _ in outcomes.values())
    print("fanout: " + ", ".join(f"{count} {end}" for end, count in counts.items()), flush=True)
    if counts.keys() - WELL:
        sys.exit(1)
