"""A process beside DVC that mends what DVC leaves when it is killed: `python -m stages.guard`, started by each stage.

DVC writes dvc.lock in place at the end of each stage, for a third of a second, and .dvc/tmp/rwlock: a file that is cut
off there is one that every later command refuses. So dvc.lock is copied while a stage runs, when DVC writes nothing,
and looked at when DVC has ended; what the copy lacks comes out of DVC's run cache. Where the guard was killed with all
the rest, `python -m stages plan` does the same. Imports neither torch nor lib.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .force import dvc_process

LOCK, COPY, RWLOCK, BUSY = map(Path, ("dvc.lock", ".dvc/tmp/dvc.lock.copy", ".dvc/tmp/rwlock", ".dvc/tmp/lock"))


def start():
    """Start the guard, in a session of its own: it outlives the stage and its terminal."""
    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen([sys.executable, "-m", "stages.guard"], start_new_session=True, **nowhere)


def watch():
    """Copy dvc.lock; mend DVC's files when the DVC that runs the stage has ended. A later stage has its own guard."""
    import psutil

    if not (dvc := dvc_process()):
        return
    if stages_of(LOCK):
        put(LOCK, COPY)
    else:  # DVC makes it at the end of this stage
        COPY.unlink(missing_ok=True)
    made, kept = number(), stages_of(COPY) or []
    while number() == made:
        with contextlib.suppress(psutil.TimeoutExpired):
            dvc.wait(timeout=1)
            mend(kept)
            return


def mend(kept=()):
    """Replace a dvc.lock that is cut off by its copy, and remove such an rwlock -> what was done, a sentence each.

    kept: the names of the stages that dvc.lock had in the copy, where that is of just now. Nothing is done while a DVC
    is at work.
    """
    import zc.lockfile  # as DVC locks

    try:
        lock = zc.lockfile.LockFile(BUSY)
    except (zc.lockfile.LockError, FileNotFoundError):
        return []
    done, stages = [], stages_of(LOCK)
    if LOCK.exists() and (stages is None or stages == kept[: len(stages)] != kept):
        if COPY.exists():
            put(COPY, LOCK)
        else:
            LOCK.unlink()
        done.append(f"{LOCK} was cut off; it is as it was before the last stage, whose results are in DVC's cache")
    with contextlib.suppress(FileNotFoundError):
        try:
            json.loads(RWLOCK.read_text(encoding="utf-8"))
        except ValueError:
            RWLOCK.unlink()
            done.append(f"{RWLOCK} was cut off and is removed")
    lock.close()
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
    tmp = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(source, tmp)
    tmp.replace(target)


def number():
    """Which copy there is: a guard makes a new file."""
    return COPY.stat().st_ino if COPY.exists() else None


if __name__ == "__main__":
    watch()
