"""Fit a preprocessing (standardisation and ZCA, or word vectors) on a training set: `python -m stages whiten PREPROCESSING`."""

from lib.data.preprocess import fit
from lib.data.real import load_arrays
from lib.data.text import fit_words
from lib.files import read_json
from lib.schema import Words

from .common import PREPARED, PREPROCESSING
from .own import archives_of


def stage(params, key):
    """Fit one preprocessing of params.yaml."""
    cfg = params.preprocessing[key]
    folder = PREPARED / cfg.dataset
    if isinstance(cfg, Words):
        fit_words(cfg, read_json(folder / "words.json"), archives_of(params)).save(PREPROCESSING / f"{key}.safetensors", vectors=cfg.vectors)
        return
    pixels, _ = load_arrays(folder, "train")
    fit(cfg, pixels, read_json(folder / "manifest.json")).save(PREPROCESSING / f"{key}.safetensors")
