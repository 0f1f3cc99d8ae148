"""The pipeline's stages: `python -m stages STAGE KEY`, where a key names a row of params.yaml; `dvc repro` calls them in their order."""

import argparse
import ast
import gc
import importlib
import os
import sys
from pathlib import Path

from lib import tracking

STAGES = {  # and the table of params.yaml that a stage's key is of
    "prepare": "datasets",
    "whiten": "preprocessing",
    "experts": "experts",
    "distill": "cells",
    "evaluate": "cells",
    "continual": "continual",
    "membership": "membership",
    "scores": "scores",
    "given": "given",
    "report": "suites",
    "index": None,
    "cost": "suites",
    "complexity": "datasets",
}
UNTRACKED = ("prepare", "whiten", "report", "index", "cost", "complexity")


def arguments():
    parser = argparse.ArgumentParser(prog="python -m stages", description=__doc__)
    commands = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, table in STAGES.items():
        words = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text()))
        command = commands.add_parser(name, help=words, description=words)
        if table:
            command.add_argument("key", help=f"a key of `{table}` in params.yaml")
        else:
            command.set_defaults(key=None)
    return parser.parse_args()


if __name__ == "__main__":
    args = arguments()
    if args.stage not in UNTRACKED:
        tracking.start_early()
    gc.disable()  # until the work begins: importing torch makes no garbage, and looking for some takes a quarter of the time
    module = importlib.import_module(f"stages.{args.stage}")
    from stages.common import run

    run(module.stage, STAGES[args.stage], args.key)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; to take torch's modules apart takes a second
