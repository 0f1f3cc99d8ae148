"""A stage as a process: the row that DVC runs it for, and that no other process is at work on it."""

import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lib.config.settings import ALLOWED, KEY, ParamsError
from lib.files import FileError
from lib.training.ends import NonFiniteLoss, Stopped

from .signals import status

LOCKS = Path(".checkpoints/.locks")  # of the folder that DVC runs in: a copy, in a queue, has outputs of its own


def key_of(stage):
    """The key of the row that DVC runs a stage for; `all` for a stage without rows.

    It stands in DVC_STAGE alone, as `distill@KEY`, after the path of dvc.yaml where DVC was started in a folder below:
    in a command, a shell would read what params.yaml has for a key.
    """
    _, rows, key = os.environ.get("DVC_STAGE", "").partition(f"{stage}@")
    if rows and not re.fullmatch(KEY, key):
        raise ParamsError(f"params.yaml: found {key!r}; a key may hold {ALLOWED}")
    return key or "all"


@contextmanager
def errors_in_words():
    """End the process by a message where a stage refuses, fails or was stopped."""
    try:
        yield
    except Stopped as error:
        print(error, file=sys.stderr)
        sys.exit(status() or 1)
    except (ParamsError, FileError, NonFiniteLoss) as error:
        sys.exit(f"error: {error}")


@contextmanager
def full_memory_in_words(name):
    """End the process by a message where the GPU's memory is full; name: the stage's, with its row."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # of torch.cuda, which is imported where it can occur
            raise
        asked, *_ = str(error).split(" GPU ")
        sys.exit(
            f"error: {name}: the GPU's memory is full ({asked.rstrip('.')}); what is finished and the last checkpoint "
            "are kept, a second run goes on from there. Less is needed with conv_dtype: bfloat16, a smaller real_batch "
            "(another result), or fewer networks at once (num_nets); `nvidia-smi` shows what else uses the GPU"
        )


@contextmanager
def alone(stage, key):
    """Hold the lock of a stage's row. A stage may outlive its DVC, which then starts a second one beside it."""
    path = LOCKS / f"{stage}@{key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            path.write_text(str(os.getpid()), encoding="utf-8")
            yield
    except Timeout:
        pid = path.read_text(encoding="utf-8")
        message = f"process {pid} is at work on it in this folder; wait until it has ended, or end it: `kill {pid}`"
        raise FileError(f"{stage}@{key}: {message}") from None
