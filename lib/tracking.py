"""MLflow, and nothing but MLflow: a run per stage, written by a thread of its own so that training never waits.

The metrics files are the record, MLflow is the browser: a server that is down or a missing package costs one line of
warning. The store is `mlflow.db` at the repository's root unless MLFLOW_TRACKING_URI names another.
"""

import os
import queue
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

FLUSH_EVERY = 2.0  # seconds between batches of metrics
PATIENCE = 15.0  # seconds that closing may wait for what is not yet written
BATCH = 1000  # MLflow's own limit on one batch of metrics

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


class Tracker:
    """One MLflow run. `log`, `artifact` and `close` never raise and never wait (`close` at most PATIENCE seconds)."""

    def __init__(self, root, name, tags, params, experiment="distillery"):
        self.queue = queue.SimpleQueue()
        self.stop = threading.Event()
        args = (Path(root), experiment, name, tags, params)
        self.thread = threading.Thread(target=self._work, args=args, daemon=True, name="mlflow")
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(failed=kind is not None)

    def log(self, step, metrics, prefix=""):
        """Queue metrics (a dict of floats) for `step`."""
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            self.queue.put(("metric", f"{prefix}{key}", float(value), now, step))

    def artifact(self, path):
        """Queue a file, which must stay where it is until `close`."""
        self.queue.put(("artifact", str(path)))

    def close(self, failed=False):
        self.queue.put(("status", "FAILED" if failed else "FINISHED"))
        self.stop.set()
        self.thread.join(PATIENCE)

    def _work(self, root, experiment, name, tags, params):
        try:
            client, run_id = self._start(root, experiment, name, tags, params)
            while not self.stop.wait(FLUSH_EVERY):
                self._flush(client, run_id)
            self._flush(client, run_id)
        except ImportError:
            print("tracking: mlflow is not installed; the metrics files hold everything", file=sys.stderr)
        except Exception as error:  # whatever the tracking server does, the stage goes on
            print(f"tracking: stopped ({type(error).__name__}: {str(error)[:200]}); the metrics files hold everything", file=sys.stderr)

    @staticmethod
    def _start(root, experiment, name, tags, params):
        from filelock import FileLock
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
        artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else (root / "mlartifacts").as_uri()
        with nullcontext() if artifacts is None else FileLock(root / ".mlflow.lock"):
            # Several processes that create the database at the same moment break its migration.
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location=artifacts)
        run = client.create_run(experiment_id, run_name=name, tags=tags)
        client.log_batch(run.info.run_id, params=[Param(k, str(v)[:500]) for k, v in params.items()])
        return client, run.info.run_id

    def _flush(self, client, run_id):
        from mlflow.entities import Metric

        metrics, status = [], None
        while not self.queue.empty():
            kind, *item = self.queue.get()
            if kind == "metric":
                metrics.append(Metric(*item))
            elif kind == "artifact":
                client.log_artifact(run_id, item[0])
            else:
                status = item[0]
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        if status:
            client.set_terminated(run_id, status)
