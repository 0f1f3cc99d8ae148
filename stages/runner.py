"""Runs a worker's commands, each in a fork of this process: DVC, which takes 0.4 s to import, is imported once.

`python -c` of this file with the number of a socket. A request is a command in JSON and the file of its output; the
answer is its exit status. When the worker dies, its command is told to save (SIGTERM) and waited for.
"""

import fcntl
import json
import os
import runpy
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle


def main(socket):
    os.set_inheritable(socket, False)
    worker, nowhere, parent = Connection(socket), os.open(os.devnull, os.O_RDWR), os.getppid()
    while True:
        try:
            request = json.loads(worker.recv_bytes())
        except EOFError:  # the worker ends
            return
        with open(recv_handle(worker)) as written:
            os.dup2(written.fileno(), 1), os.dup2(1, 2)  # an import that fails is told there too
        load(request["folder"])
        with open(request["lock"], "w") as lock:  # a second run of a stage waits until the first has ended
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (child := os.fork()):
                return become(request, nowhere)
            os.dup2(nowhere, 1), os.dup2(nowhere, 2)
            code = wait(child, parent)
        worker.send_bytes(b"%d" % code)


def load(folder):
    """Import what every `dvc repro` in a folder needs."""
    import dvc.cli
    import dvc.lock
    import dvc.repo.reproduce
    import dvc.stage.run
    import ruamel.yaml  # noqa: F401

    dvc.lock.DEFAULT_TIMEOUT = 0.3  # DVC tries its lock six times in this time; by itself twice a second
    dvc.cli.parse_args(["repro"])
    dvc.repo.Repo(folder).close()


def become(request, nowhere):
    """Be `python -m` of the command, without input."""
    os.dup2(nowhere, 0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["command"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def wait(child, parent):
    """The exit status of a child; where the parent has died, all that it began is ended, and so is this process."""
    import psutil

    while os.getppid() == parent:
        with suppress(psutil.TimeoutExpired):
            code = psutil.Process(child).wait(1)
            return code if code >= 0 else 128 - code
    family = psutil.Process().children(recursive=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    psutil.wait_procs(family)
    sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
