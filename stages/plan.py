"""Check params.yaml and write a recipe for each stage and row: all that its result depends on, into build/plan."""

import os
from pathlib import Path

from lib.config.load import load_params
from lib.config.recipes import write_plan
from lib.config.settings import PLAN
from lib.files import read_yaml, replacing

from .common import EXPERTS, REPORTS
from .guard import mend


def stage():
    """Write every recipe that is new or changed. By hand, mend what a DVC that was killed left, too."""
    for words in mend() if "DVC_STAGE" not in os.environ else ():
        print(f"plan: {words}", flush=True)
    params = load_params()
    count, written = write_plan(params)
    if written:
        print(f"plan: {count} recipes, {written} of them new or changed", flush=True)
        paths = [(REPORTS / suite).as_posix() for suite in params.suites]
        known = read_yaml("dvc.yaml")["stages"]["index"]["deps"] if Path("dvc.yaml").is_file() else paths
        for path in (path for path in paths if path not in known):
            print(f"plan: {path} is not among index's deps in dvc.yaml: `make report` alone puts it on the page")
    words = {EXPERTS / "none": "no experts\n", PLAN / "checked": "params.yaml is right\n"}  # of dvc.yaml; never others
    for path in (path for path in words if not path.is_file()):
        with replacing(path) as tmp:
            tmp.write_text(words[path], encoding="utf-8")
