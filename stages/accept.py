"""After a change of form that changed no number (`make golden`): keep what the code computed before it."""

import hashlib
import json
import subprocess

from lib.config.load import load_params
from lib.config.recipes import recipes, text_of, write_plan
from lib.config.settings import PLAN, ParamsError, Settings
from lib.files import read_yaml

from .identity import identities, identity, inputs_of_experts, rename
from .lock import commit_without_data, unchanged_before

# Of a recipe: the names that what is kept of its runs may have.
NAMES = {"distill": identities, "experts": lambda recipe: [identity(*inputs_of_experts(recipe))]}
ABSENT = "is deleted", "is not in cache"  # as DVC says of data that are in no reach


def stage():
    """Commit to dvc.lock the stages that differ in their command or their code's fingerprint alone; no other."""
    params, lock = load_params(), read_yaml("dvc.lock")["stages"]
    planned, same, unknown = recipes(params), {}, []
    for address, entry in lock.items():
        name, _, key = address.partition("@")
        path = PLAN / name / f"{key or 'all'}.json"
        recipe = planned.get(name, {}).get(key or "all")
        recorded = [dep["md5"] for dep in entry["deps"] if dep["path"] == path.as_posix()]
        if recipe is None or not recorded:
            continue
        texts = [text_of(recipe), path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""]
        found = [json.loads(text) for text in texts if hashlib.md5(text.encode()).hexdigest() in recorded]
        if not found:
            unknown.append(address)
        elif {**found[0], "code": None} == {**json.loads(texts[0]), "code": None}:
            same[address] = found[0], json.loads(texts[0])
    if unknown:
        raise ParamsError(
            f"{', '.join(unknown)}: the recipe in {PLAN} is not the one of dvc.lock, so that nothing tells what has "
            "changed; check out the code and params.yaml of the last run, run `python -m stages plan`, and come back"
        )
    write_plan(params)
    subprocess.run(["dvc", "repro", "--single-item", "plan"], check=True)
    stale = changes_of_data(same)
    accepted = [address for address, reasons in stale.items() if not reasons]
    absent = {at for at, reasons in stale.items() if reasons and all(reason.endswith(ABSENT) for reason in reasons)}
    elsewhere = [address for address in stale if address in absent and unchanged_before(address, lock, same)]
    for address in accepted:
        name, _, key = address.partition("@")
        for before, after in zip(*(NAMES[name](Settings.of(each)) for each in same[address])) if name in NAMES else ():
            rename(key, before, after)
    if accepted:
        subprocess.run(["dvc", "commit", "--force", *accepted], check=True)
    if elsewhere:
        commit_without_data(elsewhere)
        print(f"accepted without their data, which are not here: {', '.join(elsewhere)}")
    for address in (address for address, reasons in stale.items() if reasons and address not in elsewhere):
        print(f"not accepted: {address}: {'; '.join(stale[address])}")
    print(f"accepted: {', '.join(accepted) or 'nothing more; no stage differs in its command or its code alone'}")


def changes_of_data(addresses):
    """{address: what else has changed} of the stages whose command or recipe has changed, as DVC says it."""
    ask = ["dvc", "status", "--json", *addresses]
    said = subprocess.run(ask, check=True, capture_output=True).stdout if addresses else b"{}"
    found = {}
    for address, changes in json.loads(said).items():
        paths = [entry for each in changes if isinstance(each, dict) for entry in next(iter(each.values())).items()]
        data = [f"{path} is {how}" for path, how in paths if not path.startswith(f"{PLAN.as_posix()}/")]
        if len(data) < len(paths) or "changed command" in changes:
            found[address] = data
    return found
