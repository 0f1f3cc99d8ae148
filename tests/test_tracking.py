"""Tracking with real MLflow on sqlite, without a server, and without MLflow."""

import subprocess
import sys
import time

import pytest

from lib.tracking import Tracker

TAGS = {"cell": "digits-frepo-digits-ipc1", "git.commit": "abc"}


@pytest.fixture
def local(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def finished_run(root):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("distillery")
    return client, client.search_runs([experiment.experiment_id])


def test_run_holds_tags_params_metrics_and_artifacts(tmp_path, local, monkeypatch):
    monkeypatch.setattr("lib.tracking.PATIENCE", 60)
    tracker = Tracker(tmp_path, "distill@cell", TAGS, {"ipc": 1})
    for step in range(2500):
        tracker.log(step, {"loss": step / 2}, "seed0/")
    (tmp_path / "grid.png").write_bytes(b"png")
    tracker.artifact(tmp_path / "grid.png")
    tracker.close()
    client, (run,) = finished_run(tmp_path)
    assert run.info.run_name == "distill@cell" and run.info.status == "FINISHED"
    assert run.data.tags["cell"] == TAGS["cell"] and run.data.params["ipc"] == "1"
    history = client.get_metric_history(run.info.run_id, "seed0/loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [(s, s / 2) for s in range(2500)]
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["grid.png"]


def test_two_processes_may_create_the_store_at_once(tmp_path, local):
    code = f"import lib.tracking as t; t.PATIENCE = 60; k = t.Tracker({str(tmp_path)!r}, 'run', {{}}, {{}}); k.log(0, {{'a': 1}}); k.close()"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [p.communicate(timeout=120)[1] for p in processes]
    assert not any("tracking: stopped" in e for e in errors), errors
    assert len(finished_run(tmp_path)[1]) == 3


def test_a_dead_server_delays_nothing_and_says_so_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    tracker = Tracker(tmp_path, "run", TAGS, {})
    for step in range(1000):
        tracker.log(step, {"loss": 1.0})
    assert time.monotonic() - started < 1.0
    tracker.close()
    assert time.monotonic() - started < 20
    assert capfd.readouterr().err.count("tracking: stopped") == 1


def test_without_mlflow_a_stage_says_so_and_goes_on(tmp_path, monkeypatch, capfd):
    (tmp_path / "mlflow.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tracker = Tracker(tmp_path, "run", {}, {})
    tracker.writer.wait(60)
    tracker.log(0, {"a": 1})
    tracker.close()
    assert capfd.readouterr().err.count("mlflow is not installed") == 1


def test_a_killed_stage_leaves_a_run_that_says_so(tmp_path, local):
    code = f"import os; from lib.tracking import Tracker; Tracker({str(tmp_path)!r}, 'run', {{}}, {{}}).log(0, {{'a': 1}}); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=120)  # waits for the writer, which holds stderr too
    assert done.returncode == -9 and b"tracking:" not in done.stderr
    _, (run,) = finished_run(tmp_path)
    assert run.info.status == "KILLED" and run.data.metrics == {"a": 1}
