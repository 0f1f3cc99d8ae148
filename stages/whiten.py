"""Fit a preprocessing (standardisation, ZCA) on a training set: `python -m stages.whiten PREPROCESSING`."""

from lib.data.preprocess import fit
from lib.data.real import load_arrays
from lib.files import read_json

from .common import PREPARED, PREPROCESSING, main


def stage(params, key):
    """Fit one preprocessing of params.yaml."""
    cfg = params.preprocessing[key]
    folder = PREPARED / cfg.dataset
    pixels, _ = load_arrays(folder, "train")
    fit(cfg, pixels, read_json(folder / "manifest.json")).save(PREPROCESSING / f"{key}.safetensors")


if __name__ == "__main__":
    main(stage, "preprocessing")
