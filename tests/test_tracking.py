"""Tracking with real MLflow on sqlite, without a server, and without MLflow."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from lib.tracking import Tracker

from .toy import tracked

TAGS = {"cell": "digits-frepo-digits-ipc1", "git.commit": "abc"}


@pytest.fixture
def local(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def finished_runs(root):
    """The client of a store and its runs, once all is written."""
    from mlflow import MlflowClient

    tracked(root)
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("distillery")
    return client, client.search_runs([experiment.experiment_id])


def test_run_holds_tags_params_metrics_and_artifacts(tmp_path, local):
    tracker = Tracker(tmp_path, "distill@cell", TAGS, {"ipc": 1})
    for step in range(2500):
        tracker.log(step, {"loss": step / 2}, "seed0/")
    (tmp_path / "grid.png").write_bytes(b"png")
    tracker.artifact(tmp_path / "grid.png")
    tracker.close()
    client, (run,) = finished_runs(tmp_path)
    assert run.info.run_name == "distill@cell" and run.info.status == "FINISHED"
    assert run.data.tags["cell"] == TAGS["cell"] and run.data.params["ipc"] == "1"
    history = client.get_metric_history(run.info.run_id, "seed0/loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [(s, s / 2) for s in range(2500)]
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["grid.png"]


def test_a_run_is_there_while_its_stage_works(tmp_path, local):
    Tracker(tmp_path, "first", TAGS, {}).close()
    client, _ = finished_runs(tmp_path)  # the store is made
    tracker, until, found = Tracker(tmp_path, "second", TAGS, {}), time.monotonic() + 60, {}
    tracker.log(0, {"a": 1})
    number = client.get_experiment_by_name("distillery").experiment_id
    while time.monotonic() < until and not (found.get("second") and found["second"].data.metrics):
        time.sleep(0.2)
        found = {run.info.run_name: run for run in client.search_runs([number])}
    assert found["second"].info.status == "RUNNING" and found["second"].data.metrics == {"a": 1}
    tracker.close(failed=True)
    assert {run.info.status for run in finished_runs(tmp_path)[1]} == {"FINISHED", "FAILED"}


def test_processes_at_once_share_one_writer(tmp_path, local):
    made = f"from lib.tracking import Tracker; k = Tracker({str(tmp_path)!r}, 'run', {{}}, {{}})"
    code = f"{made}; k.log(0, {{'a': 1}}); k.close()"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert not any(p.communicate(timeout=120)[1] for p in processes)
    _, runs = finished_runs(tmp_path)
    assert len(runs) == 3 and all(run.data.metrics == {"a": 1} for run in runs)
    assert not (tmp_path / ".tracking/failed").exists()


def test_what_a_dead_server_did_not_take_waits_for_the_next_writer(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    tracker = Tracker(tmp_path, "first", TAGS, {})
    for step in range(1000):
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    assert time.monotonic() - started < 1.0
    until = time.monotonic() + 60
    while not (tmp_path / ".tracking/failed").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not capfd.readouterr().err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    Tracker(tmp_path, "second", TAGS, {}).close()
    assert capfd.readouterr().err.count("tracking: stopped") == 1
    _, runs = finished_runs(tmp_path)
    assert {run.info.run_name: run.info.status for run in runs} == {"first": "FINISHED", "second": "FINISHED"}


def test_without_mlflow_a_stage_says_so_and_goes_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tracker = Tracker(tmp_path, "run", {}, {})
    tracker.log(0, {"a": 1})
    tracker.close()
    assert capfd.readouterr().err.count("mlflow is not installed") == 1
    (path,) = (tmp_path / ".tracking").glob("*.jsonl")
    assert [json.loads(line)[0] for line in path.read_text().splitlines()] == ["start", "metric", "status"]


def test_a_killed_stage_leaves_a_run_that_says_so(tmp_path, local):
    made = f"import time; from lib.tracking import Tracker; k = Tracker({str(tmp_path)!r}, 'run', {{}}, {{}})"
    code = f"{made}; k.log(0, {{'a': 1}}); print('there', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, (run,) = finished_runs(tmp_path)
    assert run.info.status == "KILLED" and run.data.metrics == {"a": 1}


def runs_in(database):
    """{name: status} of a store's runs, by sqlite alone."""
    with closing(sqlite3.connect(database)) as store:
        return dict(store.execute("SELECT name, status FROM runs"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A database that MLflow has made, without a run, for tests that need no migration -> its path."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("made") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


KILLED = """
import os, signal
from sqlalchemy import event
from sqlalchemy.engine import Engine

@event.listens_for(Engine, "after_cursor_execute")
def kill(connection, cursor, statement, *rest):
    if "CREATE TABLE _alembic_tmp_" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

from mlflow import MlflowClient
MlflowClient("sqlite:///mlflow.db")
"""


def test_a_database_whose_migration_was_killed_is_put_aside_and_a_new_one_takes_the_run(tmp_path, local, capfd):
    made = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == -signal.SIGKILL and (tmp_path / "mlflow.db").stat().st_size
    half = [path.name for path in tmp_path.glob("mlflow.db*")]
    Tracker(tmp_path, "first", TAGS, {}).close()
    tracked(tmp_path)
    assert runs_in(tmp_path / "mlflow.db") == {"first": "FINISHED"}
    aside = [path.name for path in tmp_path.glob("mlflow.db.*")]
    assert len(aside) == len(half) and not (tmp_path / ".tracking/failed").exists()
    Tracker(tmp_path, "second", TAGS, {}).close()
    Tracker(tmp_path, "third", TAGS, {}).close()
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "half-made" in line]
    assert f"It is now {min(aside)}," in line, "said once"


def test_a_database_of_another_version_that_holds_runs_stays_and_the_lines_wait(tmp_path, local, made):
    from mlflow import MlflowClient

    shutil.copy(made, tmp_path)
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").create_run("0", run_name="first")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        store.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        store.commit()
    Tracker(tmp_path, "second", TAGS, {}).close()
    until = time.monotonic() + 300
    while not (tmp_path / ".tracking/failed").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert "out-of-date database schema" in (tmp_path / ".tracking/failed").read_text()
    assert runs_in(tmp_path / "mlflow.db").keys() == {"first"} and not list(tmp_path.glob("mlflow.db.*"))
    assert len(list((tmp_path / ".tracking").glob("*.jsonl"))) == 1


@pytest.mark.parametrize("name", ["with space", "100%20 sure?", "a#b"])
def test_a_repository_may_have_any_path(tmp_path, local, made, name):
    root = tmp_path / name
    root.mkdir()
    shutil.copy(made, root)
    (root / "grid.png").write_bytes(b"png")
    tracker = Tracker(root, "run", TAGS, {})
    tracker.artifact(root / "grid.png")
    tracker.close()
    tracked(root)
    assert runs_in(root / "mlflow.db") == {"run": "FINISHED"}
    assert [path.name for path in root.glob("mlartifacts/*/artifacts/*")] == ["grid.png"]
    assert [path.name for path in tmp_path.iterdir()] == [name], "no folder of a name that was read as a URI"


def test_a_sqlite_store_of_the_users_own_leaves_no_mlruns_behind(tmp_path, monkeypatch, made):
    root, code = tmp_path / "repository", Path(__file__).parents[1]
    root.mkdir()
    shutil.copy(made, tmp_path / "mine.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mine.db'}")
    (root / "grid.png").write_bytes(b"png")
    tracker = Tracker(root, "run", TAGS, {})
    tracker.artifact(root / "grid.png")
    tracker.close()
    tracked(root)
    assert runs_in(tmp_path / "mine.db") == {"run": "FINISHED"} and not (root / "mlflow.db").exists()
    assert [path.name for path in root.glob("mlartifacts/*/artifacts/*")] == ["grid.png"]
    assert not any((folder / "mlruns").exists() for folder in (root, tmp_path, code))
