"""The pipeline's stages: `python -m stages STAGE KEY`, KEY of a row of params.yaml; `dvc repro` runs them in order."""

import argparse
import ast
import gc
import importlib
import os
import sys
from pathlib import Path

STAGES = {  # the table of params.yaml that a stage's key is of
    "plan": None,
    "prepare": "datasets",
    "whiten": "preprocessing",
    "experts": "experts",
    "distill": "cells",
    "evaluate": "cells",
    "continual": "continual",
    "membership": "membership",
    "scores": "scores",
    "external": "external",
    "report": "suites",
    "index": None,
    "accept": None,
    "cost": "suites",
    "complexity": "datasets",
}
RECIPES = {
    "cost": "report",
    "complexity": "prepare",
}  # of commands that are no stages of DVC's: whose recipes they read


def arguments():
    parser = argparse.ArgumentParser(prog="python -m stages", description=__doc__)
    commands = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, table in STAGES.items():
        words = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")))
        command = commands.add_parser(name, help=words, description=words)
        if table:
            command.add_argument("key", help=f"a key of `{table}` in params.yaml")
        else:
            command.set_defaults(key=None)
    return parser.parse_args()


if __name__ == "__main__":
    args = arguments()
    gc.disable()  # until the work begins: importing torch makes no garbage, and to look for some takes long
    from stages import common

    module = importlib.import_module(f"stages.{args.stage}")
    common.run(module.stage, RECIPES.get(args.stage, args.stage), args.key)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; to take torch's modules apart takes a second
