"""Download, verify and decode a dataset into arrays: `python -m stages.prepare DATASET`."""

import os

from lib.data.prepare import prepare

from .common import PREPARED, ROOT, main


def stage(params, key):
    """Prepare one dataset of params.yaml."""
    archives = os.environ.get("DISTILLERY_ARCHIVES") or params.runtime.archives
    prepare(key, params.datasets[key], PREPARED / key, ROOT / "data" / "downloads", archives)


if __name__ == "__main__":
    main(stage, "datasets")
