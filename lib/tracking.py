"""MLflow, and nothing but MLflow: a run per stage, written by a process of its own so that training never waits.

The metrics files are the record, MLflow is the browser: a server that is down or a missing package costs one line of
warning. The store is `mlflow.db` at the repository's root unless MLFLOW_TRACKING_URI names another.
"""

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

FLUSH_EVERY = 2.0  # seconds between batches of metrics
PATIENCE = 15.0  # seconds that closing may wait for what is not yet written
BATCH = 1000  # MLflow's own limit on one batch of metrics


_early = []  # the writer that `start_early` started, until a Tracker takes it


def start_early():
    """Start the next Tracker's writer now: importing MLflow takes it seconds, in which this process may import torch."""
    _early.append(_writer())


def _writer():
    defaults = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    command = [sys.executable, "-m", "lib.tracking"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], env=defaults | os.environ)


class Tracker:
    """One MLflow run. `log` and `artifact` never raise and never wait; `close` waits at most PATIENCE seconds."""

    def __init__(self, root, name, tags, params, experiment="distillery"):
        self.writer = _early.pop() if _early else _writer()
        self.lock = threading.Lock()  # groups of experts log from threads of their own
        self._send(str(Path(root).resolve()), experiment, name, tags, {key: str(value)[:500] for key, value in params.items()})

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(failed=kind is not None)

    def _send(self, *message):
        try:
            with self.lock:
                self.writer.stdin.write(json.dumps(message) + "\n")
                self.writer.stdin.flush()
        except (BrokenPipeError, ValueError):  # it has stopped, and has said why
            pass

    def log(self, step, metrics, prefix=""):
        """Send metrics (a dict of floats) for `step`."""
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            self._send("metric", f"{prefix}{key}", float(value), now, step)

    def artifact(self, path):
        """Send the path of a file, which must stay where it is until `close`."""
        self._send("artifact", str(Path(path).resolve()))

    def close(self, failed=False):
        self._send("status", "FAILED" if failed else "FINISHED")
        try:
            self.writer.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.writer.kill()


def write():
    """Put what comes as lines of JSON into MLflow, until there is no more; a run whose stage ended without a word was killed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the stage, which says when it has ended
        signal.signal(number, signal.SIG_IGN)
    messages, ended = queue.SimpleQueue(), threading.Event()

    def read():
        for line in sys.stdin:
            messages.put(json.loads(line))
        ended.set()

    try:
        importlib.import_module("mlflow")
        if not (header := sys.stdin.readline()):  # the stage's parameters were wrong
            return
        threading.Thread(target=read, daemon=True).start()
        client, run_id = start(*json.loads(header))
        status = None
        while not ended.wait(FLUSH_EVERY):
            status = flush(client, run_id, messages) or status
        client.set_terminated(run_id, flush(client, run_id, messages) or status or "KILLED")
    except ImportError:
        print("tracking: mlflow is not installed; the metrics files hold everything", file=sys.stderr)
    except Exception as error:  # whatever the tracking server does, the stage goes on
        print(f"tracking: stopped ({type(error).__name__}: {str(error)[:200]}); the metrics files hold everything", file=sys.stderr)


def start(root, experiment, name, tags, params):
    """Open the store and a run in it -> (client, run's id)."""
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.entities import Param

    root = Path(root)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else (root / "mlartifacts").as_uri()
    with nullcontext() if artifacts is None else FileLock(root / ".mlflow.lock"):
        # Several processes that create the database at the same moment break its migration.
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location=artifacts)
    run = client.create_run(experiment_id, run_name=name, tags=tags)
    client.log_batch(run.info.run_id, params=[Param(*pair) for pair in params.items()])
    return client, run.info.run_id


def flush(client, run_id, messages):
    """Write what has come -> the run's status, if it was among it."""
    from mlflow.entities import Metric

    metrics, status = [], None
    while not messages.empty():
        kind, *item = messages.get()
        if kind == "metric":
            metrics.append(Metric(*item))
        elif kind == "artifact":
            client.log_artifact(run_id, *item)
        else:
            (status,) = item
    for first in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + BATCH])
    return status


if __name__ == "__main__":
    write()
