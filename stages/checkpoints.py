"""Where a cell's checkpoints are, when a run must not go on from them, and which of its seeds need no run."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from lib.files import read_json, sha256

from .common import PREPARED, PREPROCESSING, ROOT

CHECKPOINTS = ROOT / ".checkpoints"  # outside of what DVC hashes and keeps

NEUTRAL = ("lib.tracking", "lib.cost", "lib.report", "lib.params", "lib.schema")  # code that cannot change a result


def checkpoint_folder(key, row, *further):
    """Where the checkpoints of a row (a cell's or experts') are: a folder named by all that its result depends on, so that no other run finds them.

    further: what else it depends on, as JSON. Under `dvc repro --force` it is emptied first: a forced run starts anew.
    """
    code = {n: sha256(m.__file__) for n, m in sys.modules.items() if n.startswith("lib.") and not n.startswith(NEUTRAL)}
    data = {str(p): sha256(p) for p in (PREPARED / row.dataset / "manifest.json", PREPROCESSING / f"{row.preprocessing}.safetensors")}
    identity = json.dumps([asdict(row), further, sorted(code.items()), data, torch.__version__])
    folder = CHECKPOINTS / key / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if forced():
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept_seeds(out, seeds, identity):
    """The records in history.json of those of `seeds` that were distilled by the same settings, code and data -> {seed: record}.

    Every other file of `out` is removed. Under `dvc repro --force` nothing is kept.
    """
    path, kept = out / "history.json", {}
    if path.exists() and not forced() and (found := read_json(path)).get("identity") == identity:
        for seed, own in found["seeds"].items():
            if int(seed) in seeds and all((out / name).is_file() and sha256(out / name) == checksum for name, checksum in own["files"].items()):
                kept[seed] = own
    for other in out.glob("*"):
        if other.stem.removesuffix("-best").removeprefix("seed") not in kept and (not kept or other != path):
            other.unlink()
    return kept


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
