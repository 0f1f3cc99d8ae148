"""The commands of `python -m stages`: whose rows their keys are of, and their options. For argparse, without torch."""

import argparse
import ast
import os
from pathlib import Path

from .parts import part

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
    "fanout": None,
}
COUNT = {"type": int, "metavar": "N"}
PART = {"--part": {"type": part, "metavar": "I/N", "help": "one of N shares of the work, to run side by side, as 2/4"}}
OPTIONS = {  # of a command, beside its key: arguments of its `stage`
    "export": {
        "--to": {"choices": ("folder", "npz", "safetensors"), "required": True, "help": "folder: class folders of PNG"},
        "--out": {"metavar": "DIR", "help": "a new folder; build/export/CELL-seedN-FORMAT where none is named"},
        "--seed": COUNT | {"help": "of the cell; its first where none is named"},
    },
    "cost": {"--gpu": {"action": "store_true", "help": "count a step's kernels, bytes and memory too: seconds a cell"}},
    **dict.fromkeys(("distill", "experts"), PART),
    "list": {
        f"--{name}": {"help": f"only the cells of this {name}"} for name in ("suite", "method", "dataset", "state")
    },
    "fanout": {
        "targets": {"nargs": "*", "metavar": "TARGET", "help": "suites and STAGE@KEY; else all that is stale"},
        "--dry": {"action": "store_true", "help": "say what would run, and what it costs; run nothing"},
        "--address": {"help": "of a Ray cluster, HOST:6379 or auto; else this machine alone"},
        "--remote": {"metavar": "NAME", "help": "DVC's remote by which several machines share results"},
        "--gpus-per-stage": {"type": float, "metavar": "N", "help": "1 where there are GPUs; .5: two stages on one"},
        "--cpus-per-stage": COUNT | {"default": 1, "help": "cores, and threads, of a stage: 1"},
    },
}
EXAMPLES = {  # of commands with options
    "list": "--suite frepo --state not-run",
    "cost": "frepo --gpu",
    "export": f"{CELL[1]} --to npz",
    "fanout": "matching distill@mtt-mtt-cifar10-ipc1 --dry",
}


def arguments(description):
    """What the command line says -> {"stage": its name, "key": of its row, option: value}."""
    parser = argparse.ArgumentParser(
        prog="python -m stages", description=description, epilog="example: python -m stages list --suite digits"
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
            command.add_argument(option, **settings)
    return vars(parser.parse_args())
