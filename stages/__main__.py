"""The pipeline's stages: `python -m stages STAGE KEY`, KEY of a row of params.yaml; `dvc repro` runs them in order."""

import argparse
import ast
import functools
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
    "export": "cells",
}
RECIPES = {
    "cost": "report",
    "complexity": "prepare",
    "export": "evaluate",
}  # of commands that are no stages of DVC's: whose recipes they read
OPTIONS = {  # of a command, beside its key: arguments of its `stage`
    "export": {
        "to": {"choices": ("folder", "npz", "safetensors"), "required": True, "help": "folder: class folders of PNG"},
        "out": {"metavar": "DIR", "help": "a new folder; build/export/CELL-seedN-FORMAT where none is named"},
        "seed": {"type": int, "metavar": "N", "help": "of the cell; its first where none is named"},
    },
}


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
        for option, settings in OPTIONS.get(name, {}).items():
            command.add_argument(f"--{option}", **settings)
    return parser.parse_args()


if __name__ == "__main__":
    args = arguments()
    gc.disable()  # until the work begins: importing torch makes no garbage, and to look for some takes long
    from stages import common

    module = importlib.import_module(f"stages.{args.stage}")
    options = {option: getattr(args, option) for option in OPTIONS.get(args.stage, {})}
    common.run(functools.partial(module.stage, **options), RECIPES.get(args.stage, args.stage), args.key)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; to take torch's modules apart takes a second
