"""A pipeline that is killed, run twice at once or given nonsense: real DVC, one cell of suite digits at toy size."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from lib.records import Evaluation, read_metrics

from .toy import CELL, ENV, copied, dvc, edit, stages, started, states


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A copy of the finished toy suite."""
    return copied(finished[0], tmp_path_factory.mktemp("resume") / "copy")


def distilled(folder):
    return hashlib.sha256((folder / f"build/distill/digits/{CELL}/seed0.safetensors").read_bytes()).hexdigest()


def checkpoint_step(folder):
    """The step of the newest checkpoint of CELL's seed 0, or None."""
    from lib.files import FileError
    from lib.tensors import load_state
    from stages.identity import owner

    try:
        found = [*(folder / ".checkpoints" / CELL).glob("*/seed0.safetensors*")]  # a kill may leave the older one alone
    except FileNotFoundError:  # a forced run removed a folder between its being listed and being opened
        return None
    for path in sorted(path for path in found if path.suffix in (".safetensors", ".older")):
        try:
            return load_state(path, owner("seed0", path.parent.name))["progress"]["step"]
        except (RuntimeError, FileError):  # replaced by the run between its being opened and being mapped
            continue
    return None


def kill_after(folder, steps, command):
    """Start a run, and SIGKILL it and its stages once its checkpoint is `steps` on."""
    before = checkpoint_step(folder) or 0
    process, deadline = started(folder, *command), time.monotonic() + 120
    while (checkpoint_step(folder) or 0) < before + steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, f"it ended before it could be killed: {process.stdout.read()[-2000:]}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.long
def test_killed_at_random_moments_it_ends_with_the_same_bits_as_a_forced_run_left_alone(folder):
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(steps=300, eval_every=150))
    target, lots = f"distill@{CELL}", random.Random(0)
    for _ in range(2):
        kill_after(folder, lots.randint(10, 75), ["repro", target])
    assert states(folder, "--suite", "digits")[CELL] == "partly: 0 of 1 seeds"
    output = dvc(folder, "repro", target)
    interrupted = distilled(folder)
    assert "going on after step" in output
    assert checkpoint_step(folder) is None, "success removes the checkpoints"

    kill_after(folder, 50, ["repro", "-f", "--single-item", target])
    assert checkpoint_step(folder) >= 50, "there is something that a forced run must not go on from"
    output = dvc(folder, "repro", "-f", "--single-item", target)
    assert "going on after step" not in output and distilled(folder) == interrupted


@pytest.mark.long
def test_a_further_seed_leaves_those_that_are_there(folder):
    """Nor does an option with an f in it pass for --force, here an experiment's name; the short form does."""
    target = f"distill@{CELL}"
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(seeds=[0, 1], steps=20, eval_every=0))
    dvc(folder, "repro", target)
    out = folder / f"build/distill/digits/{CELL}"
    made, both = (out / "seed1.safetensors").stat().st_mtime_ns, json.loads((out / "history.json").read_text())["seeds"]

    output = dvc(folder, "exp", "run", target, "-nfast", "-S", f"cells.{CELL}.distill.seeds=[1,2]")
    assert "seed 1: " not in output and "seed 2: " in output
    assert not list(out.glob("seed0*")) and (out / "seed1.safetensors").stat().st_mtime_ns == made
    seeds = json.loads((out / "history.json").read_text())["seeds"]
    assert list(seeds) == ["1", "2"] and seeds["1"] == both["1"]

    assert (out / "seed2.safetensors").stat().st_nlink >= 3, "one file for the output, the cache and further seeds"

    (kept,) = (folder / ".checkpoints" / CELL).glob("*/done/seed2.safetensors")
    kept.unlink()  # another file of its name: the cache's own stays what it is
    kept.write_bytes(b"damaged")
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(seeds=[1, 2, 0]))
    output = dvc(folder, "repro", target)
    assert "seed 2: " in output and "seed 0: " not in output, "a file that changed is made again, others are not"
    assert json.loads((out / "history.json").read_text())["seeds"]["2"]["files"] == seeds["2"]["files"]
    assert "to distil: [1, 2, 0]" in dvc(folder, "repro", "-fs", target)


def test_two_runs_at_once_end_without_corruption(folder):
    edit(folder, lambda p: p["cells"][CELL]["evaluate"].update(nets=["conv2-w32", "kipconv2-w32"]))
    both = [started(folder, "repro", "report@digits") for _ in range(2)]
    outputs = [p.communicate(timeout=240)[0] for p in both]
    assert any(p.returncode == 0 for p in both), outputs
    assert all(p.returncode == 0 or "lock" in out.lower() for p, out in zip(both, outputs)), outputs
    assert "up to date" in dvc(folder, "repro", "report@digits")
    assert yaml.safe_load((folder / "dvc.lock").read_text())["stages"].keys() >= {f"evaluate@{CELL}", "report@digits"}


def test_a_network_that_was_judged_before_the_end_is_not_judged_again(folder):
    """What a kill between two networks leaves behind."""
    out = folder / f"build/evaluate/digits/{CELL}.json"
    before, (record,) = judged(out), (folder / ".checkpoints" / CELL).glob("*/done/kipconv2-w32.record.json")
    assert (record.parent / "conv2-w32.record.json").exists()
    record.unlink()
    out.unlink()
    output = stages(folder, "evaluate", CELL)
    assert "networks that are there: ['conv2-w32']; to judge: ['kipconv2-w32']" in output
    assert judged(out) == before and len(before) == 2


@pytest.mark.long
def test_an_evaluation_that_is_killed_goes_on_with_the_same_bits(folder):
    edit(folder, lambda p: p["protocols"]["digits"].update(steps=600))
    target, out = f"evaluate@{CELL}", folder / f"build/evaluate/digits/{CELL}.json"
    process, deadline = started(folder, "repro", target), time.monotonic() + 120
    while not (saved := [*(folder / ".checkpoints" / CELL).glob("*/conv2-w32 on distilled.safetensors")]):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    output = dvc(folder, "repro", target)
    assert re.search(r"networks conv2-w32: going on after \d+ of 600 updates", output) and not saved[0].exists()
    resumed = judged(out)
    assert "going on" not in dvc(folder, "repro", "-f", "--single-item", target) and judged(out) == resumed


def judged(path):
    """{network: accuracies} of an evaluation's file, without times."""
    return {
        net: {kind: row for kind, row in rows.items() if kind != "wall_s"}
        for net, rows in read_metrics(path, Evaluation)["nets"].items()
    }


def test_bad_parameters_stop_a_stage_before_any_compute(folder):
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(ipc="ten"))
    began = time.monotonic()
    output = dvc(folder, "repro", f"distill@{CELL}", check=False)
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(ipc=1))
    assert f"error: params.yaml: cells.{CELL}.distill.ipc: found 'ten'; must be an integer" in output
    assert "Traceback" not in output and time.monotonic() - began < 60


def test_unknown_key_lists_the_known_ones(folder):
    done = subprocess.run(
        [sys.executable, "-m", "stages", "distill", "digits-frepo-digits-ipc3"],
        cwd=folder,
        env=ENV,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and CELL in done.stderr and "Traceback" not in done.stderr
