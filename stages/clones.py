"""A clone of this commit on each machine that works for it; results go through a remote of DVC's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from configobj import ConfigObj

from lib.config.settings import ParamsError


def out(*words, cwd=None):
    """What a command prints; CalledProcessError, with its message in stderr, where it fails."""
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def origin(remote):
    """What a worker on another machine needs to make a clone of this commit. ParamsError where it could not."""
    if edits := out("git", "status", "--porcelain", "--", ".", ":!dvc.lock", ":!reports"):  # which stages write
        raise ParamsError(f"fanout: results belong to a commit; commit these first, or take them back:\n{edits}")
    known = [line.split()[0] for line in out(sys.executable, "-m", "dvc", "remote", "list").splitlines()]
    if remote not in known:
        raise ParamsError(f"fanout: found --remote {remote}; DVC has {known}; `dvc remote add NAME URL` makes one")
    try_remote(remote)
    if (pushed := "origin" in out("git", "remote").split()) and not out("git", "branch", "-r", "--contains", "HEAD"):
        raise ParamsError("fanout: the last commit is not at origin, where the workers would look for it; `git push`")
    url = out("git", "remote", "get-url", "origin") if pushed else str(Path.cwd())
    config = ConfigObj(".dvc/config.local", list_values=False)  # as DVC reads it
    config.merge({"core": {"remote": remote}})
    config.filename = None
    return {"url": url, "commit": out("git", "rev-parse", "HEAD"), "config": "\n".join(config.write()) + "\n"}


def try_remote(remote):
    """ParamsError unless DVC can read the run cache of the remote, by which results come back."""
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            repo.stage_cache.pull(remote)
    except Exception as error:  # of the library for this kind of remote
        raise ParamsError(f"fanout: the remote {remote} cannot be used: {error}") from None


def cache():
    """A worker's folder for clones, and for checkpoints where no other is named."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distillery"


def clone(where, address):
    """A node's clone of the commit, as `origin` has it -> its folder. It stays, for the next stage on this node."""
    from filelock import FileLock

    folder = cache() / f"{where['commit'][:12]}-{address}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            new = Path(f"{folder}.new")
            shutil.rmtree(new, ignore_errors=True)  # of a worker that was killed in the midst of it
            out("git", "clone", "--quiet", where["url"], str(new))
            out("git", "checkout", "--quiet", where["commit"], cwd=new)
            new.replace(folder)
        (folder / ".dvc/config.local").write_text(where["config"], encoding="utf-8")
    return str(folder)


def bring_back(remote, names):
    """Have the stages here as they are in the remote. Computes nothing: all of them are in its run cache."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(remote=remote) as repo:
            repo.fetch(run_cache=True, targets=["plan"])
            repo.reproduce(names, pull=True)
    except (DvcException, OSError) as error:
        again = "what the workers computed is there; run it again when it answers"
        raise ParamsError(f"fanout: the remote {remote} could not be read: {error}; {again}") from None
