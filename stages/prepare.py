"""Download, verify and decode a dataset into arrays: `python -m stages prepare DATASET`."""

from lib.data.prepare import prepare

from .common import PREPARED, ROOT
from .user_files import archives_of, imagenet_of


def stage(recipe, runtime):
    """Prepare one dataset of params.yaml."""
    key, downloads = recipe.key, ROOT / "data" / "downloads"
    prepare(key, recipe.dataset, PREPARED / key, downloads, archives_of(runtime), imagenet_of(runtime))
