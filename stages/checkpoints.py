"""Where a cell's checkpoints are, and when a run must not go on from them."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from lib.files import sha256

from .common import PREPARED, PREPROCESSING, ROOT

CHECKPOINTS = ROOT / ".checkpoints"  # outside of DVC's outputs, which it deletes before a stage runs

NEUTRAL = ("lib.tracking", "lib.cost", "lib.report", "lib.params", "lib.schema")  # code that cannot change a result


def checkpoint_folder(key, cell):
    """Where this cell's checkpoints are: a folder named by all that its result depends on, so that no other run finds them.

    Under `dvc repro --force` it is emptied first: a forced run starts anew.
    """
    code = {n: sha256(m.__file__) for n, m in sys.modules.items() if n.startswith("lib.") and not n.startswith(NEUTRAL)}
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
