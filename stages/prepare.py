"""Download, verify and decode a dataset into arrays: `python -m stages prepare DATASET`."""

from lib.data.prepare import prepare

from .common import PREPARED, ROOT
from .own import archives_of, imagenet_of


def stage(params, key):
    """Prepare one dataset of params.yaml."""
    prepare(key, params.datasets[key], PREPARED / key, ROOT / "data" / "downloads", archives_of(params), imagenet_of(params))
