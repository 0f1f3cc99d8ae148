"""What every stage does: parameters, paths, device, provenance, and errors as one message instead of a traceback."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from lib.data.real import load_real
from lib.files import FileError, sha256
from lib.loop import NonFiniteLoss
from lib.params import ParamsError, load_params
from lib.tracking import Tracker

ROOT = Path(os.environ.get("DVC_ROOT", "."))  # the user's repository, also where DVC runs a stage in a temporary copy
CHECKPOINTS = ROOT / ".checkpoints"
PREPARED, PREPROCESSING = Path("data/prepared"), Path("data/preprocessing")
DISTILLED, EVALUATED, REPORTS = Path("build/distill"), Path("build/evaluate"), Path("reports")


def main(stage, table):
    """Run `stage(params, key)` for the key given on the command line, which must be in params' `table`."""
    parser = argparse.ArgumentParser(prog=f"python -m {stage.__module__}" if stage.__module__ != "__main__" else None, description=stage.__doc__)
    parser.add_argument("key", help=f"a key of `{table}` in params.yaml")
    key = parser.parse_args().key
    try:
        params = load_params()
        rows = getattr(params, table)
        if key not in rows:
            raise ParamsError(f"params.yaml: {table}: found {key!r}; must be one of {', '.join(rows)}")
        stage(params, key)
    except (ParamsError, FileError, NonFiniteLoss) as error:
        sys.exit(f"error: {error}")


def device_of(params):
    """The torch device that params.runtime.device names."""
    wanted = params.runtime.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ParamsError(f"params.yaml: runtime.device: found {wanted!r}; no CUDA device is available here: use auto or cpu")
    return torch.device(wanted)


def real_set(params, cell, device):
    """The cell's real data, preprocessed, on the device."""
    return load_real(PREPARED / cell.dataset, PREPROCESSING / f"{cell.preprocessing}.safetensors", device)


def provenance(device):
    """Where and with what a result was computed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    git = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return {"device": name, "commit": git.stdout.strip() or "unknown", "torch": torch.__version__}


def tracker(stage, key, params, prov):
    """An MLflow run named after the stage's address."""
    tags = {"stage": stage, "cell": key, "git.commit": prov["commit"], "device": prov["device"]}
    for tag, variable in (("dvc.stage", "DVC_STAGE"), ("dvc.exp", "DVC_EXP_NAME"), ("dvc.exp.baseline", "DVC_EXP_BASELINE_REV")):
        tags |= {tag: os.environ[variable]} if variable in os.environ else {}
    return Tracker(ROOT, f"{stage}@{key}", tags, params)


def checkpoint_folder(key, cell):
    """Where this cell's checkpoints are: a folder named by all that its result depends on, so that no other run finds them.

    Under `dvc repro --force` it is emptied first: a forced run starts anew.
    """
    code = {n: sha256(m.__file__) for n, m in sys.modules.items() if n.startswith("lib.") and n != "lib.tracking"}
    data = {str(p): sha256(p) for p in (PREPARED / cell.dataset / "manifest.json", PREPROCESSING / f"{cell.preprocessing}.safetensors")}
    identity = json.dumps([asdict(cell), sorted(code.items()), data, torch.__version__])
    folder = CHECKPOINTS / key / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if forced():
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def forced():
    """Whether a DVC command with --force started this stage; DVC itself does not tell its stages."""
    if "DVC_STAGE" not in os.environ:
        return False
    import psutil

    for parent in psutil.Process().parents():
        words = parent.cmdline()
        if any(Path(w).name == "dvc" for w in words[:3]) and ("repro" in words or "exp" in words):
            return any(w == "--force" or (w.startswith("-") and not w.startswith("--") and "f" in w) for w in words)
    return False
