"""Where the user's own files are: a variable comes before params.yaml."""

import os


def archives_of(params):
    """The folder of the user's own archives, or None."""
    return os.environ.get("DISTILLERY_ARCHIVES") or params.runtime.archives


def imagenet_of(params):
    """The folder of the user's copy of ImageNet-1K, or None."""
    return os.environ.get("DISTILLERY_IMAGENET") or params.runtime.imagenet_dir
