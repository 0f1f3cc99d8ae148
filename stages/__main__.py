"""The pipeline's stages: `python -m stages STAGE KEY`, KEY of a row of params.yaml; `dvc repro` runs them in order."""

import argparse
import ast
import gc
import importlib
import os
import sys
from pathlib import Path

CELL = ("cells", "digits-frepo-digits-ipc1")
STAGES = {  # the table of params.yaml that a stage's key is of, and a key for the help
    "plan": None,
    "prepare": ("datasets", "mnist"),
    "whiten": ("preprocessing", "mnist"),
    "experts": ("experts", "digits"),
    "distill": CELL,
    "evaluate": CELL,
    "continual": ("continual", "digits-frepo-digits-ipc1-steps5"),
    "membership": ("membership", "digits-frepo-digits-ipc10-chunk500"),
    "scores": ("scores", "digits-datm-digits-ipc1"),
    "external": ("external", "ROW"),
    "report": ("suites", "digits"),
    "index": None,
    "accept": None,
    "list": None,
    "show": CELL,
    "cost": ("suites", "frepo"),
    "complexity": ("datasets", "in1k_birds_hard"),
}
RECIPES = {
    "cost": "report",
    "complexity": "prepare",
}  # of commands that are no stages of DVC's: whose recipes they read
FILTERS = ("suite", "method", "dataset", "state")  # of list


def arguments():
    parser = argparse.ArgumentParser(
        prog="python -m stages", description=__doc__, epilog="example: python -m stages list --suite digits"
    )
    commands = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, row in STAGES.items():
        words = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")))
        example = {"list": "--suite frepo --state not-run"}.get(name, row[1] if row else "")
        command = commands.add_parser(
            name, help=words, description=words, epilog=f"example: python -m stages {name} {example}".rstrip()
        )
        if row:
            command.add_argument("key", help=f"a key of `{row[0]}` in params.yaml")
        for option in FILTERS if name == "list" else ():
            command.add_argument(f"--{option}", help=f"only the cells of this {option}")
    return vars(parser.parse_args())


if __name__ == "__main__":
    given = arguments()
    name = given.pop("stage")
    gc.disable()  # until the work begins: importing torch makes no garbage, and to look for some takes long
    from stages import common

    module = importlib.import_module(f"stages.{name}")
    common.run(module.stage, RECIPES.get(name, name), **given)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; to take torch's modules apart takes a second
