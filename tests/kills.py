"""Kill `dvc repro` at seeded moments, go on by a plain `dvc repro`, and compare what comes out at the end.

`python -m tests.kills --kills 50 --seed 0`: half a minute a kill. A toy suite with experts runs
once undisturbed. Then rounds: each begins with nothing and is killed again and again until a `dvc repro` ends, whose
outputs are to be the undisturbed run's. Ends with status 1 where one is not, or where a command refuses.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tabulate import tabulate

from .toy import ENV, edit, keep_suites, project_copy

CELL, NET, TARGET = "digits-edf-digits-ipc1", "convnet2-w8-instance", "report@digits"
ALONE = "is at work on it in this folder"  # a stage that outlived its DVC: the next one waits for it here
KINDS = {  # of a kill: whom, by what, and when
    "group at any time": ("group", signal.SIGKILL, "time"),
    "stage at any time": ("stage", signal.SIGKILL, "time"),
    "group while dvc.lock is written": ("group", signal.SIGKILL, "lock"),
    "DVC alone while dvc.lock is written": ("dvc", signal.SIGKILL, "lock"),
    "DVC alone": ("dvc", signal.SIGTERM, "time"),
    "SIGTERM": ("group", signal.SIGTERM, "time"),
    "Ctrl-C": ("group", signal.SIGINT, "time"),
}
TIMES = {"wall_s", "cpu_s", "date", "commit", "digest"}  # digest: of a record, with its times


def few(params):
    """One cell of trajectory matching with its experts, in seconds; checkpoints all the time."""
    keep_suites(params, "digits")
    cell, experts = params["cells"][CELL], params["experts"]["digits"]
    cell["distill"] |= {"seeds": [0, 1], "steps": 30, "eval_every": 0, "inner_steps": 3, "net": NET}
    cell["distill"] |= {"max_start_first": 1, "max_start": 2, "expert_epochs": 1}
    cell["evaluate"]["nets"], cell["baseline"] = [NET], None
    params["cells"], params["continual"], params["membership"], params["scores"] = {CELL: cell}, {}, {}, {}
    params["experts"] = {"digits": {**experts, "net": NET, "count": 4, "held_out": 1, "epochs": 2, "keep": 2}}
    params["experts"]["digits"]["together"] = 2
    params["runtime"]["checkpoint_minutes"] = 0.002


def outputs(folder):
    """{file: digest} of what the pipeline made; of JSON without times and what names the commit."""
    found = {}
    for top in ("build", "data/prepared", "data/preprocessing", "reports/digits/results.json"):
        for path in [folder / top] if (folder / top).is_file() else (folder / top).rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                if path.suffix == ".json":
                    data = json.dumps(timeless(json.loads(data)), sort_keys=True).encode()
                found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def timeless(node):
    if isinstance(node, dict):
        return {key: timeless(value) for key, value in node.items() if key not in TIMES and "seconds" not in key}
    return [timeless(each) for each in node] if isinstance(node, list) else node


def fresh(folder):
    """Nothing of an earlier run is left."""
    for name in ("build", "data", ".checkpoints", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)
    subprocess.run("git checkout -q . && git clean -qfd && rm -f dvc.lock", shell=True, cwd=folder, check=True)


class Attempt:
    """A plain `dvc repro` in a session of its own, its output in a file."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder.parent / "log"
        self.log.unlink(missing_ok=True)  # a stage that outlived its DVC still writes into the former one
        with open(self.log, "w") as log:
            command = ["dvc", "repro", TARGET]
            self.process = subprocess.Popen(
                command, cwd=folder, env=ENV, stdout=log, stderr=log, start_new_session=True
            )

    def stage(self):
        """The process of the stage that runs now, or None."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if child.cmdline()[1:3] == ["-m", "stages"]:
                    return child

    def kill(self, whom, number, when, lots, longest):
        """Kill it as KINDS say -> what ran; None where it ended before."""
        if when == "lock":
            self.wait_for_writes(lots.randint(1, 3))
            time.sleep(lots.uniform(0, 0.02))
        else:
            until = time.monotonic() + lots.uniform(0.5, longest)
            while time.monotonic() < until and self.process.poll() is None:
                time.sleep(0.01)
        stage = self.stage()
        while whom == "stage" and stage is None and self.process.poll() is None:
            stage = self.stage()
        if self.process.poll() is not None:
            return None
        ran = " ".join(self.log.read_text().split("Running stage '")[-1].split("'")[:1])
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if whom == "group":
                os.killpg(self.process.pid, number)
            else:
                (stage or self.process).send_signal(number) if whom == "stage" else self.process.send_signal(number)
        self.process.wait()
        if number != signal.SIGKILL or whom == "dvc":  # what a plain next command would find still at work
            while whom == "group" and alive(self.process.pid):
                time.sleep(0.05)
        return ran

    def wait_for_writes(self, count):
        """Until dvc.lock has become shorter this many times, as it does each time that DVC begins to write it."""
        lock, before = self.folder / "dvc.lock", 0
        while count and self.process.poll() is None:
            size = lock.stat().st_size if lock.exists() else 0
            count, before = count - (size < before), size


def alive(group):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def go_on(folder):
    """A plain `dvc repro` to its end -> what it says where it refuses. For a stage left behind, it waits."""
    while True:
        attempt = Attempt(folder)
        if attempt.process.wait() == 0:
            return ""
        text = attempt.log.read_text()
        if ALONE not in text:
            return text[-1500:]
        time.sleep(1)


def main(kills, seed):
    lots, rows, bad = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory(prefix="kills-") as top:
        folder = project_copy(Path(top) / "clone")
        edit(folder, few)
        subprocess.run(["git", "commit", "-qam", "few"], cwd=folder, check=True)
        began = time.monotonic()
        if refused := go_on(folder):
            sys.exit(f"the undisturbed run failed: {refused}")
        wanted, longest = outputs(folder), time.monotonic() - began
        print(f"undisturbed: {len(wanted)} files in {longest:.0f} s", flush=True)
        kinds = [*KINDS] * (kills // len(KINDS) + 1)
        lots.shuffle(kinds)
        while len(rows) < kills:
            fresh(folder)
            first, refused = len(rows), ""
            while len(rows) < kills and not refused:
                kind, attempt = kinds[len(rows)], Attempt(folder)
                ran = attempt.kill(*KINDS[kind], lots, longest)
                if ran is None:
                    text = attempt.log.read_text()
                    refused = "" if attempt.process.returncode == 0 or ALONE in text else text[-1500:]
                    break
                rows.append([len(rows) + 1, kind, ran])
                print(f"kill {len(rows)}: {kind}, in {ran}", flush=True)
            refused = refused or go_on(folder)
            found = outputs(folder) if not refused else {}
            other = [name for name in {*wanted, *found} if wanted.get(name) != found.get(name)]
            verdict = "refused" if refused else f"{len(other)} files differ" if other else "equal"
            bad += len(rows) - first if verdict != "equal" else 0
            print(f"round of kills {first + 1} to {len(rows)}: {verdict} {refused} {other[:5]}", flush=True)
            for row in rows[first:]:
                row.append(verdict)
    print(tabulate(rows, ("kill", "whom and when", "stage", "at the end"), disable_numparse=True))
    print(f"{kills - bad} of {kills} kills ended with the undisturbed run's outputs")
    sys.exit(bad > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.kills, given.seed)
