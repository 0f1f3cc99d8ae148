"""A process beside DVC that mends what DVC leaves when it is killed: `python -m stages.guard`, started by each stage.

DVC writes dvc.lock in place at the end of each stage, for a third of a second, and .dvc/tmp/rwlock; cut off, they stop
every later command. So dvc.lock is copied while a stage runs, when DVC writes nothing, and looked at when DVC has
ended; what the copy lacks is in DVC's run cache. `python -m stages plan` does the same by hand.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from .force import dvc_process

LOCK, COPY, RWLOCK, BUSY = map(Path, ("dvc.lock", ".dvc/tmp/dvc.lock.copy", ".dvc/tmp/rwlock", ".dvc/tmp/lock"))


def start():
    """Start the guard, in a session of its own: it outlives the stage and its terminal."""
    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen([sys.executable, "-m", "stages.guard"], start_new_session=True, **nowhere)


def watch():
    """Copy dvc.lock; mend DVC's files when the DVC that runs the stage has ended. A later stage has its own guard."""
    dvc = dvc_process()
    if kept := stages_of(LOCK) or []:
        put(LOCK, COPY)
    elif not LOCK.exists():  # DVC makes it at the end of this stage
        COPY.unlink(missing_ok=True)
    mine = COPY.stat().st_ino if COPY.exists() else None
    while mine == (COPY.stat().st_ino if COPY.exists() else None):
        if not dvc or psutil.wait_procs([dvc], timeout=1)[0]:
            return mend(kept)


def mend(kept=()):
    """Where they are cut off, and no DVC is at work: put dvc.lock's copy in its place, remove rwlock -> sentences.

    kept: the stages of a copy of just now.
    """
    import zc.lockfile  # as DVC locks

    done = []
    with contextlib.suppress(zc.lockfile.LockError, FileNotFoundError), contextlib.closing(zc.lockfile.LockFile(BUSY)):
        stages = stages_of(LOCK)
        if LOCK.exists() and (stages is None or stages == kept[: len(stages)] != kept):
            put(COPY, LOCK) if COPY.exists() else LOCK.unlink()
            done.append(f"{LOCK} was cut off; it is as it was before the last stage, whose results are in DVC's cache")
        try:
            json.loads(RWLOCK.read_text(encoding="utf-8"))
        except ValueError:
            RWLOCK.unlink()
            done.append(f"{RWLOCK} was cut off and is removed")
    return done


def stages_of(path):
    """The names of the stages of a lock file, in its order; None where there is none, or it is cut off."""
    import yaml

    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        text = path.read_text(encoding="utf-8")
        entries = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        lists = [entry.get(name, []) for entry in entries.values() for name in ("deps", "outs")]
        return [*entries] if text.endswith("\n") and None not in lists else None


def put(source, target):
    shutil.copyfile(source, tmp := target.with_name(f".{target.name}.{os.getpid()}.tmp"))
    tmp.replace(target)


if __name__ == "__main__":
    watch()
