"""Stages side by side: real Ray and real DVC, on one machine and on a cluster of two nodes, all on the loopback."""

import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from importlib.util import find_spec

import psutil
import pytest
import yaml

from .toy import CELLS, ENV, MEMBERSHIP, ROOT, clone, commit, dvc, edit, ran, toy, tracked

PASSED = ("XDG_CACHE_HOME", "DISTILLERY_CHECKPOINTS")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'ray>=2.50'")


@contextmanager
def cluster(tmp_path, monkeypatch, *nodes):
    """A cluster of Ray's of these nodes (their resources) -> (its address, the nodes)."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of the nodes' clones
    head, *others = ({"node_ip_address": f"127.0.0.{i + 2}", **node} for i, node in enumerate(nodes))
    made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
    try:
        yield made, [made.head_node, *(made.add_node(**node) for node in others)]
    finally:
        made.shutdown()


def fanout(folder, *args):
    """-> (exit status, all that it prints)"""
    env = ENV | {"PYTHONPATH": str(ROOT), **{k: v for k, v in os.environ.items() if k in PASSED}}
    command = [sys.executable, "-m", "stages", "fanout", *args]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def ends(output):
    """{stage: how it ended}"""
    return {
        name: end
        for end, name in re.findall(r"^(done|restored|unchanged|failed|not run) +(\S+@\S+(?: \d+/\d+)?)", output, re.M)
    }


@pytest.fixture
def stubs(tmp_path):
    """stubs({name: (shell command, the name before it or None)}) -> a folder with these as stages `external@NAME`."""

    def make(table):
        folder = tmp_path / "stubs"
        (folder / "out").mkdir(parents=True)
        (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        rows = {
            name: {"before": f"out/{before}" if before else "params.yaml", "name": name, "command": command}
            for name, (command, before) in table.items()
        }
        do = {"cmd": "mkdir -p out && ${item.command} && echo ${item.name} > out/${item.name}"}
        do |= {"deps": ["${item.before}"], "outs": ["out/${item.name}"]}
        plan = {"cmd": "true", "deps": ["params.yaml"]}
        (folder / "dvc.yaml").write_text(
            yaml.safe_dump({"stages": {"plan": plan, "external": {"foreach": rows, "do": do}}})
        )
        for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
            subprocess.run(command, cwd=folder, env=ENV, check=True)
        return folder

    return make


@needs_ray
@pytest.mark.long
def test_a_stage_that_fails_holds_up_those_after_it_and_no_other(stubs):
    folder = stubs({"a": ("true", None), "b": ("echo why; false", "a"), "c": ("true", "b"), "d": ("sleep 2", None)})
    code, output = fanout(folder)
    assert ends(output) == {"external@a": "done", "external@b": "failed", "external@c": "not run", "external@d": "done"}
    assert code == 1 and "not run: external@c: external@b failed" in output and "\n    why\n" in output
    assert "fanout: 2 done, 1 failed, 1 not run" in output
    edit_command(folder, "echo why; false", "true")
    code, output = fanout(folder, "external@c")
    assert code == 0 and ends(output) == {"external@b": "done", "external@c": "done"}
    assert dvc(folder, "status").strip().endswith("up to date.")
    assert "fanout: 0 stages are stale" in fanout(folder)[1]


def edit_command(folder, old, new):
    path = folder / "dvc.yaml"
    path.write_text(path.read_text().replace(old, new))


@needs_ray
@pytest.mark.long
def test_each_stage_has_a_gpu_of_its_own(stubs, tmp_path, monkeypatch):
    """Four made-up ones: at any time at most one stage on each, and all four are at work."""
    note = "echo $CUDA_VISIBLE_DEVICES $(date +%s.%N) > out/{0}.log && sleep 6 && date +%s.%N >> out/{0}.log"
    folder = stubs({name: (note.format(name), None) for name in "abcdefgh"})
    with cluster(tmp_path, monkeypatch, {"num_cpus": 8, "num_gpus": 4}) as (made, _):
        code, output = fanout(folder, "--address", made.address)
    assert code == 0 and {*ends(output).values()} == {"done"}, output
    times = {}
    for name in "abcdefgh":
        gpu, begin, end = (folder / f"out/{name}.log").read_text().split()
        times.setdefault(gpu, []).append((float(begin), float(end)))
    assert {*times} == {"0", "1", "2", "3"}
    for spans in times.values():
        assert all(one[1] <= other[0] for one, other in zip(sorted(spans), sorted(spans)[1:]))


@needs_ray
@pytest.mark.long
def test_what_cannot_be_run_is_refused_in_a_sentence(stubs, tmp_path, monkeypatch):
    folder = stubs({"a": ("true", None)})
    for args, words in (
        (["nowhere"], "fanout: .*nowhere.*; a target is a suite or STAGE@KEY"),
        (["--remote", "store"], "fanout: results belong to a commit; commit these first, or take them back:"),
        (["--address", "127.0.0.1:1"], "fanout: found --address 127.0.0.1:1; no Ray cluster answers there: .*refused"),
        (
            ["--address", "ray://a:1"],
            "fanout: found --address ray://a:1; run it on a machine of the cluster, with HOST:6379",
        ),
        (["--gpus-per-stage", "2"], "fanout: --gpus-per-stage 2, but found no GPU; leave it out, or use 0"),
    ):
        code, output = fanout(folder, *args)
        assert code == 1 and re.search(f"^error: {words}", output, re.M) and "Traceback" not in output, output
    commit_all(folder)
    code, output = fanout(folder, "--remote", "store")
    assert code == 1 and "found --remote store; DVC has []; `dvc remote add NAME URL` makes one" in output
    with cluster(tmp_path, monkeypatch, {"num_cpus": 1}, {"num_cpus": 1}) as (made, _):
        code, output = fanout(folder, "--address", made.address)
    assert code == 1 and "fanout: 2 machines share results by a remote of DVC's: name it by --remote" in output
    code, output = fanout(folder, "--dry")
    assert code == 0 and "fanout: 1 stages are stale: 1 external" in output and not (folder / "out/a").exists()


def commit_all(folder):
    for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "stubs"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


@needs_ray
@pytest.mark.long
def test_what_a_dead_worker_had_runs_again(stubs, tmp_path, monkeypatch):
    """A worker is killed in the midst of a stage: that stage is ended, and runs again; the other one goes on."""
    folder = stubs({name: (f"echo $$ >> out/{name}.pids && sleep 10", None) for name in "ab"})
    with cluster(tmp_path, monkeypatch, {"num_cpus": 2}) as (made, _):
        command = [sys.executable, "-m", "stages", "fanout", "--address", made.address]
        env = ENV | {"PYTHONPATH": str(ROOT)}
        run = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        while not (folder / "out/a.pids").exists():
            assert run.poll() is None, run.stdout.read()
            time.sleep(0.1)
        (worker,) = (
            each for each in psutil.process_iter(["cmdline"]) if "ray::external@a" in (each.info["cmdline"] or ())
        )
        worker.kill()
        output = run.communicate(timeout=120)[0]
    assert run.returncode == 0 and ends(output) == {"external@a": "done", "external@b": "done"}, output
    first, _ = map(int, (folder / "out/a.pids").read_text().split())
    assert not psutil.pid_exists(first) and len((folder / "out/b.pids").read_text().split()) == 1


@pytest.fixture
def head(project, tmp_path):
    """A committed clone with the toy suite, and a remote of DVC's, `store`, in a folder."""
    folder = clone(project, tmp_path / "head")
    edit(folder, toy)
    commit(folder)
    dvc(folder, "remote", "add", "--local", "store", str(tmp_path / "store"))
    return folder


def equal_sets(folder, serial):
    """Whether all sets of the folder have the bits of those of a serial run -> how many there are."""
    sets = sorted(path.relative_to(folder) for path in (folder / "build/distill").rglob("seed*.safetensors"))
    assert all((folder / path).read_bytes() == (serial / path).read_bytes() for path in sets)
    return len(sets)


@needs_ray
@pytest.mark.long
def test_two_machines_give_the_bits_of_one(head, finished, tmp_path, monkeypatch):
    """The toy suite on a cluster of two nodes: every stage once, on both, and at last here, where nothing is stale."""
    code, output = fanout(head, "digits", "--remote", "store")
    assert code == 1 and "the last commit is not at origin, where the workers would look for it" in output
    subprocess.run(["git", "remote", "remove", "origin"], cwd=head, check=True)
    with cluster(tmp_path, monkeypatch, {"num_cpus": 1}, {"num_cpus": 1}) as (made, _):
        code, output = fanout(head, "digits", "--address", made.address, "--remote", "store")
    assert code == 0 and {*ends(output).values()} == {"done"}, output
    clones = [path.name.partition("-")[2] for path in (tmp_path / "cache/distillery").glob("*-*") if path.is_dir()]
    assert sorted(clones) == ["127.0.0.2", "127.0.0.3"]
    assert ran(dvc(head, "repro", "report@digits")) == []
    assert equal_sets(head, finished[0]) == len([*(finished[0] / "build/distill").rglob("seed*.safetensors")]) > 4
    tracked(head)  # what the nodes sent is in the store here, pictures too
    with closing(sqlite3.connect(head / "mlflow.db")) as database:
        runs = {name for (name,) in database.execute("SELECT name FROM runs WHERE status = 'FINISHED'")}
    assert runs == {
        name for name in ends(output) if name.startswith(("distill", "evaluate", "continual", "membership"))
    }
    assert len([*head.glob("mlartifacts/*/artifacts/seed0.png")]) == len(CELLS)


@needs_ray
@pytest.mark.long
def test_seeds_of_a_cell_on_two_machines(head, finished, tmp_path, monkeypatch):
    """By a folder for checkpoints that both use: a seed on each, joined by the stage, whose sets have the same bits."""
    subprocess.run(["git", "remote", "remove", "origin"], cwd=head, check=True)
    monkeypatch.setenv("DISTILLERY_CHECKPOINTS", str(tmp_path / "checkpoints"))
    name = f"distill@{MEMBERSHIP}"
    with cluster(tmp_path, monkeypatch, {"num_cpus": 1}, {"num_cpus": 1}) as (made, _):
        code, output = fanout(head, name, "--address", made.address, "--remote", "store")
    ended = ends(output)
    assert code == 0 and {*ended.values()} == {"done"} and {f"{name} 1/2", f"{name} 2/2", name} < {*ended}, output
    assert equal_sets(head, finished[0]) == 2


@needs_ray
@pytest.mark.long
def test_what_a_dead_machine_had_runs_on_another(stubs, tmp_path, monkeypatch):
    """A node is killed in the midst of its stage; the stage runs again on the other, and all ends well."""
    folder = stubs({name: (f"hostname >> {tmp_path}/{name}.log && sleep 8", None) for name in "abc"})
    commit_all(folder)
    dvc(folder, "remote", "add", "--local", "store", str(tmp_path / "store"))
    with cluster(tmp_path, monkeypatch, {"num_cpus": 1}, {"num_cpus": 1}) as (made, (_, other)):
        command = [sys.executable, "-m", "stages", "fanout", "--address", made.address, "--remote", "store"]
        env = ENV | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
        pipe = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        run = subprocess.Popen(command, cwd=folder, env=env, **pipe)
        while len([*tmp_path.glob("[abc].log")]) < 2:
            assert run.poll() is None, run.stdout.read()
            time.sleep(0.1)
        made.remove_node(other, allow_graceful=False)
        output = run.communicate(timeout=180)[0]
    assert run.returncode == 0 and ends(output) == {f"external@{name}": "done" for name in "abc"}, output
    assert sum(len(path.read_text().split()) for path in tmp_path.glob("[abc].log")) == 4, "one of them twice"
    assert dvc(folder, "status").strip().endswith("up to date.")


@needs_ray
@pytest.mark.long
def test_a_remote_that_cannot_be_used_is_refused(stubs, tmp_path):
    folder = stubs({"a": ("true", None)})
    commit_all(folder)
    for url, words in (
        ("http://127.0.0.1:1/store", "run-cache is not supported for http"),
        ("ssh://127.0.0.1/store", ".*requires 'dvc-ssh' to be installed"),
    ):
        dvc(folder, "remote", "add", "--force", "--local", "lost", url)
        code, output = fanout(folder, "--remote", "lost")
        assert code == 1 and "Traceback" not in output, output
        assert re.search(f"^error: fanout: the remote lost cannot be used: {words}", output, re.M), output


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 64 kB."""
    (folder := tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@needs_ray
@pytest.mark.long
def test_a_full_disk_of_a_worker_fails_its_stages_in_words(stubs, tmp_path, monkeypatch, small_disk):
    folder = stubs({"a": ("true", None)})
    commit_all(folder)
    dvc(folder, "remote", "add", "--local", "store", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    code, output = fanout(folder, "--remote", "store")
    assert code == 1 and re.search(r"^failed: external@a: on node \w+, in .*:$", output, re.M), output
    assert "No space left on device" in output and "Traceback" not in output, output


def test_without_ray_it_says_what_to_install():
    code = "import sys; sys.modules['ray'] = None; from stages.common import run; from stages.fanout import stage"
    command = [sys.executable, "-c", f"{code}; run(stage, 'fanout')"]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: fanout: ray is not installed; `pip install 'ray>=2.50'` brings it\n"
