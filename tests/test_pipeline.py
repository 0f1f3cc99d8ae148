"""The pipeline as a user runs it: the real dvc.yaml through real DVC, in a committed copy of the project, toy size."""

import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data.preprocess import Preprocess
from lib.data.real import load_arrays
from lib.records import Evaluation, External, read_metrics

from .toy import CELL, CELLS, CONTINUAL, ENV, MEMBERSHIP, TOUCHED, clone, copied, dvc, edit, ran, toy, untracked
from .toy import stages as run_stages
from .toy import states as states_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pipeline(finished, tmp_path_factory):
    """The toy suite, run once from a clean copy -> (folder, output of that run)."""
    return copied(finished[0], tmp_path_factory.mktemp("pipeline") / "copy"), finished[1]


def test_clean_copy_runs_every_stage_of_the_suite_and_of_no_other(pipeline):
    folder, output = pipeline
    assert sorted(ran(output)) == sorted(
        [
            "plan",
            "prepare@digits",
            "whiten@digits",
            "report@digits",
            f"continual@{CONTINUAL}",
            f"membership@{MEMBERSHIP}",
        ]
        + [f"{stage}@{key}" for stage in ("distill", "evaluate") for key in CELLS]
    )
    results = json.loads((folder / "reports/digits/results.json").read_text())
    assert {row["cell"] for row in results["rows"]} == set(CELLS)
    assert all(0 < row["accuracy_mean"] <= 100 for row in results["rows"])
    memories = {row["memory"]: row["mean"] for row in results["continual"]}
    assert list(memories) == ["distilled", "random", "herding", "blocked"]
    assert memories["distilled"] != memories["blocked"], "the same images in another order"
    attacked = [(row["trained_on"], row["updates"]) for row in results["membership"]]
    assert attacked == [(kind, updates) for kind in ("distilled", "initial", "real") for updates in (10, 20)]
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


def test_list_and_show_say_what_is_there_of_a_cell(pipeline):
    folder, suite = pipeline[0], ("--suite", "digits")
    assert states_of(folder, *suite) == dict.fromkeys(CELLS, "evaluated")
    rows = json.loads((folder / "reports/digits/results.json").read_text())["rows"]
    (row,) = [row for row in rows if row["cell"] == CELL]
    measured = f"{row['accuracy_mean']:.1f} ± {row['accuracy_std']:.1f}"
    shown = run_stages(folder, "show", CELL)
    assert f"\nmeasured: conv2-w32 {measured} %, 3 network(s) a seed, seed(s) 0;" in shown
    assert "\nstate: evaluated\n" in shown and f"\nrun: dvc repro evaluate@{CELL}\n" in shown
    assert "pool_size: 2" in shown and "krr_dtype: float32" in shown and "cost: " in shown, "a row's value, a default"

    def differ(params):  # a rate, a network more, a seed more
        params["cells"][MEMBERSHIP]["distill"]["outer_lr"] = 2.0e-3
        params["cells"][TOUCHED]["evaluate"]["nets"] = ["conv2-w32", "mlp"]
        params["cells"][CELL]["distill"]["seeds"] = [0, 1]

    edit(folder, differ)
    (folder / f"build/evaluate/digits/{CONTINUAL}.json").unlink()
    wanted = {CELL: "partly: 1 of 2 seeds", TOUCHED: "stale", MEMBERSHIP: "stale", CONTINUAL: "distilled"}
    assert states_of(folder, *suite) == wanted
    assert states_of(folder, *suite, "--state", "stale", "--method", "isa") == {TOUCHED: "stale"}
    undo(folder)
    dvc(folder, "checkout", f"evaluate@{CONTINUAL}")
    path = folder / "lib/methods/isa.py"
    path.write_text(path.read_text().replace("epsilon**2 / 3", "epsilon**2 / 4"))
    assert states_of(folder, *suite) == {**dict.fromkeys(CELLS, "evaluated"), TOUCHED: "stale"}
    undo(folder)


def numbers(node):
    """The values of nested dictionaries, which must all be single numbers, by their names in DVC's tables."""
    found = {}
    for key, value in node.items():
        found |= {f"{key}.{name}": v for name, v in numbers(value).items()} if isinstance(value, dict) else {key: value}
    return found


def metrics_of(folder, path):
    """{file: {name: number}} as `dvc metrics show` has them."""
    shown = json.loads(dvc(folder, "metrics", "show", "--json", path))[""]["data"]
    return {Path(name).name: numbers(each["data"]) for name, each in shown.items()}


def test_dvc_shows_single_numbers_of_every_kind_of_evaluation(pipeline):
    shown = metrics_of(pipeline[0], "build/evaluate/digits")
    applications = (f"{CONTINUAL}.continual.json", f"{MEMBERSHIP}.membership.json")
    assert shown.keys() == {*(f"{key}.json" for key in CELLS), *applications}
    assert all(type(value) in (int, float) for names in shown.values() for value in names.values())
    kinds = {f"accuracy.conv2-w32.{kind}" for kind in ("distilled", "real_subset")}
    assert all(shown[f"{key}.json"].keys() == kinds for key in CELLS)
    memories = ("distilled", "random", "herding", "blocked")
    assert shown[applications[0]].keys() == {f"{name}.{m}" for name in ("accuracy", "forgetting") for m in memories}
    assert {f"accuracy.{kind}" for kind in ("distilled", "initial", "real")} < shown[applications[1]].keys()
    assert "auc.real.lira_offline" in shown[applications[1]]
    results = json.loads((pipeline[0] / "reports/digits/results.json").read_text())["continual"]
    at_the_end = {row["memory"]: row["mean"][-1] for row in results}
    assert at_the_end == {memory: shown[applications[0]][f"accuracy.{memory}"] for memory in memories}


def test_runs_are_tracked_with_their_addresses(pipeline):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline[0] / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("distillery").experiment_id])
    tags = {run.info.run_name: run.data.tags for run in runs}
    assert f"distill@{CELL}" in tags and tags[f"distill@{CELL}"]["dvc.stage"] == f"distill@{CELL}"
    assert re.fullmatch(r"[0-9a-f]{12}", tags[f"evaluate@{CELL}"]["git.commit"])


@pytest.mark.long
def test_a_report_keeps_results_of_another_clone_while_their_recipes_hold(pipeline):
    """Of a cell whose set and accuracies are not here; its neighbours' stay measured here."""
    folder, again = pipeline[0], ("repro", "--force", "--single-item", "report@digits")
    path, gone = folder / "reports/digits/results.json", [*(folder / "build").glob(f"*/digits/{CONTINUAL}*")]
    before, gone = json.loads(path.read_text()), [*gone, folder / ".checkpoints" / CONTINUAL]
    assert len(gone) == 4, "a set, its accuracies, an application, what is kept of the run"
    away = [folder / "away" / str(number) for number, _ in enumerate(gone)]
    away[0].parent.mkdir()
    for here, there in zip(gone, away):
        here.rename(there)
    assert "left out" not in dvc(folder, *again)
    after = json.loads(path.read_text())
    assert {name: after[name] for name in after if name not in ("provenance", "digest")} == {
        name: before[name] for name in before if name not in ("provenance", "digest")
    }
    assert all((path.parent / figure["file"]).is_file() for figure in after["figures"])
    assert {"evaluated", "evaluated: in reports/"} == {*states_of(folder, "--suite", "digits").values()}

    method = folder / "lib/methods/frepo.py"
    method.write_text(method.read_text().replace("final_fraction", "last_fraction"))
    assert states_of(folder, "--suite", "digits")[CONTINUAL] == "stale: in reports/"
    accepted = run_stages(folder, "accept")
    assert f"without their data, which are not here: distill@{CONTINUAL}\n" in accepted, accepted
    assert f"distill@{CELL}" in accepted.rpartition("accepted: ")[2], accepted
    assert states_of(folder, "--suite", "digits")[CONTINUAL] == "evaluated: in reports/"

    edit(folder, lambda p: p["cells"][CONTINUAL]["distill"].update(outer_lr=3.0e-3))
    assert states_of(folder, "--suite", "digits")[CONTINUAL] == "stale: in reports/"
    assert f"distill@{CONTINUAL}" not in run_stages(folder, "accept"), "a changed value is no change of form"
    dvc(folder, "repro", "--single-item", "plan")
    output = dvc(folder, *again)
    for stage in ("evaluate", "continual"):
        assert f"left out: the result of {stage}@{CONTINUAL} in reports/digits: it is of another recipe" in output
    left = json.loads(path.read_text())
    assert {row["cell"] for row in left["rows"]} == {*CELLS} - {CONTINUAL} and left["continual"] == []
    assert not [*path.parent.glob(f"{CONTINUAL}*")], "its pictures go with it"
    for here, there in zip(gone, away):
        there.rename(here)
    undo(folder)
    run_stages(folder, "accept")
    dvc(folder, "repro", "report@digits")


@pytest.mark.long
def test_changing_a_row_touches_that_rows_stages_only(pipeline):
    """And what was computed before comes out of DVC's cache when the change is taken back."""
    folder, _ = pipeline

    def change(params):  # of one row a rate, of another one a network that judges it
        params["cells"][TOUCHED]["distill"]["outer_lr"] = 2.0e-3
        params["cells"][CONTINUAL]["evaluate"]["nets"] = ["conv2-w32", "mlp"]

    edit(folder, change)
    output = dvc(folder, "repro", *(f"evaluate@{key}" for key in CELLS))
    assert sorted(ran(output)) == ["distill@" + TOUCHED, *sorted(f"evaluate@{k}" for k in (TOUCHED, CONTINUAL)), "plan"]
    undo(folder)
    output = dvc(folder, "repro", "report@digits")
    assert set(ran(output)) <= {"plan", "report@digits"}, output


def undo(folder):
    """Take edits back."""
    subprocess.run(["git", "checkout", "-q", "."], cwd=folder, check=True)


def test_another_clone_is_handed_the_results(pipeline, project, tmp_path):
    """A local remote: what is pushed with the run cache is not computed again, though the clone has no dvc.lock."""
    folder, _ = pipeline
    other = untracked(clone(project, tmp_path / "other"))
    for each in (folder, other):
        dvc(each, "remote", "add", "--default", "store", str(tmp_path / "store"), "--local")
    dvc(folder, "push", "--run-cache")
    edit(other, toy)
    dvc(other, "fetch", "--run-cache")
    output = dvc(other, "repro", "--pull", "report@digits")
    assert set(ran(output)) == {"plan", "report@digits"}, output
    for path in (folder / "build/distill/digits").rglob("seed*"):
        assert (other / path.relative_to(folder)).read_bytes() == path.read_bytes()
    results = [json.loads((each / "reports/digits/results.json").read_text()) for each in (folder, other)]
    assert results[0] == results[1]


def test_words_and_forms_of_the_code_run_plan_alone(pipeline):
    """A comment in every file, a docstring and formatting; then what is added: a network, a protocol, a row."""
    folder, _ = pipeline
    for path in [*(folder / "lib").rglob("*.py"), *(folder / "stages").rglob("*.py")]:
        path.write_text(path.read_text() + "# a remark\n")
    path = folder / "lib/methods/frepo.py"
    path.write_text(path.read_text().replace('"""', '"""In other words: ', 1).replace("x, y = ", "x,   y = "))
    assert ran(dvc(folder, "repro", "report@digits")) == ["plan"]

    code = "from . import ARCHITECTURES\nfrom .classic import mlp\n\n\n@ARCHITECTURES.register"
    code += "(scalable=False, text=False, options={})\n"
    code += "def mine(in_shape, num_classes):\n    return mlp(in_shape, num_classes)\n"
    (folder / "lib/networks/mine.py").write_text(code)

    def add(params):
        params["protocols"]["mine"] = params["protocols"]["digits"]
        row = params["cells"]["ablation-frepo-digits-ipc1"]
        params["cells"]["ablation-frepo-digits-ipc1-mine"] = {**row, "evaluate": {"protocol": "mine", "nets": ["mine"]}}

    edit(folder, add)
    assert ran(dvc(folder, "repro", "report@digits")) == ["plan"]
    (folder / "lib/networks/mine.py").unlink()
    undo(folder)


def test_a_change_of_form_is_accepted_a_changed_value_is_not(pipeline):
    folder, _ = pipeline
    path = folder / "lib/methods/isa.py"
    path.write_text(path.read_text().replace("difference", "delta"))
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(outer_lr=3.0e-3))
    command = [sys.executable, "-m", "stages", "accept"]
    done = subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0 and f"accepted: distill@{TOUCHED}\n" in done.stdout, done.stdout + done.stderr
    output = dvc(folder, "repro", "--dry", "report@digits")
    assert ran(output) == [f"distill@{CELL}", f"evaluate@{CELL}", "report@digits"]
    undo(folder)


@pytest.mark.long
def test_a_changed_formula_runs_what_it_changes(pipeline):
    folder, _ = pipeline
    path = folder / "lib/methods/isa.py"
    path.write_text(path.read_text().replace("epsilon**2 / 3", "epsilon**2 / 4"))
    stages = [f"distill@{TOUCHED}", f"evaluate@{TOUCHED}", "report@digits"]
    assert ran(dvc(folder, "repro", "report@digits")) == ["plan", *stages]
    undo(folder)


@pytest.mark.long
def test_dvc_shows_what_an_experiment_changed_and_what_came_of_it(pipeline):
    folder, _ = pipeline
    target, key, means = f"evaluate@{CELL}", f"cells.{CELL}.distill.ipc", f"build/evaluate/digits/{CELL}.json"
    output = dvc(folder, "exp", "run", target, "-n", "two", "-S", f"{key}=2")
    assert ran(output) == ["plan", f"distill@{CELL}", target]
    assert json.loads((folder / f"build/distill/digits/{CELL}/history.json").read_text())["cell"] == CELL
    (line,) = [line for line in dvc(folder, "params", "diff").splitlines() if "ipc" in line]
    assert key in line and line.split()[-2:] == ["1", "2"]
    shown = json.loads(dvc(folder, "metrics", "show", "--json", means))[""]["data"][means]["data"]
    accuracy = np.mean(read_metrics(folder / means, Evaluation)["nets"]["conv2-w32"]["distilled"]["accuracy"])
    assert shown.keys() == {"accuracy"} and shown["accuracy"]["conv2-w32"].keys() == {"distilled", "real_subset"}
    assert abs(shown["accuracy"]["conv2-w32"]["distilled"] - accuracy) < 0.006
    assert "accuracy.conv2-w32.distilled" in dvc(folder, "metrics", "diff")
    readme = (ROOT / "README.md").read_text()
    command = shlex.split(re.search(r"^dvc (exp show .*)$", readme, re.MULTILINE)[1])
    table = dvc(folder, *command, "--csv")
    header, *rows = [line.split(",") for line in table.splitlines() if line.count(",") > 3]
    assert any(key in name for name in header) and any("accuracy.conv2-w32.distilled" in name for name in header)
    assert len(header) < 40 and any("two" in row for row in rows), header
    undo(folder)


def test_a_set_of_somebody_is_judged_and_on_the_page(pipeline):
    """Class means of real digits, as a file of tensors; a row names it."""
    folder, _ = pipeline
    pixels, labels = load_arrays(folder / "data/prepared/digits", "train")
    x = Preprocess.load(folder / "data/preprocessing/digits.safetensors").apply(torch.tensor(pixels[:]) / 255)
    means = torch.stack([x[torch.tensor(labels) == c].mean(0) for c in range(10)])
    torch.save({"images": means, "labels": torch.arange(10)}, folder / "means.pt")
    row = {
        "dataset": "digits",
        "preprocessing": "digits",
        "file": "means.pt",
        "label_file": "means.pt",
        "labels": "classes",
        "protocol": "digits-sgd",
        "nets": ["mlp"],
    }
    edit(folder, lambda p: p["external"].update(means=row))
    dvc(folder, "repro", "external@means")
    found = read_metrics(folder / "reports/external/means.json", External)
    assert found["images"] == 10 and min(found["nets"]["mlp"]) > 50
    mean = round(np.mean(found["nets"]["mlp"]), 2)
    assert metrics_of(folder, "reports/external")["means.json"] == {"accuracy.mlp": mean}
    dvc(folder, "repro", "--single-item", "index")
    assert "means" in re.search(r'id="external".*?</table>', (folder / "reports/index.html").read_text(), re.DOTALL)[0]
    assert (
        f"| `means` | digits | mlp | **{np.mean(found['nets']['mlp']):.1f}**"
        in (folder / "reports/README.md").read_text()
    )
    undo(folder)


@pytest.mark.long
def test_a_suite_of_ones_own_is_on_the_page_or_it_is_said_that_it_is_not(pipeline):
    folder, key = pipeline[0], "mine-frepo-digits-ipc1"

    def add(params):
        params["suites"].append("mine")
        params["cells"][key] = copy.deepcopy(params["cells"][CELL]) | {"suite": "mine"}

    edit(folder, add)
    output = dvc(folder, "repro", f"evaluate@{key}")
    assert "plan: reports/mine is not among index's deps in dvc.yaml" in output
    page = ("repro", "--force", "--single-item", "index")  # `make report`
    assert f"not on the page: {key}; `dvc repro --single-item report@mine`, then `make report`" in dvc(folder, *page)
    dvc(folder, "repro", "report@mine")
    assert "not on the page" not in dvc(folder, *page)
    assert f"| `{key}` |" in (folder / "reports/README.md").read_text()
    undo(folder)


def test_a_folder_of_pictures_goes_through_the_whole_pipeline(pipeline):
    """The README's recipe: two lines of dataset, one of preprocessing, a row."""
    folder, _ = pipeline
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (folder / "flowers" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 20, (12, 10, 3), np.uint8) + np.uint8(120 * label)
            Image.fromarray(pixels).save(folder / "flowers" / name / f"{i}.png")

    def change(params):
        params["datasets"]["flowers"] = {"folder": "flowers", "resolution": 8}
        params["preprocessing"]["flowers"] = {"dataset": "flowers", "zca": "frepo"}
        row = copy.deepcopy(params["cells"][CELL]) | {"dataset": "flowers", "preprocessing": "flowers"}
        row["distill"] |= {"real_batch": 16, "steps": 10, "eval_every": 0}
        params["cells"]["digits-frepo-flowers-ipc1"] = row

    edit(folder, change)
    dvc(folder, "repro", "evaluate@digits-frepo-flowers-ipc1")
    measured = read_metrics(folder / "build/evaluate/digits/digits-frepo-flowers-ipc1.json", Evaluation)
    assert min(measured["nets"]["conv2-w32"]["distilled"]["accuracy"][0]) == 100
    undo(folder)
