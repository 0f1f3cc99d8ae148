"""The DVC that runs this stage, and whether it is to start anew."""

import os
from pathlib import Path


def dvc_process():
    """The process of DVC that runs this one, or None."""
    import psutil

    return next((parent for parent in psutil.Process().parents() if arguments(parent) is not None), None)


def arguments(process):
    """The arguments of a process of DVC, as `dvc` or `python -m dvc`; None of any other."""
    words = process.cmdline()
    name = next((i for i, word in enumerate(words[:3]) if Path(word).stem == "dvc"), None)
    return None if name is None else words[name + 1 :]


def forced():
    """Whether a DVC command with --force started this stage."""
    process = dvc_process() if "DVC_STAGE" in os.environ else None
    return process is not None and has_force(arguments(process))


def has_force(words):
    """Whether the arguments of a DVC command have --force among them, as DVC's own parser reads them."""
    if not any(word.startswith("-") and "f" in word for word in words):
        return False  # the parser takes half a second to import
    from dvc.cli import parse_args

    return bool(getattr(parse_args(words), "force", False))
