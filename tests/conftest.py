"""Shared by the tests: real data prepared once, and a copy of the project to run the pipeline in."""

import os
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from lib.config.load import load_params
from lib.data.prepare import prepare

from .toy import clone, commit, dvc, edit, project_copy, toy, tracked

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("DISTILLERY_ARCHIVES", ROOT.parent / "shared" / "data"))


# Minutes each. The second worker begins with what does not wait for `finished`, which the first one makes.
LONG = "test_pipeline", "test_expert_stages", "test_recipes", "test_resume", "test_hostile", "test_own_networks"


def pytest_collection_modifyitems(items):
    """Files that take long come first, so that no worker is left alone with one at the end."""
    names = [Path(item.fspath).stem for item in items]
    ranked = sorted(range(len(items)), key=lambda i: LONG.index(names[i]) if names[i] in LONG else len(LONG))
    items[:] = [items[i] for i in ranked]


@pytest.fixture(scope="session")
def archives():
    """The folder of real archives; tests that need it are skipped where it is not."""
    if not (SHARED / "mnist").is_dir():
        pytest.skip("no folder of real archives (set DISTILLERY_ARCHIVES)")
    return SHARED


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder that all workers share."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session")
def prepared(shared):
    """prepared(name, archives=None): a dataset of params.yaml, prepared once for all tests -> its folder."""
    root = shared / "prepared"
    root.mkdir(exist_ok=True)

    def get(name, archives=None):
        with FileLock(root / f"{name}.lock"):
            if not (root / name).exists():
                prepare(name, load_params().datasets[name], root / name, root / "downloads", archives)
        return root / name

    return get


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A committed copy of the project as it is on disk -> its folder."""
    return project_copy(tmp_path_factory.mktemp("project") / "distillery")


@pytest.fixture(scope="session")
def finished(project, shared):
    """The toy suite, run once for all workers from a clean copy -> (folder, what DVC printed).

    A test works in a copy of it: `toy.copied`.
    """
    folder, log = shared / "finished", shared / "finished.log"
    with FileLock(f"{folder}.lock"):
        if not log.exists():
            clone(project, folder)
            edit(folder, toy)
            output = dvc(folder, "repro", "report@digits")
            subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
            commit(folder)
            tracked(folder)
            log.write_text(output)
    return folder, log.read_text()
