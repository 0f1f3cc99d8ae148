"""A command in a worker, whose output somebody watches, and that ends when the worker dies."""

import collections
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from multiprocessing.reduction import send_handle
from pathlib import Path

RUNNER = Path(__file__).with_name("runner.py").read_text(encoding="utf-8")  # a worker may have no such file
STARTED = []  # at most one: our end of the socket of the process that runs this worker's commands


def runner():
    """The socket of the process that runs this worker's commands."""
    if not STARTED:
        ours, its = multiprocessing.Pipe()
        command = [sys.executable, "-c", RUNNER, str(its.fileno())]
        begun = {"pass_fds": [its.fileno()], "start_new_session": True, "stderr": subprocess.STDOUT}
        subprocess.Popen(command, stdout=subprocess.PIPE, **begun)  # a pipe, as it is later: Python asks once
        its.close()
        STARTED.append(ours)
    return STARTED[0]


def run(command, folder, env, say, pattern, lock):
    """Run `python -m` of a command in a folder -> (its status, its last lines, after all a pattern is found in).

    say: is given the latest line, each second at most. lock: a file that is locked while it runs.
    """
    Path(lock).parent.mkdir(parents=True, exist_ok=True)
    request = {"command": command, "folder": str(folder), "env": dict(os.environ | env), "lock": lock}
    kept, found, rest, said = collections.deque(maxlen=30), [], "", 0
    read, write = os.pipe()
    try:
        with open(write):
            runner().send_bytes(json.dumps(request).encode())
            send_handle(runner(), write, None)
        while piece := os.read(read, 65536):  # progress bars end their lines by \r
            *lines, rest = re.split(r"[\r\n]+", rest + piece.decode(errors="replace"))
            kept.extend(filter(str.strip, lines))
            found += [line for line in lines if re.search(pattern, line)]
            if kept and time.monotonic() - said > 1:
                said = time.monotonic()
                say(kept[-1])
        code = int(runner().recv_bytes())
    except (OSError, EOFError):  # it was killed, or its imports failed; the output says why
        STARTED.clear()
        code = 1
    finally:
        os.close(read)
    return code, "\n".join([*found, *kept, rest])
