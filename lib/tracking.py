"""MLflow, and nothing but MLflow: a run per stage, written by a process of its own so that no stage waits for it.

A stage appends lines of JSON to a file of its own in `.tracking/`, NAME.jsonl, and puts its artifacts into a folder
NAME. One writer for all stages brings them to MLflow, and ends when nothing has come for a while: importing MLflow
takes longer than importing torch, so many stages share it. DISTILLERY_TRACKING names another folder, which has no
writer: on a cluster's worker, whose runs belong into the store of the machine that asked for them (`receive`).
The metrics files are the record, MLflow is the browser: a server that is down costs a line of warning, and what was
not written waits for the next writer. The store is `mlflow.db` at the repository's root unless MLFLOW_TRACKING_URI
names another; files go to `mlartifacts/` there unless a server or a folder takes them.

Nothing bounds the first writer's work, which makes the database: half a minute on a busy machine. One that was killed
in the midst of it leaves a database that MLflow refuses for ever; the next one puts it aside.
"""

import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

FOLDER, DATABASE = ".tracking", "mlflow.db"
PAUSE = 1.0  # seconds between looks for new lines
IDLE = 20.0  # seconds without a running stage after which the writer ends
BATCH = 1000  # MLflow's own limit on one batch of metrics


class Tracker:
    """One MLflow run. `log` and `artifact` never raise and never wait."""

    def __init__(self, root, name, tags, params, experiment="distillery"):
        self.root, self.lock = Path(root).resolve(), threading.Lock()  # groups of experts log from threads of their own
        elsewhere = os.environ.get("DISTILLERY_TRACKING")
        folder = Path(elsewhere) if elsewhere else self.root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.time_ns()}-{os.getpid()}.jsonl"
        start = ["start", experiment, name, tags, {key: str(value)[:500] for key, value in params.items()}, producer()]
        (tmp := path.with_suffix(".tmp")).write_text(json.dumps(start) + "\n", encoding="utf-8")
        tmp.rename(path)  # the writer finds the file with its first line
        self.file = open(path, "a", encoding="utf-8")
        if elsewhere:
            return
        if importlib.util.find_spec("mlflow") is None:
            print("tracking: mlflow is not installed; the metrics files hold everything", file=sys.stderr)
            return
        if (failed := folder / "failed").exists():
            why = failed.read_text(encoding="utf-8").strip()
            print(f"tracking: {why}; what was not written waits in {FOLDER}", file=sys.stderr)
        for note in folder.glob("aside-*"):
            print(f"tracking: {note.read_text(encoding='utf-8')}", file=sys.stderr)
            note.unlink(missing_ok=True)
        ensure_writer(self.root)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(failed=kind is not None)

    def send(self, *message):
        with self.lock:
            self.file.write(json.dumps(message) + "\n")
            self.file.flush()

    def log(self, step, metrics, prefix=""):
        """Send metrics (a dict of floats) for `step`."""
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            self.send("metric", f"{prefix}{key}", float(value), now, step)

    def artifact(self, path):
        """Send a copy of a file."""
        folder = Path(self.file.name).with_suffix("")
        folder.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / Path(path).name)
        self.send("artifact", f"{FOLDER}/{folder.name}/{Path(path).name}")

    def close(self, failed=False):
        self.send("status", "FAILED" if failed else "FINISHED")
        self.file.close()


def producer():
    """This process, as another one can tell whether it is still there."""
    return [os.getpid(), psutil.Process().create_time()]


def alive(pid, created):
    try:
        return psutil.Process(pid).create_time() == created
    except psutil.NoSuchProcess:
        return False


def receive(root, files):
    """Bring what stages sent on another machine, {path in DISTILLERY_TRACKING: bytes}, to this repository's MLflow."""
    folder = (root := Path(root).resolve()) / FOLDER
    for name in sorted(files, key=lambda name: name.endswith(".jsonl")):  # artifacts are there before what names them
        (path := folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp := path.with_suffix(".tmp")).write_bytes(files[name])
        tmp.rename(path)
    if files and importlib.util.find_spec("mlflow"):
        ensure_writer(root)


def ensure_writer(root):
    """Start the writer of this repository unless one is at work."""
    try:
        with FileLock(root / FOLDER / "writer.lock", timeout=0):
            pass
    except Timeout:
        return
    defaults = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    defaults |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "OMP_NUM_THREADS": "1"}
    with open(
        root / FOLDER / "writer.log", "w"
    ) as log:  # not the stage's own output, whose reader would wait for the writer
        command = [sys.executable, "-m", "lib.tracking", str(root)]
        where, env = Path(__file__).parents[1], defaults | os.environ
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=where, env=env, start_new_session=True
        )


class Run:
    """The MLflow run of one file of lines."""

    def __init__(self, client, path):
        self.client, self.path, self.position, self.id, self.status = client, path, 0, None, None
        with open(path, "rb") as file:
            self.producer = json.loads(file.readline())[-1]

    def lines(self):
        """The complete lines that have come since the last call."""
        with open(self.path, "rb") as file:
            file.seek(self.position)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def write(self):
        """Put what has come into MLflow -> whether the run has ended."""
        from mlflow.entities import Metric

        ended, metrics = not alive(*self.producer), []  # asked before reading, so that nothing comes after
        for kind, *item in self.lines():
            if kind == "start":
                self.start(*item)
            elif kind == "metric":
                metrics.append(Metric(*item))
            elif kind == "artifact" and (file := self.path.parents[1].joinpath(*item)).is_file():
                self.client.log_artifact(self.id, str(file))
            elif kind == "status":
                (self.status,) = item
        for first in range(0, len(metrics), BATCH):
            self.client.log_batch(self.id, metrics=metrics[first : first + BATCH])
        if not self.status and not ended:
            return False
        self.client.set_terminated(self.id, self.status or "KILLED")  # a stage that ended without a word was killed
        self.path.unlink()
        shutil.rmtree(self.path.with_suffix(""), ignore_errors=True)
        return True

    def start(self, experiment, name, tags, params, _):
        from mlflow.entities import Param
        from mlflow.store.db.db_types import DATABASE_ENGINES

        found, local = self.client.get_experiment_by_name(experiment), None
        if self.client.tracking_uri.startswith(tuple(DATABASE_ENGINES)):  # MLflow would take ./mlruns beside a database
            local = (self.path.parents[1] / "mlartifacts").as_uri()
        number = found.experiment_id if found else self.client.create_experiment(experiment, artifact_location=local)
        self.id = self.client.create_run(number, run_name=name, tags=tags).info.run_id
        self.client.log_batch(self.id, params=[Param(*pair) for pair in params.items()])


def client_of(root):
    """MLflow's client of the store; None where a half-made database was put aside, so that another process is needed.

    MLflow keeps its connections to a database as long as the process lives.
    """
    from mlflow import MlflowClient

    os.chdir(root)  # no character of a relative path means something else in a URI, as ? # and %20 do
    try:
        return MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}")
    except Exception:
        if os.environ.get("MLFLOW_TRACKING_URI") or may_hold_runs(root / DATABASE):
            raise
    name = f"{DATABASE}.{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", "-journal", "-wal", "-shm"):  # those beside it are sqlite's, and of no other database
        if (path := root / f"{DATABASE}{suffix}").exists():
            path.rename(root / f"{name}{suffix}")
    note = f"{DATABASE} was half-made and held no run: its writer was killed. It is now {name}, and a new one is made"
    (root / FOLDER / f"aside-{name}").write_text(note, encoding="utf-8")
    return None


def may_hold_runs(path):
    """Whether a database that MLflow refuses has runs in it, as an older MLflow's has, or is not to be read now."""
    try:
        with closing(sqlite3.connect(path)) as database:
            return database.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None
    except sqlite3.DatabaseError as error:  # no such table; damaged; not a database
        return error.sqlite_errorcode not in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def write(root):
    """Put what stages send into MLflow, until none has been running for a while."""
    folder = root / FOLDER
    while True:
        try:
            with FileLock(folder / "writer.lock", timeout=0):
                client = client_of(root)
                if client:
                    work(client, folder)
        except Timeout:  # another writer was quicker
            return
        if not client:
            return ensure_writer(root)
        if not list(folder.glob("*.jsonl")):  # nothing came between its last look and giving the lock back
            return


def work(client, folder):
    """One writer's work, under the lock."""
    runs, busy = {}, time.monotonic()
    while time.monotonic() - busy < IDLE:
        for path in sorted(folder.glob("*.jsonl")):
            busy = time.monotonic()
            if path not in runs:
                runs[path] = Run(client, path)
            if runs[path].write():
                del runs[path]
            (folder / "failed").unlink(missing_ok=True)
        time.sleep(PAUSE)


if __name__ == "__main__":
    repository = Path(sys.argv[1])
    try:
        write(repository)
    except Exception as error:  # whatever the tracking server does, the stages go on
        why = f"stopped ({type(error).__name__}: {str(error)[:200]})"
        (repository / FOLDER / "failed").write_text(why, encoding="utf-8")
        raise
