"""The pipeline as a user runs it: the real dvc.yaml through real DVC, in a committed copy of the project, at toy size."""

import copy
import json
import re
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data.preprocess import Preprocess
from lib.data.real import load_arrays

from .toy import CELL, CELLS, CONTINUAL, MEMBERSHIP, TOUCHED, clone, commit, dvc, edit, ran, toy


@pytest.fixture(scope="module")
def pipeline(project, tmp_path_factory):
    """The toy suite, run once from a clean copy -> (folder, output of that run)."""
    folder = clone(project, tmp_path_factory.mktemp("pipeline") / "clone")
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
    assert f"| `{CELL}` |" in (pipeline[0] / "reports/README.md").read_text()


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


def test_a_set_of_somebody_is_judged_and_on_the_page(pipeline):
    """Class means of real digits, as a file of tensors; a row names it."""
    folder, _ = pipeline
    pixels, labels = load_arrays(folder / "data/prepared/digits", "train")
    x = Preprocess.load(folder / "data/preprocessing/digits.safetensors").apply(torch.tensor(pixels[:]) / 255)
    means = torch.stack([x[torch.tensor(labels) == c].mean(0) for c in range(10)])
    torch.save({"images": means, "labels": torch.arange(10)}, folder / "means.pt")
    row = {"dataset": "digits", "preprocessing": "digits", "file": "means.pt", "labels": "classes", "protocol": "digits-sgd", "nets": ["mlp"]}
    edit(folder, lambda p: p["given"].update(means=row))
    dvc(folder, "repro", "given@means")
    found = json.loads((folder / "reports/given/means.json").read_text())
    assert found["images"] == 10 and min(found["nets"]["mlp"]) > 50
    dvc(folder, "repro", "--single-item", "index")
    assert "means" in re.search(r'id="given".*?</table>', (folder / "reports/index.html").read_text(), re.DOTALL)[0]
    assert f"| `means` | digits | mlp | **{np.mean(found['nets']['mlp']):.1f}**" in (folder / "reports/README.md").read_text()
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
