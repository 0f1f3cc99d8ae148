"""After a change of form that changed no number (`make golden`): keep what the code computed before it."""

import hashlib
import json
import subprocess

from lib.config.load import load_params
from lib.config.recipes import recipes, write_plan
from lib.config.settings import PLAN, ParamsError, Settings
from lib.files import read_json, read_yaml

from .identity import identity, inputs_of_cell, inputs_of_experts, rename

INPUTS = {"distill": inputs_of_cell, "experts": inputs_of_experts}


def stage():
    """Commit to dvc.lock the stages whose recipes differ in the code's fingerprint alone; others stay stale."""
    params, lock = load_params(), read_yaml("dvc.lock")["stages"]
    planned, accepted, unknown = recipes(params), [], []
    for address, entry in lock.items():
        name, _, key = address.partition("@")
        path = PLAN / name / f"{key or 'all'}.json"
        recipe = planned.get(name, {}).get(key or "all")
        recorded = [dep["md5"] for dep in entry["deps"] if dep["path"] == path.as_posix()]
        if recipe is None or not recorded:
            continue
        if not path.is_file() or hashlib.md5(path.read_bytes()).hexdigest() != recorded[0]:
            unknown.append(address)
            continue
        old, new = read_json(path), json.loads(json.dumps(recipe))
        if old != new and {**old, "code": None} == {**new, "code": None}:
            accepted.append(address)
            if name in INPUTS:
                rename(key, *(identity(*INPUTS[name](Settings.of(each))) for each in (old, new)))
    if unknown:
        raise ParamsError(
            f"{', '.join(unknown)}: the recipe in {PLAN} is not the one of dvc.lock, so that nothing tells what has "
            "changed; check out the code and params.yaml of the last run, run `python -m stages plan`, and come back"
        )
    write_plan(params)
    if accepted:
        subprocess.run(["dvc", "repro", "--single-item", "plan"], check=True)
        subprocess.run(["dvc", "commit", "--force", *accepted], check=True)
    print(f"accepted: {', '.join(accepted) or 'nothing; no recipe differs in its code alone'}")
