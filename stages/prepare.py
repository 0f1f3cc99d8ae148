"""Download, verify and decode a dataset into arrays: `python -m stages.prepare DATASET`."""

import os

from lib.data.prepare import prepare

from .common import PREPARED, ROOT, main


def archives_of(params):
    """The folder of the user's own archives, or None."""
    return os.environ.get("DISTILLERY_ARCHIVES") or params.runtime.archives


def stage(params, key):
    """Prepare one dataset of params.yaml."""
    prepare(key, params.datasets[key], PREPARED / key, ROOT / "data" / "downloads", archives_of(params))


if __name__ == "__main__":
    main(stage, "datasets")
