"""The pipeline's stages: `python -m stages STAGE KEY`, KEY of a row of params.yaml; `dvc repro` runs them in order."""

import argparse
import ast
import gc
import importlib
import os
import sys
from pathlib import Path

from stages import guard, signals

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
    "table": ("suites", "digits"),
    "cost": ("suites", "frepo"),
    "complexity": ("datasets", "in1k_birds_hard"),
    "export": CELL,
}
OPTIONS = {  # of a command, beside its key: arguments of its `stage`
    "export": {
        "to": {"choices": ("folder", "npz", "safetensors"), "required": True, "help": "folder: class folders of PNG"},
        "out": {"metavar": "DIR", "help": "a new folder; build/export/CELL-seedN-FORMAT where none is named"},
        "seed": {"type": int, "metavar": "N", "help": "of the cell; its first where none is named"},
    },
    "list": {name: {"help": f"only the cells of this {name}"} for name in ("suite", "method", "dataset", "state")},
}
EXAMPLES = {"list": "--suite frepo --state not-run", "export": f"{CELL[1]} --to npz"}  # of commands with options


def arguments():
    parser = argparse.ArgumentParser(
        prog="python -m stages", description=__doc__, epilog="example: python -m stages list --suite digits"
    )
    commands = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, row in STAGES.items():
        words = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")))
        example = EXAMPLES.get(name, row[1] if row else "")
        command = commands.add_parser(
            name, help=words, description=words, epilog=f"example: python -m stages {name} {example}".rstrip()
        )
        if row:
            inside = {"nargs": "?"} if f"{name}@" in os.environ.get("DVC_STAGE", "") else {}  # it has the key
            command.add_argument("key", help=f"a key of `{row[0]}` in params.yaml", **inside)
        for option, settings in OPTIONS.get(name, {}).items():
            command.add_argument(f"--{option}", **settings)
    return vars(parser.parse_args())


if __name__ == "__main__":
    signals.on_signals(signals.leave)
    sys.stdout.reconfigure(errors="replace")  # ± where the locale has none
    name = (given := arguments()).pop("stage")
    if "DVC_STAGE" in os.environ:
        guard.start()
    gc.disable()  # until the work begins: importing torch makes no garbage, and to look for some takes long
    from stages import common, process

    with process.errors_in_words():
        process.key_of(name)  # a bad one is refused before torch is there, which takes seconds
    module = importlib.import_module(f"stages.{name}")
    signals.on_signals(signals.unwind)
    common.run(module.stage, name, **given)
    sys.stdout.flush()
    os._exit(signals.status())  # all is written; to take torch's modules apart takes a second
