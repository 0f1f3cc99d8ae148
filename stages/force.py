"""Whether this stage is to start anew."""

import os
from pathlib import Path


def forced():
    """Whether a DVC command with --force started this stage. DVC does not say so: its arguments are parsed again."""
    if "DVC_STAGE" not in os.environ:
        return False
    import psutil

    for parent in psutil.Process().parents():
        words = parent.cmdline()
        name = next((i for i, word in enumerate(words[:3]) if Path(word).stem in ("dvc", "dvc.exe")), None)
        if name is not None:
            arguments = words[name + 1 :]
            if not any(word.startswith("-") and "f" in word for word in arguments):
                return False  # the parser of DVC takes half a second to import
            from dvc.cli import parse_args

            return bool(getattr(parse_args(arguments), "force", False))
    return False
