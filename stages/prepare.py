"""Download, verify and decode a dataset into arrays: `python -m stages prepare DATASET`."""

from lib.data.prepare import prepare

from .common import PREPARED, ROOT, own_path
from .user_files import archives_of, imagenet_of


def stage(recipe, runtime):
    """Prepare one dataset of params.yaml."""
    key, downloads = recipe.key, ROOT / "data" / "downloads"
    dataset = recipe.dataset.changed(folder=own_path(recipe.dataset.folder))
    prepare(key, dataset, PREPARED / key, downloads, archives_of(runtime), imagenet_of(runtime))
