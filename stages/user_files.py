"""Where the user's own files are: a variable comes before params.yaml's runtime."""

import os


def archives_of(runtime):
    """The folder of the user's own archives, or None."""
    return os.environ.get("DISTILLERY_ARCHIVES") or runtime.archives


def imagenet_of(runtime):
    """The folder of the user's copy of ImageNet-1K, or None."""
    return os.environ.get("DISTILLERY_IMAGENET") or runtime.imagenet_dir
