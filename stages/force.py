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
    """Whether a DVC command with --force started this stage. DVC does not say so: its arguments are parsed again."""
    if "DVC_STAGE" not in os.environ:
        return False
    process = dvc_process()
    given = arguments(process) if process else []
    if not any(word.startswith("-") and "f" in word for word in given):
        return False  # the parser of DVC takes half a second to import
    from dvc.cli import parse_args

    return bool(getattr(parse_args(given), "force", False))
