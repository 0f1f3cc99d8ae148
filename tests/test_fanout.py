"""Stages side by side: real Ray and real DVC, on one machine and on a cluster of two nodes, all on the loopback."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec

import psutil
import pytest
import yaml

from .toy import ENV, ROOT, clone, commit, dvc, edit, ran, toy

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
    env = ENV | {"PYTHONPATH": str(ROOT), **{k: v for k, v in os.environ.items() if k == "XDG_CACHE_HOME"}}
    command = [sys.executable, "-m", "stages", "fanout", *args]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def ends(output):
    """{stage: how it ended}"""
    return {
        name: end for end, name in re.findall(r"^(done|restored|unchanged|failed|not run) +(\S+@\S+)", output, re.M)
    }


@pytest.fixture
def stubs(tmp_path):
    """stubs({name: (shell command, the name before it or None)}) -> a folder with these as stages `evaluate@NAME`."""

    def make(table):
        folder = tmp_path / "stubs"
        (folder / "out").mkdir(parents=True)
        (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        rows = {
            name: {"before": f"out/{before}" if before else "params.yaml", "name": name, "command": command}
            for name, (command, before) in table.items()
        }
        do = {"cmd": "${item.command} && echo ${item.name} > out/${item.name}"}
        do |= {"deps": ["${item.before}"], "outs": ["out/${item.name}"]}
        plan = {"cmd": "true", "deps": ["params.yaml"]}
        (folder / "dvc.yaml").write_text(
            yaml.safe_dump({"stages": {"plan": plan, "evaluate": {"foreach": rows, "do": do}}})
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
    assert ends(output) == {"evaluate@a": "done", "evaluate@b": "failed", "evaluate@c": "not run", "evaluate@d": "done"}
    assert code == 1 and "not run: evaluate@c: evaluate@b failed" in output and "\n    why\n" in output
    assert "fanout: 2 done, 1 failed, 1 not run" in output
    edit_command(folder, "echo why; false", "true")
    code, output = fanout(folder, "evaluate@c")
    assert code == 0 and ends(output) == {"evaluate@b": "done", "evaluate@c": "done"}
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
    assert code == 0 and "fanout: 1 stages are stale: 1 evaluate" in output and not (folder / "out/a").exists()


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
            each for each in psutil.process_iter(["cmdline"]) if "ray::evaluate@a" in (each.info["cmdline"] or ())
        )
        worker.kill()
        output = run.communicate(timeout=120)[0]
    assert run.returncode == 0 and ends(output) == {"evaluate@a": "done", "evaluate@b": "done"}, output
    first, _ = map(int, (folder / "out/a.pids").read_text().split())
    assert not psutil.pid_exists(first) and len((folder / "out/b.pids").read_text().split()) == 1


@needs_ray
@pytest.mark.long
def test_two_machines_give_the_bits_of_one(project, finished, tmp_path, monkeypatch):
    """The toy suite on a cluster of two nodes: every stage once, on both, and at last here, where nothing is stale."""
    folder, serial = clone(project, tmp_path / "head"), finished[0]
    edit(folder, toy)
    commit(folder)
    dvc(folder, "remote", "add", "--local", "store", str(tmp_path / "store"))
    code, output = fanout(folder, "digits", "--remote", "store")
    assert code == 1 and "the last commit is not at origin, where the workers would look for it" in output
    subprocess.run(["git", "remote", "remove", "origin"], cwd=folder, check=True)
    with cluster(tmp_path, monkeypatch, {"num_cpus": 1}, {"num_cpus": 1}) as (made, _):
        code, output = fanout(folder, "digits", "--address", made.address, "--remote", "store")
    assert code == 0 and {*ends(output).values()} == {"done"}, output
    assert len({*re.findall(r"[0-9a-f]{12}-[0-9a-f]{12}\b", " ".join(os.listdir(tmp_path / "cache/distillery")))}) == 2
    assert ran(dvc(folder, "repro", "report@digits")) == []
    sets = sorted(path.relative_to(serial) for path in (serial / "build/distill").rglob("seed*.safetensors"))
    assert sets and all((folder / path).read_bytes() == (serial / path).read_bytes() for path in sets)


def test_without_ray_it_says_what_to_install():
    code = "import sys; sys.modules['ray'] = None; from stages.common import run; from stages.fanout import stage"
    command = [sys.executable, "-c", f"{code}; run(stage, 'fanout')"]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: fanout: ray is not installed; `pip install 'ray>=2.50'` brings it\n"
