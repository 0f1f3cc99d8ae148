"""What every stage does: recipe, paths, provenance, tracking, and errors as one message instead of a traceback."""

import datetime
import gc
import os
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

from lib.config.settings import PLAN, Settings, read_recipe
from lib.files import read_json
from lib.tracking import Tracker

from .process import alone, errors_in_words, full_memory_in_words, key_of

ROOT = Path(os.environ.get("DVC_ROOT", ".")).resolve()  # the user's repository, also where DVC runs a copy of it
PREPARED, PREPROCESSING = Path("data/prepared"), Path("data/preprocessing")
EXPERTS, DISTILLED, EVALUATED = (Path("build") / name for name in ("experts", "distill", "evaluate"))
REPORTS = Path("reports")
WHOLE = ("plan", "accept", "list", "show", "table", "fanout")
RECIPES = {"cost": "report", "complexity": "prepare", "export": "evaluate"}  # whose they read


def run(stage, name, key=None, **options):
    """`stage(recipe, runtime)` for the recipe of this name and key. DVC has run `plan`; by hand, it is run here.

    Those of WHOLE need no recipe, and leave the plan as it is, which `accept` compares with. Those of
    RECIPES are no stages of DVC's and read the recipes of one.
    """
    with errors_in_words():
        if name in WHOLE:
            return stage(**options, **({"key": key} if key else {}))
        if "DVC_STAGE" not in os.environ:  # a stage that is run by hand
            from .plan import stage as plan

            plan()
        key = key or key_of(name)
        recipe, runtime = read_recipe(RECIPES.get(name, name), key), Settings.of(read_json(PLAN / "runtime.json"))
        runtime = runtime.changed(**{key: own_path(getattr(runtime, key)) for key in ("archives", "imagenet_dir")})
        gc.enable()  # __main__.py turned it off
        share = f" part {'-'.join(map(str, options['part']))}" if options.get("part") else ""
        with alone(name, key + share) if name not in RECIPES else nullcontext(), full_memory_in_words(f"{name}@{key}"):
            return stage(recipe, runtime, **options)


def own_path(path):
    """A path of params.yaml, or None; relative ones begin at the user's repository, also where DVC runs a copy."""
    return path and str(ROOT / Path(path).expanduser())


def provenance(device):
    """Where and with what a result was computed."""
    import torch  # seconds, of which index and table have no need

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    asks = (["git", "rev-parse", "--short=12", "HEAD"], ["git", "status", "--porcelain", "lib", "stages"])
    commit, edits = (
        subprocess.run(ask, capture_output=True, text=True, cwd=ROOT).stdout.strip() if shutil.which("git") else ""
        for ask in asks
    )
    commit = (commit or "unknown") + ("+edits" if edits else "")  # code that the commit does not hold
    return {"device": name, "commit": commit, "torch": torch.__version__, "date": datetime.date.today().isoformat()}


def tracker(stage, key, settings, prov):
    """An MLflow run named after the stage's address; settings: those that a person compares runs by."""
    tags = {"stage": stage, "cell": key, "git.commit": prov["commit"], "device": prov["device"]}
    variables = (("dvc.stage", "DVC_STAGE"), ("dvc.exp", "DVC_EXP_NAME"), ("dvc.exp.baseline", "DVC_EXP_BASELINE_REV"))
    tags |= {tag: os.environ[variable] for tag, variable in variables if variable in os.environ}
    return Tracker(ROOT, f"{stage}@{key}", tags, settings)
