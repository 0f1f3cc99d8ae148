"""What every stage does: parameters, paths, device, provenance, and errors as one message instead of a traceback."""

import datetime
import difflib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import torch

from lib.data.real import load_real
from lib.files import FileError
from lib.loop import NonFiniteLoss, Stopped
from lib.params import ParamsError, load_params
from lib.passes import keep_freed_memory
from lib.tracking import Tracker

ROOT = Path(os.environ.get("DVC_ROOT", ".")).resolve()  # the user's repository, also where DVC runs a stage in a temporary copy
PREPARED, PREPROCESSING = Path("data/prepared"), Path("data/preprocessing")
EXPERTS, DISTILLED, EVALUATED, REPORTS = Path("build/experts"), Path("build/distill"), Path("build/evaluate"), Path("reports")


def run(stage, table, key):
    """`stage(params, key)` for a key of params' `table`; None, None for a stage that takes no key."""
    try:
        params = load_params(only=key)
        if table and key not in (rows := getattr(params, table)):
            near = ", ".join(difflib.get_close_matches(key, rows, 9, 0.3) or list(rows)[:9])
            raise ParamsError(f"params.yaml: {table}: found {key!r}; must be one of its {len(rows)} keys, such as {near}")
        gc.enable()  # __main__.py turned it off
        stage(params, key)
    except (ParamsError, FileError, NonFiniteLoss, Stopped) as error:
        sys.exit(f"error: {error}")


def stop_on_signals():
    """An event that Ctrl-C and SIGTERM (a cluster's notice) set, for a run that stops after its next checkpoint."""
    event = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: event.set())
    return event


def device_of(params):
    """The torch device that params.runtime.device names."""
    wanted = params.runtime.device.replace("auto", "cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ParamsError(f"params.yaml: runtime.device: found {wanted!r}; no CUDA device is available here: use auto or cpu")
    torch.backends.cudnn.allow_tf32 = False  # a cell's float32 means float32
    keep_freed_memory()
    return torch.device(wanted)


def real_set(params, cell, device):
    """The cell's real data, preprocessed, on the device."""
    return load_real(PREPARED / cell.dataset, PREPROCESSING / f"{cell.preprocessing}.safetensors", device)


def provenance(device):
    """Where and with what a result was computed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    asks = (["git", "rev-parse", "--short=12", "HEAD"], ["git", "status", "--porcelain", "lib", "stages"])
    commit, edits = (subprocess.run(ask, capture_output=True, text=True, cwd=ROOT).stdout.strip() if shutil.which("git") else "" for ask in asks)
    commit = (commit or "unknown") + ("+edits" if edits else "")  # code that the commit does not hold
    return {"device": name, "commit": commit, "torch": torch.__version__, "date": datetime.date.today().isoformat()}


def tracker(stage, key, params, prov):
    """An MLflow run named after the stage's address."""
    tags = {"stage": stage, "cell": key, "git.commit": prov["commit"], "device": prov["device"]}
    for tag, variable in (("dvc.stage", "DVC_STAGE"), ("dvc.exp", "DVC_EXP_NAME"), ("dvc.exp.baseline", "DVC_EXP_BASELINE_REV")):
        tags |= {tag: os.environ[variable]} if variable in os.environ else {}
    return Tracker(ROOT, f"{stage}@{key}", tags, params)
