"""The command for a GPU, from end to end at toy size on a pretended one: what it packs, measures, and goes on from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.config.load import load_params
from lib.data.preprocess import fit
from lib.data.real import load_arrays
from lib.tensors import load_tensors

from .benchmarks import gpu
from .pretended import Pretended

CELL = "digits-frepo-digits-ipc1"
STEPS = (CELL, "digits-dm-digits-ipc1", "digits-dd-digits-ipc1")
MEASURED = (True, "float32", 3.0), (True, "bfloat16", 2.0), (False, "bfloat16", 1.0)
NAMES = ["frepo: learned labels", "dsa: all families", "mtt: exact", "protocol: sgd"]


@pytest.fixture
def packed(prepared, tmp_path, monkeypatch):
    """A packed cell of digits of 30 steps, in a folder that is the working one."""
    shutil.copytree(prepared("digits"), tmp_path / "data/prepared/digits")
    shutil.copy(Path(__file__).parent.parent / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/preprocessing").mkdir()
    pixels, _ = load_arrays("data/prepared/digits", "train")
    fit(load_params().preprocessing["digits"], pixels, {}).save("data/preprocessing/digits.safetensors")
    gpu.pack(".gpu", CELL, STEPS)
    settings = json.loads(Path(".gpu/settings.json").read_text())
    settings["run"]["distill"]["cell"]["distill"].update(steps=30, pool_size=2, real_batch=64)
    settings["run"]["evaluate"]["protocol"].update(steps=100)
    Path(".gpu/settings.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.mark.long
def test_parity_steps_and_a_run_that_goes_on(packed):
    with Pretended() as machine:
        recipe = json.loads(Path(".gpu/settings.json").read_text())["run"]
        first = gpu.go_on(Path(".gpu"), recipe, gpu.torch.device("cuda"), 0.0, "first.json", "float32")
        gpu.run(".gpu", "gpu.json", minutes=5, repeats=1, names=NAMES, size=32)
    assert machine.kernels
    found = json.loads(Path("gpu.json").read_text())
    assert all(difference < 1e-9 for difference in found["traces"].values()) and [*found["traces"]] == NAMES
    assert max(found["float32"].values()) < gpu.BOUNDS["float32"]
    assert set(found["steps"]) == set(STEPS) and set(found["rates"]) == {"float32", "bfloat16"}
    rows = [row for rows in found["steps"].values() for row in rows]
    assert all(row["seconds"] > 0 and row["least"] > 0 for row in rows)
    assert {(row["dtype"], row["graphs"]) for row in found["steps"][CELL]} == {
        (dtype, graphs) for dtype in ("float32", "tf32", "bfloat16") for graphs in (False, True)
    }
    last = found["run"]
    assert 0 < first["step"] < last["step"] == last["of"] == 30 and last["wall_s"] > first["wall_s"]
    assert set(last["accuracy"]) == set(load_params().cells[CELL].evaluate.nets)
    assert all(0 < each <= 100 for accuracy in last["accuracy"].values() for each in accuracy)
    assert set(load_tensors("set.safetensors")[0]) == {"x", "y"}


def test_a_trace_that_differs_or_fails_is_told(packed, monkeypatch):
    stored = gpu.traces.stored_traces()
    changed = {**stored, "dm: plain": [number * 1.01 for number in stored["dm: plain"]], "gone": [1.0]}
    monkeypatch.setattr(gpu.traces, "stored_traces", lambda: changed)
    with Pretended():
        found = gpu.parity_of_traces(gpu.torch.device("cuda"), ["dm: plain", "dm: augmented", "gone"])
    assert 1e-3 < found["dm: plain"] < 2e-2 and found["dm: augmented"] < 1e-9 and found["gone"].startswith("KeyError")


def test_the_long_run_takes_the_fastest_mode():
    rows = [{"graphs": graphs, "dtype": dtype, "seconds": took} for graphs, dtype, took in MEASURED]
    found = {"a-frepo-b": [*rows, {"graphs": True, "dtype": "tf32", "error": "full"}], "c-dm-d": rows[:1]}
    assert gpu.fastest(found) == ("bfloat16", False) and gpu.fastest({}) == ("float32", True)


def test_it_needs_neither_dvc_nor_mlflow_nor_tensorflow_datasets():
    absent = ("dvc", "mlflow", "tensorflow_datasets", "matplotlib", "jinja2", "ray", "rich")
    code = f"import sys\nfor name in {absent!r}: sys.modules[name] = None\nimport tests.benchmarks.gpu"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True)
