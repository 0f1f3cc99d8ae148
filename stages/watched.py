"""A command whose output somebody watches, and that ends when whoever started it dies."""

import collections
import os
import re
import subprocess
import sys
import time
from pathlib import Path

# A worker that dies takes its stage with it, which saves a checkpoint; a second one waits until the first has ended.
WATCH = """
import fcntl, os, signal, subprocess, sys
lock, parent = open(sys.argv[1], "w"), os.getppid()
fcntl.flock(lock, fcntl.LOCK_EX)
child = subprocess.Popen(sys.argv[2:])
while True:
    try:
        code = child.wait(1)
        sys.exit(code if code >= 0 else 128 - code)
    except subprocess.TimeoutExpired:
        if os.getppid() != parent:
            import psutil
            family = psutil.Process().children(recursive=True)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)
            psutil.wait_procs(family)
            sys.exit(1)
"""


def run(command, folder, env, say, pattern, lock):
    """Run a command in a folder -> (its status, its last lines, after all those that a pattern is found in).

    say: is given the latest line, each second at most. lock: a file that is locked while it runs.
    """
    Path(lock).parent.mkdir(parents=True, exist_ok=True)
    kept, found, rest, said, env = collections.deque(maxlen=30), [], "", 0, os.environ | env
    whole = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", WATCH, lock, *command], cwd=folder, env=env, **whole) as process:
        while piece := os.read(process.stdout.fileno(), 65536):  # progress bars end their lines by \r
            *lines, rest = re.split(r"[\r\n]+", rest + piece.decode(errors="replace"))
            kept.extend(filter(str.strip, lines))
            found += [line for line in lines if re.search(pattern, line)]
            if kept and time.monotonic() - said > 1:
                said = time.monotonic()
                say(kept[-1])
    return process.returncode, "\n".join([*found, *kept, rest])
