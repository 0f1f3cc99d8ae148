"""The process that runs a worker's commands, one after the other: real processes, without Ray."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from stages import watched

from .toy import ROOT


@pytest.fixture
def run(tmp_path):
    """run(source, **env): of a module with this source, in a folder -> (its status, its last lines)"""

    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\nno_scm = true\n")

    def run(source, **env):
        (tmp_path / "command.py").write_text(source)
        return watched.run(["command", "word"], tmp_path, env, print, "^found", str(tmp_path / "locks/command"))

    yield run
    if watched.STARTED:
        watched.STARTED.pop().close()


def test_each_command_is_a_process_of_its_own(run):
    source = "import os, sys; print(sys.argv, os.getcwd(), os.environ['COLOUR'], os.getpid()); open('left', 'w')"
    first, second = run(source, COLOUR="red"), run(source, COLOUR="blue")
    assert first[0] == second[0] == 0
    assert "'word'] " in first[1] and " red " in first[1] and " blue " in second[1]
    assert first[1].split()[-1] != second[1].split()[-1]
    runner = psutil.Process().children()[-1]
    assert run("import os; print(os.getppid())")[1].strip() == str(runner.pid), "one process runs them all"


def test_output_status_and_errors_come_back(run):
    lines = "\n".join(str(number) for number in range(50))
    code, output = run(f"import sys; print('found it'); print('''{lines}'''); sys.exit(3)")
    assert code == 3
    assert output.startswith("found it\n") and output.rstrip().endswith("49") and "\n7\n" not in output
    code, output = run("import sys; sys.stdout.reconfigure(errors='replace'); print('\\ud800 well')")
    assert (code, output) == (0, "? well\n")
    code, output = run("1 / 0")
    assert (code, "ZeroDivisionError" in output) == (1, True)
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")[0] == 128 + signal.SIGKILL
    assert run("import sys; print(sys.stdin.read() == '')") == (0, "True\n"), "the runner's requests are not its input"


def test_a_runner_that_is_killed_fails_its_command_and_the_next_one_runs(run):
    code, output = run("import os, signal; print('so far', flush=True); os.kill(os.getppid(), signal.SIGKILL)")
    assert (code, output) == (1, "so far\n")
    assert run("print('well')") == (0, "well\n")


WORKER = """
import sys
from stages import watched
print("ready", flush=True)
watched.run(["command"], sys.argv[1], {}, print, "x", sys.argv[1] + "/locks/command")
"""
SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(0.5)
    open("saved", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, save)
open("began", "w").close()
time.sleep(60)
"""


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {path}")


def test_a_worker_that_dies_has_its_command_save_before_a_second_run(run, tmp_path):
    (tmp_path / "command.py").write_text(SAVES)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], env=env) as worker:
        wait_for(tmp_path / "began")
        worker.kill()
    code, output = run("import os; print(os.path.exists('saved'))")
    assert (code, output) == (0, "True\n")
