"""The pipeline as a user runs it: the real dvc.yaml through real DVC, in a committed copy of the project, at toy size."""

import copy
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

CELL, TOUCHED = "digits-frepo-digits-ipc1", "digits-isa-digits-ipc1"
CONTINUAL, MEMBERSHIP = "digits-frepo-digits-ipc1-steps5", "digits-frepo-digits-ipc10-chunk500"
CELLS = (CELL, TOUCHED, CONTINUAL, MEMBERSHIP)
ENV = {
    **{k: v for k, v in os.environ.items() if not k.startswith("DVC_")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "true",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def toy(params):
    """The digits suite in seconds: fewer steps, one seed, one network; checkpoints all the time."""
    params["cells"] = {key: row for key, row in params["cells"].items() if row["suite"] != "digits" or key in CELLS}
    for key in CELLS:
        params["cells"][key]["distill"] |= {"steps": 40, "seeds": [0], "watch_every": 20, "pool_size": 2}
        params["cells"][key]["evaluate"]["nets"] = ["conv2-w32"]
    params["cells"][CONTINUAL]["distill"] |= {"steps": 5, "watch_every": 0}
    params["cells"][MEMBERSHIP]["distill"] |= {"seeds": [0, 1], "steps": 10, "watch_every": 0}
    params["membership"][MEMBERSHIP] |= {"updates": [10, 20], "shadows": 2}
    for name in ("digits", "digits-memory"):
        params["protocols"][name]["steps"] = 50
    params["runtime"]["checkpoint_minutes"] = 0.002


def edit(folder, change):
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    change(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def dvc(folder, *args, check=True):
    done = subprocess.run(["dvc", *args], cwd=folder, env=ENV, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output[-3000:]
    return output


def ran(output):
    return re.findall(r"Running stage '([^']+)'", output)


def commit(folder):
    subprocess.run(["git", "commit", "-qam", "toy"], cwd=folder, check=True)


@pytest.fixture(scope="module")
def pipeline(project, tmp_path_factory):
    """The toy suite, run once from a clean copy -> (folder, output of that run)."""
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    subprocess.run(["git", "clone", "-q", str(project), str(folder)], check=True)
    for key, value in (("user.name", "test"), ("user.email", "test@example.org")):
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)
    edit(folder, toy)
    output = dvc(folder, "repro", "report@digits")
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    commit(folder)
    return folder, output


def test_clean_copy_runs_every_stage_of_the_suite_and_of_no_other(pipeline):
    folder, output = pipeline
    assert sorted(ran(output)) == sorted(
        ["prepare@digits", "whiten@digits", "report@digits", f"continual@{CONTINUAL}", f"membership@{MEMBERSHIP}"]
        + [f"{stage}@{key}" for stage in ("distill", "evaluate") for key in CELLS]
    )
    results = json.loads((folder / "reports/digits/results.json").read_text())
    assert {row["cell"] for row in results["rows"]} == set(CELLS)
    assert all(0 < row["accuracy_mean"] <= 100 for row in results["rows"])
    assert [row["memory"] for row in results["continual"]] == ["distilled", "random", "herding"]
    assert [(row["trained_on"], row["updates"]) for row in results["membership"]] == [(k, u) for k in ("distilled", "initial", "real") for u in (10, 20)]
    assert all((folder / "reports/digits" / figure["file"]).stat().st_size > 200 for figure in results["figures"])


def test_second_run_does_nothing(pipeline):
    output = dvc(pipeline[0], "repro", "report@digits")
    assert ran(output) == [] and "up to date" in output


def test_index_shows_the_suites(pipeline):
    dvc(pipeline[0], "repro", "--single-item", "index")
    page = (pipeline[0] / "reports/index.html").read_text()
    (pair,) = [p for p in json.loads((pipeline[0] / "reports/paired.json").read_text()) if p["cell"] == TOUCHED]
    assert pair["baseline"] == CELL and pair["seeds"] == [0] and pair["verdict"] in page.replace("&#43;", "+")
    assert CELL in page and "data:image/png;base64," in page


def test_runs_are_tracked_with_their_addresses(pipeline):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline[0] / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("distillery").experiment_id])
    tags = {run.info.run_name: run.data.tags for run in runs}
    assert f"distill@{CELL}" in tags and tags[f"distill@{CELL}"]["dvc.stage"] == f"distill@{CELL}"
    assert re.fullmatch(r"[0-9a-f]{12}", tags[f"evaluate@{CELL}"]["git.commit"])


def test_changing_one_row_touches_that_rows_stages_only(pipeline):
    """A dry run lists what changed; the experiment below runs it, and what follows from it."""
    folder, _ = pipeline
    for change, stage in (({"distill": {"outer_lr": 2.0e-3}}, "distill"), ({"evaluate": {"nets": ["kipconv2-w32"]}}, "evaluate")):
        section, values = next(iter(change.items()))
        edit(folder, lambda p, section=section, values=values: p["cells"][TOUCHED][section].update(values))
        assert ran(dvc(folder, "repro", "--dry", "report@digits")) == [f"{stage}@{TOUCHED}"]
        subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=folder, check=True)


def test_experiment_with_one_value_reruns_that_row_only(pipeline):
    folder, _ = pipeline
    output = dvc(folder, "exp", "run", f"evaluate@{CELL}", "-S", f"cells.{CELL}.distill.ipc=2")
    assert sorted(ran(output)) == sorted([f"distill@{CELL}", f"evaluate@{CELL}"])
    shown = json.loads((folder / f"build/distill/digits/{CELL}/history.json").read_text())
    assert shown["cell"] == CELL
    subprocess.run(["git", "checkout", "-q", "."], cwd=folder, check=True)


def test_a_folder_of_pictures_goes_through_the_whole_pipeline(pipeline):
    """The README's recipe: two lines of dataset, one of preprocessing, a row."""
    folder, _ = pipeline
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (folder / "flowers" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 100, (12, 10, 3), np.uint8) + np.uint8(120 * label)
            Image.fromarray(pixels).save(folder / "flowers" / name / f"{i}.png")

    def change(params):
        params["datasets"]["flowers"] = {"folder": "flowers", "resolution": 8}
        params["preprocessing"]["flowers"] = {"dataset": "flowers", "zca": "frepo"}
        row = copy.deepcopy(params["cells"][CELL]) | {"dataset": "flowers", "preprocessing": "flowers"}
        row["distill"] |= {"real_batch": 16, "steps": 10, "watch_every": 0}
        params["cells"]["digits-frepo-flowers-ipc1"] = row

    edit(folder, change)
    dvc(folder, "repro", "evaluate@digits-frepo-flowers-ipc1")
    measured = json.loads((folder / "build/evaluate/digits/digits-frepo-flowers-ipc1.json").read_text())
    assert min(measured["nets"]["conv2-w32"]["distilled"]["accuracy"][0]) == 100.0
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=folder, check=True)


def distilled(folder):
    return hashlib.sha256((folder / f"build/distill/digits/{CELL}/seed0.safetensors").read_bytes()).hexdigest()


def started(folder, *args):
    return subprocess.Popen(["dvc", *args], cwd=folder, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def checkpoint_step(folder):
    """The step of the newest checkpoint of CELL's seed 0, or None."""
    from lib.files import load_state

    found = list((folder / ".checkpoints" / CELL).glob("*/seed0.safetensors"))
    return load_state(found[0])["progress"]["step"] if found else None


def kill_after(folder, steps, command):
    """Start a run, and SIGKILL it and its stages once its checkpoint is `steps` on."""
    before = checkpoint_step(folder) or 0
    process, deadline = started(folder, *command), time.monotonic() + 120
    while (checkpoint_step(folder) or 0) < before + steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, f"it ended before it could be killed: {process.stdout.read()[-2000:]}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_at_random_moments_it_ends_with_the_same_bits_as_a_forced_run_left_alone(pipeline):
    folder, _ = pipeline
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(steps=600, watch_every=300))
    target, lots = f"distill@{CELL}", random.Random(0)
    for _ in range(3):
        kill_after(folder, lots.randint(20, 150), ["repro", target])
    output = dvc(folder, "repro", target)
    interrupted = distilled(folder)
    assert "going on after step" in output
    assert not list((folder / ".checkpoints" / CELL).glob("*")), "success removes the checkpoints"

    kill_after(folder, 50, ["repro", "-f", "--single-item", target])
    assert checkpoint_step(folder) >= 50, "there is something that a forced run must not go on from"
    output = dvc(folder, "repro", "-f", "--single-item", target)
    assert "going on after step" not in output and distilled(folder) == interrupted


def test_two_runs_at_once_end_without_corruption(pipeline):
    folder, _ = pipeline
    edit(folder, lambda p: p["cells"][CELL]["evaluate"].update(nets=["kipconv2-w32"]))
    both = [started(folder, "repro", "report@digits") for _ in range(2)]
    outputs = [p.communicate(timeout=240)[0] for p in both]
    assert any(p.returncode == 0 for p in both), outputs
    assert all(p.returncode == 0 or "lock" in out.lower() for p, out in zip(both, outputs)), outputs
    assert "up to date" in dvc(folder, "repro", "report@digits")
    assert yaml.safe_load((folder / "dvc.lock").read_text())["stages"].keys() >= {f"evaluate@{CELL}", "report@digits"}


def test_bad_parameters_stop_a_stage_before_any_compute(pipeline):
    folder, _ = pipeline
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(ipc="ten"))
    began = time.monotonic()
    output = dvc(folder, "repro", f"distill@{CELL}", check=False)
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(ipc=1))
    assert f"error: params.yaml: cells.{CELL}.distill.ipc: found 'ten'; must be an integer" in output
    assert "Traceback" not in output and time.monotonic() - began < 60


def test_unknown_key_lists_the_known_ones(pipeline):
    done = subprocess.run([sys.executable, "-m", "stages.distill", "digits-frepo-digits-ipc3"], cwd=pipeline[0], env=ENV, capture_output=True, text=True)
    assert done.returncode == 1 and CELL in done.stderr and "Traceback" not in done.stderr
