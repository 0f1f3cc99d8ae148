"""The digits suite at toy size, and DVC as a user calls it: shared by the tests of the pipeline."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from filelock import FileLock

from lib.tracking import FOLDER

ROOT = Path(__file__).parent.parent
CELL, TOUCHED = "digits-frepo-digits-ipc1", "digits-isa-digits-ipc1"
CONTINUAL, MEMBERSHIP = "digits-frepo-digits-ipc1-steps5", "digits-frepo-digits-ipc10-chunk500"
CELLS = (CELL, TOUCHED, CONTINUAL, MEMBERSHIP)
ENV = {
    **{k: v for k, v in os.environ.items() if not k.startswith("DVC_")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "true",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def keep_suites(params, *suites):
    """Drop the rows of every other suite."""
    for table in ("cells", "continual", "membership", "scores"):
        params[table] = {key: row for key, row in params[table].items() if row["suite"] in suites}


def toy(params):
    """The digits suite in seconds: fewer steps, one seed, one network; checkpoints all the time."""
    keep_suites(params, "digits", "ablation")  # a suite beside it
    params["cells"] = {key: row for key, row in params["cells"].items() if row["suite"] != "digits" or key in CELLS}
    params["scores"], params["experts"] = {}, {}
    for key in CELLS:
        params["cells"][key]["distill"] |= {"steps": 20, "seeds": [0], "eval_every": 10}
        params["cells"][key]["distill"]["pool_size"] = 2
        params["cells"][key]["evaluate"]["nets"] = ["conv2-w32"]
    params["cells"][CONTINUAL]["distill"] |= {"steps": 5, "eval_every": 0}
    params["cells"][MEMBERSHIP]["distill"] |= {"seeds": [0, 1], "steps": 10, "eval_every": 0}
    params["continual"][CONTINUAL]["blocked"] = True
    params["protocols"]["digits-memory"]["batch"] = 4
    params["membership"][MEMBERSHIP] |= {"updates": [10, 20], "shadows": 2}
    for name in ("digits", "digits-memory"):
        params["protocols"][name]["steps"] = 30
    params["runtime"]["checkpoint_minutes"] = 0.002


def edit(folder, change):
    path = folder / "params.yaml"
    params = yaml.load(path.read_text(), yaml.CSafeLoader)
    change(params)
    path.write_text(yaml.dump(params, Dumper=yaml.CSafeDumper, sort_keys=False))


def dvc(folder, *args, check=True):
    done = subprocess.run(["dvc", *args], cwd=folder, env=ENV, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output[-3000:]
    return output


def stages(folder, *args):
    """`python -m stages` of these arguments -> what it prints; a failure's message too."""
    command = [sys.executable, "-m", "stages", *args]
    done = subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True)
    return done.stdout + done.stderr


def states(folder, *filters):
    """{cell: its state, as `list` prints it}."""
    return listed(stages(folder, "list", *filters))


def listed(table):
    """{cell: its state} of what `list` prints: a head, a rule, a line each, an empty line, the sum."""
    rows = [re.split(r"\s{2,}", line) for line in table.splitlines()[2:-2]]
    return {row[0]: row[4] for row in rows}


def tracked(folder):
    """Wait until the writer has put all that stages sent into MLflow."""
    until = time.monotonic() + 300  # the first writer makes the database
    while list((Path(folder) / ".tracking").glob("*.jsonl")):
        assert time.monotonic() < until, (Path(folder) / ".tracking/writer.log").read_text()[-2000:]
        time.sleep(0.1)


def ran(output):
    return re.findall(r"Running stage '([^']+)'", output)


def commit(folder):
    subprocess.run(["git", "commit", "-qam", "toy"], cwd=folder, check=True)


def started(folder, *args):
    return subprocess.Popen(
        ["dvc", *args],
        cwd=folder,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def project_copy(folder):
    """A committed copy of the project as it is on disk, without what is ignored -> its folder.

    Without dvc.lock too: nothing of it holds for toy rows, and DVC reads and writes all of it at each stage.
    """
    ask = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    files = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    identity = (["config", "user.name", "test"], ["config", "user.email", "test@example.org"])
    for command in (["init", "-q", "-b", "main"], *identity, ["add", "-A"], ["commit", "-qm", "copy"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    # Compiled once for all stages of all copies; by the hash of the source, since a test may edit it within a second.
    compileall = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "lib", "stages"]
    subprocess.run(compileall, cwd=folder, check=True)
    return folder


def clone(project, folder):
    """A clone of the `project` fixture, with an identity to commit by."""
    subprocess.run(["git", "clone", "-q", str(project), str(folder)], check=True)
    for key, value in (("user.name", "test"), ("user.email", "test@example.org")):
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)
    for compiled in project.rglob("__pycache__"):
        shutil.copytree(compiled, folder / compiled.relative_to(project))
    return folder


def copied(folder, to):
    """Copy the `finished` fixture's folder -> the copy, where files that were one are one again, as DVC links them."""
    links = {}

    def copy(source, target):
        number = os.stat(source).st_ino
        if number in links:
            os.link(links[number], target)
        else:
            links[number] = shutil.copy2(source, target)

    return untracked(Path(shutil.copytree(folder, to, copy_function=copy, ignore=shutil.ignore_patterns(FOLDER))))


WRITERS = []


def untracked(folder):
    """Have this process be the writer of the folder's runs -> folder. It writes none.

    A real one costs as much as a stage; `finished` and the tests of tracking have theirs.
    """
    (folder / FOLDER).mkdir()
    WRITERS.append(FileLock(folder / FOLDER / "writer.lock"))
    WRITERS[-1].acquire(timeout=0)
    return folder
