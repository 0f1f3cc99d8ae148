"""Experts, the cells that take them and their report through real DVC: digits, and pictures as ImageNet has them."""

import json
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from lib.config.load import load_params
from lib.config.recipes import write_plan
from lib.data.preprocess import Preprocess
from lib.data.real import load_arrays, manifest_of
from lib.files import FileError, read_json
from lib.records import Evaluation, Experts, History, SuiteResults, read_metrics, read_record
from lib.tensors import load_tensors
from lib.training.checkpoint import Checkpoint
from lib.training.trajectories import Trajectories
from stages.distilled import as_written
from tests import toy

CELL, ADAPTED = "digits-edf-digits-ipc1", "digits-dd-digits-ipc1-trained"


@pytest.fixture(scope="module")
def folder(project, tmp_path_factory):
    """A clone with one row of experts and two cells of it: EDF, and DD from trained networks that an attack turns."""
    folder = toy.untracked(toy.clone(project, tmp_path_factory.mktemp("experts") / "p"))

    def few(params):
        toy.keep_suites(params, "digits")
        dd = params["cells"]["digits-dd-digits-ipc1"]
        dd["distill"] |= {
            "start": "random",
            "seeds": [0],
            "steps": 20,
            "eval_every": 10,
            "attack": [3, 8],
            "net": "convnet2-w8-instance",
        }
        dd["evaluate"]["nets"] = ["convnet2-w8-instance"]
        cell = params["cells"][CELL]
        cell["distill"] |= {
            "seeds": [0],
            "steps": 6,
            "eval_every": 0,
            "inner_steps": 3,
            "max_start_first": 1,
            "max_start": 2,
            "expert_epochs": 1,
            "net": "convnet2-w8-instance",
        }
        cell["evaluate"]["nets"] = ["convnet2-w8-instance"]
        cell["baseline"] = None
        params["continual"], params["membership"] = {}, {}
        (scores,) = params["scores"].values()
        params["scores"] = {CELL: {**scores, "net": "convnet2-w8-instance", "kd_epochs": 5}}
        params["cells"] = {
            CELL: cell,
            ADAPTED: {**dd, "experts": "digits", "evaluate": {**dd["evaluate"], "baselines": True}},
        }
        params["experts"] = {
            "digits": {
                **params["experts"]["digits"],
                "net": "convnet2-w8-instance",
                "count": 4,
                "held_out": 1,
                "epochs": 2,
                "keep": 2,
                "together": 2,
            }
        }

    toy.edit(folder, few)
    toy.commit(folder)
    return folder


def test_experts_and_the_cells_of_them(folder):
    toy.dvc(folder, "repro", "report@digits")
    index = read_json(folder / "build/experts/digits/index.json")
    assert len(index["experts"]) == 4 and index["epochs"] == [0, 1, 2] and len(index["experts"][0]["test"]) == 2
    results = read_json(folder / "reports/digits/results.json")
    rows = {row["cell"]: row for row in results["rows"]}
    assert rows.keys() == {CELL, ADAPTED}
    tensors, _ = load_tensors(folder / f"build/distill/digits/{CELL}/seed0.safetensors")
    assert tensors["lr"].shape == (1, 1) and tensors["y"].sum(1).allclose(tensors["y"].new_ones(10)), (
        "a learned rate, soft labels"
    )
    names = rows[ADAPTED]["baselines"]
    assert {"untrained", "taken for the target, before", "taken for the target, after"} <= names.keys()
    path = f"build/evaluate/digits/{CELL}.scores.json"
    shown = json.loads(toy.dvc(folder, "metrics", "show", "--json", path))[""]["data"][path]["data"]
    (row,) = results["scores"]
    assert len(shown["scores"]) > 4
    assert shown == {"scores": pytest.approx({name: mean for name, (mean, _) in row["scores"].items()}, abs=0.06)}
    assert any(
        figure["file"] == "digits.experts.svg" and "4 of convnet2-w8-instance" in figure["caption"]
        for figure in results["figures"]
    )


def test_a_bit_that_changes_is_found_in_every_kind_of_file(folder, tmp_path, monkeypatch):
    """Read as stages read them, without DVC. A change that leaves the same values, as of a blank, has no effect."""
    monkeypatch.chdir(folder)
    prepared, cell = Path("data/prepared/digits"), Path(f"build/distill/digits/{CELL}")
    experts, judged = Path("build/experts/digits"), Path(f"build/evaluate/digits/{CELL}.json")
    checkpoint, state = Checkpoint(tmp_path / "seed0.safetensors", "me"), {"x": torch.arange(50.0), "step": 7}
    checkpoint.save(state)

    def weights(number):
        return lambda: Trajectories(experts).weights(number, -1).tolist()

    def resumed():
        if (found := checkpoint.load()) is None:
            raise FileError("set aside")
        return found["x"].tolist(), found["step"]

    def recipes():
        write_plan(load_params())
        return Path(f"build/plan/distill/{CELL}.json").read_bytes()

    readers = {
        checkpoint.path: resumed,
        cell / "seed0.safetensors": lambda: load_tensors(as_written(cell / "seed0.safetensors"))[0]["x"].tolist(),
        cell / "history.json": lambda: read_record(cell / "history.json", History),
        experts / "expert0002.safetensors": weights(2),
        experts / "index.json": lambda: read_record(experts / "index.json", Experts),
        prepared / "train_x.npy": lambda: load_arrays(prepared, "train")[0].tolist(),
        prepared / "test_y.npy": lambda: load_arrays(prepared, "test")[1].tolist(),
        prepared / "manifest.json": lambda: manifest_of(prepared),
        Path("data/preprocessing/digits.safetensors"): lambda: whitening(Path("data/preprocessing/digits.safetensors")),
        judged: lambda: read_metrics(judged, Evaluation),
        Path("reports/digits/results.json"): lambda: read_record(Path("reports/digits/results.json"), SuiteResults),
        Path(f"build/plan/distill/{CELL}.json"): recipes,
    }
    lots, seen = random.Random(0), {"found": 0, "without effect": 0}
    for path, read in readers.items():
        whole, right = path.read_bytes(), read()
        mode = path.stat().st_mode
        path.chmod(0o644)
        for _ in range(20):
            damaged = bytearray(whole)
            damaged[lots.randrange(len(whole))] ^= 1 << lots.randrange(8)
            path.unlink(missing_ok=True)  # not in place: others have the same file by another name
            path.write_bytes(damaged)
            try:
                assert read() == right, f"{path}: other values, and not a word"
                seen["without effect"] += 1
            except FileError:
                seen["found"] += 1
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
        path.chmod(mode)
    assert seen["found"] + seen["without effect"] == 240 and seen["found"] > 150, seen


def whitening(path):
    found = Preprocess.load(path)
    return found.mean.tolist(), found.std.tolist()


def test_lost_and_damaged_experts_are_trained_again_alone_to_the_same_bits(folder):
    """One of each group: the first is gone, of the other a bit has changed."""
    (done,) = (folder / ".checkpoints/digits").glob("*/done")
    before = (folder / "build/experts/digits/index.json").read_bytes()
    (done / "expert0001.safetensors").unlink()
    path = done / "expert0002.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.unlink()
    path.write_bytes(data)
    shutil.rmtree(folder / "build/experts/digits")
    times = {name: (done / f"expert000{name}.safetensors").stat().st_mtime_ns for name in (0, 3)}
    output = toy.stages(folder, "experts", "digits")
    assert "2 expert(s) are there; to train: [1, 2]" in output
    after = (folder / "build/experts/digits/index.json").read_bytes()
    assert after == before, "with its date: no cell of these experts has to run again"
    files = [expert["file"] for expert in json.loads(after)["experts"]]
    assert files == [f"expert000{i}.safetensors" for i in range(4)]
    assert times == {name: (done / f"expert000{name}.safetensors").stat().st_mtime_ns for name in (0, 3)}


def test_groups_in_parts_give_the_same_experts(folder):
    out = folder / "build/experts/digits"
    digests = [expert["sha256"] for expert in read_json(out / "index.json")["experts"]]
    shutil.rmtree(folder / ".checkpoints/digits")
    assert "to train: [2, 3]" in toy.stages(folder, "experts", "digits", "--part", "2/2")
    assert "to train: [0, 1]" in toy.stages(folder, "experts", "digits", "--part", "1/2")
    assert "4 expert(s) are there; to train: []" in toy.stages(folder, "experts", "digits")
    assert [expert["sha256"] for expert in read_json(out / "index.json")["experts"]] == digests


def test_more_experts_join_those_that_are_there(folder):
    before = read_json(folder / "build/experts/digits/index.json")["experts"]
    toy.edit(folder, lambda params: params["experts"]["digits"].update(count=6))
    output = toy.dvc(folder, "repro", "experts@digits")
    assert "4 expert(s) are there; to train: [4, 5]" in output
    after = read_json(folder / "build/experts/digits/index.json")["experts"]
    assert after[:4] == before and len(after) == 6
    assert "to distil: [0]" in toy.dvc(folder, "repro", f"distill@{CELL}"), "other experts, another set"
    toy.edit(folder, lambda params: params["experts"]["digits"].update(lr=0.04))
    assert "0 expert(s) are there; to train: [0, 1, 2, 3, 4, 5]" in toy.dvc(folder, "repro", "experts@digits")


def test_groups_on_two_devices_give_the_experts_of_one(folder):
    """Groups of two experts, both at once; here the second device is the first once more."""
    out = folder / "build/experts/digits"
    toy.dvc(folder, "repro", "--single-item", "experts@digits")
    weights = [load_tensors(out / f"expert000{i}.safetensors")[0]["weights"] for i in range(6)]
    curves = [expert["test"] for expert in read_json(out / "index.json")["experts"]]
    shutil.rmtree(folder / ".checkpoints/digits")
    code = "import stages.common as c, stages.experts as s; s.devices_of = lambda runtime: [s.device_of(runtime)] * 2; "
    code += "c.run(s.stage, 'experts', 'digits')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=toy.ENV, capture_output=True, text=True)
    assert done.returncode == 0 and "on 2 device(s)" in done.stdout, done.stderr[-2000:]
    index = read_json(out / "index.json")["experts"]
    assert [expert["test"] for expert in index] == curves and [expert["file"] for expert in index] == [
        f"expert000{i}.safetensors" for i in range(6)
    ]
    for i, before in enumerate(weights):
        assert load_tensors(out / f"expert000{i}.safetensors")[0]["weights"].allclose(before, atol=1e-5)


def test_real_pictures_in_imagenets_layout(archives, project, tmp_path, monkeypatch):
    with tarfile.open(archives / "imagenette/imagenette2-224-subset.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.setitem(toy.ENV, "DISTILLERY_IMAGENET", str(tmp_path / "imagenette2-224"))
    folder, key = toy.untracked(toy.clone(project, tmp_path / "p")), "edf-edf-in1k_imagenette-ipc1"

    def few(params):
        toy.keep_suites(params, "edf")
        cell = params["cells"][key]
        cell["distill"] |= {
            "net": "convnet2-w8-instance",
            "steps": 3,
            "inner_steps": 3,
            "judge": "experts",
            "eval_at": None,
            "eval_every": 0,
            "select": "last",
        }
        cell["distill"] |= {"max_start_first": 1, "max_start": 2, "expert_epochs": 1, "threshold": 9.0}
        cell["evaluate"]["nets"] = ["convnet2-w8-instance"]
        params["datasets"]["in1k_imagenette"]["resolution"] = 16
        params["cells"], params["scores"] = {key: cell}, {}
        params["experts"] = {
            "in1k_imagenette-flat": {
                **params["experts"]["in1k_imagenette-flat"],
                "net": "convnet2-w8-instance",
                "count": 2,
                "together": 2,
                "epochs": 2,
                "keep": 2,
                "lr": 0.2,
                "batch": 32,
            }
        }
        for name in ("edf-1000", "during-edf"):
            params["protocols"][name] |= {"epochs": 5, "num_nets": 1}

    toy.edit(folder, few)
    toy.dvc(folder, "repro", "report@edf")
    (row,) = read_json(folder / "reports/edf/results.json")["rows"]
    assert row["published_mean"] is None, "the published figure is of a network of width 128"
    assert row["seeds"] == [0] and (folder / f"reports/edf/{key}.png").exists()
    lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    assert f"evaluate@{key}" in lock and json.dumps(lock).count("in1k_imagenette-flat") >= 3
