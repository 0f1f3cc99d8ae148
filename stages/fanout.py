"""Run what is stale side by side on Ray, a stage per GPU: this machine's, a cluster's. `--dry` says what it costs.

Each stage is a task of Ray that takes those before it as arguments and runs `dvc repro`. Ray places them, orders them
and runs again what a worker that died had. On one machine all is done in this folder. On several, each node has a
clone of the commit; results go through a remote of DVC's and come back here by its run cache. Where more stages could
run than there are, the seeds of a cell and the groups of a row of experts are tasks of their own.
"""

import collections
import os
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from lib.config.load import load_params
from lib.config.settings import ParamsError
from lib.tracking import receive

from . import board, watched
from .clones import bring_back, cache, clone, origin
from .parts import with_parts

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
    where = origin(remote) if remote else {"root": str(Path.cwd())}
    where["env"] = {name: value for name, value in os.environ.items() if name.startswith(("DISTILLERY_", "MLFLOW_"))}
    waits = stale([f"report@{name}" if name in params.suites else name for name in targets])
    describe(params, waits, remote)
    if dry or not waits:
        return
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    if address:
        answers(address)
    ray.init(address or "local", **quiet, **({} if address else {"_node_ip_address": "127.0.0.1"}))
    try:
        if len(nodes := [node for node in ray.nodes() if node["Alive"]]) > 1 and not remote:
            raise ParamsError(f"fanout: {len(nodes)} machines share results by a remote of DVC's: name it by --remote")
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        if gpus_per_stage and not gpus:
            raise ParamsError(f"fanout: --gpus-per-stage {gpus_per_stage:g}, but found no GPU; leave it out, or use 0")
        each = min(gpus, 1) if gpus_per_stage is None else gpus_per_stage  # of a stage
        slots = int(gpus // each if each else there["CPU"] // cpus_per_stage)
        if not remote or "DISTILLERY_CHECKPOINTS" in os.environ:  # else a machine does not see what another has done
            waits = with_parts(params, waits, slots)
        outcomes = run_all(ray, waits, where, each, cpus_per_stage)
    finally:
        ray.shutdown()
    if remote and (names := [name for name, (end, _) in outcomes.items() if end in WELL and " " not in name]):
        bring_back(remote, names)
    summary(outcomes)


def answers(address):
    """ParamsError unless something listens at HOST:PORT. Ray itself would wait for minutes."""
    if address.startswith("ray://"):
        raise ParamsError(
            f"fanout: found --address {address}; run it on a machine of the cluster, with HOST:6379 or auto"
        )
    host, _, port = address.rpartition(":")
    try:
        if host:  # not `auto`
            socket.create_connection((host, port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ParamsError(f"fanout: found --address {address}; no Ray cluster answers there: {error}") from None


def describe(params, waits, remote):
    """Say what will run, and what distilling and training in it costs."""
    from .inputs import device_of
    from .schedule import cost_of_stages

    kinds = collections.Counter(name.partition("@")[0] for name in waits)
    stages = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(f"fanout: {len(waits)} stages are stale" + (f": {stages}" if stages else ""))
    print(cost_of_stages(params, waits, None if remote else device_of(params.runtime)), flush=True)


def run_all(ray, waits, where, gpus, cpus):
    """Give all stages to Ray, show what runs -> {name: (how it ended, words)}."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from rich.live import Live

    for module in (sys.modules[__name__], sys.modules[clone.__module__], board, watched):  # a node has them
        ray.cloudpickle.register_pickle_by_value(module)
    head = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    said = ray.remote(num_cpus=0, scheduling_strategy=head)(board.Board).remote()
    task, tasks, outcomes = ray.remote(max_retries=2)(work), {}, {}
    for name, before in waits.items():
        share = gpus if name.partition("@")[0] in HEAVY else 0
        options = task.options(num_cpus=cpus if share or not gpus else 1, num_gpus=share, name=name)
        tasks[name] = options.remote(
            name, where, cpus, said, before, *(tasks[each] for each in before if each in tasks)
        )
    names = {ref: name for name, ref in tasks.items()}
    waiting = [*names]
    with Live(refresh_per_second=1, transient=True) as live:
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=1)
            for ref in ended:
                try:
                    _, end, words = ray.get(ref)
                except ray.exceptions.RayError as error:  # its worker died each time, or that of a stage before it
                    end, words = "failed", f"{type(error).__name__}: {error}"
                outcomes[names[ref]] = end, words
                live.console.print(f"{end:9} {names[ref]}", highlight=False)
            lines, runs = ray.get(said.read.remote())
            live.update(board.table(lines, len(outcomes), len(names)))
            for files in runs:
                receive(".", files)
    return outcomes


def work(name, where, cpus, said, before, *outcomes):
    """In a worker: one stage, or a part of it, after those before it -> (name, how it ended, words)."""
    import ray

    if failed := [other for other, end, _ in outcomes if end not in WELL]:
        return name, "not run", f"{failed[0]} failed"
    node = ray.get_runtime_context().get_node_id()
    place = " ".join([node[:6], *(f"GPU {number}" for number in ray.get_gpu_ids())])
    tell, here, output = partial(said.say.remote, name, place), where.get("root"), []
    env = {"OMP_NUM_THREADS": str(cpus), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if not here:  # so that the clone of another commit goes on from it, and another machine with the same home
        env["DISTILLERY_CHECKPOINTS"] = str(cache() / "checkpoints")
    env |= where["env"]
    with tempfile.TemporaryDirectory() as tracked:
        if not here and not env.get("MLFLOW_TRACKING_URI", "").startswith("http"):
            env["DISTILLERY_TRACKING"] = tracked
        try:
            folder = here or clone(where, ray.util.get_node_ip_address())
            for words in commands(name, before, pull=not here):
                lock = f"{folder}/.dvc/tmp/fanout {name.replace('/', ' of ')}.lock"
                code, lines = watched.run(words, folder, env, tell, "tage '", lock)
                output.append(lines)
                if code:
                    break
        except (OSError, subprocess.CalledProcessError) as error:
            code, folder, output = 1, where.get("url"), [getattr(error, "stderr", "") or str(error)]
        sent = [path for path in Path(tracked).rglob("*") if path.is_file()]
        ray.get(said.keep.remote({str(path.relative_to(tracked)): path.read_bytes() for path in sent}))
    tell(None)
    output = "\n".join(output)
    if code:
        return name, "failed", f"on node {node[:6]}, in {folder}:\n{output}"
    return name, next(end for end, text in WELL.items() if " " in name or text.format(name) in output), ""


def commands(name, before, pull):
    """What runs a stage, or a part of one: modules and their arguments. pull: results go through DVC's remote."""
    stage, _, part = name.partition(" ")
    repro = ["dvc", "--wait-for-lock", "repro", "--pull" if pull else "--single-item"]
    fetch, push = ["dvc", "fetch", "--run-cache", "plan"], ["dvc", "--wait-for-lock", "push", "--run-cache", name]
    if part:
        return [*([fetch, [*repro, *before]] if pull else []), ["stages", *stage.split("@"), "--part", part]]
    return [fetch, [*repro, name], push] if pull else [[*repro, name]]


def summary(outcomes):
    """Say how all ended; exit status 1 unless each ended well."""
    for name, (end, words) in outcomes.items():
        if end not in WELL:
            print(f"{end}: {name}: " + words.replace("\n", "\n    "))
    counts = collections.Counter(end for end, _ in outcomes.values())
    print("fanout: " + ", ".join(f"{count} {end}" for end, count in counts.items()), flush=True)
    if counts.keys() - WELL:
        sys.exit(1)
