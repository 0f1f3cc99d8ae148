"""Fit a preprocessing (standardisation and ZCA, or word vectors) on a training set: `python -m stages whiten KEY`."""

from lib.data.preprocess import fit
from lib.data.real import checked_file, load_arrays, manifest_of
from lib.data.text import fit_words
from lib.files import read_json, sha256

from .common import PREPARED, PREPROCESSING
from .user_files import archives_of


def stage(recipe, runtime):
    """Fit one preprocessing of params.yaml; the digest of the dataset goes with it, for those that depend on both."""
    cfg, out = recipe.preprocessing, PREPROCESSING / f"{recipe.key}.safetensors"
    folder = PREPARED / cfg.dataset
    manifest, meta = manifest_of(folder), {"dataset": sha256(folder / "manifest.json")}
    if manifest.get("text"):
        words = read_json(checked_file(folder, manifest, "words.json"))
        fit_words(cfg, words, archives_of(runtime)).save(out, vectors=cfg.vectors, **meta)
        return
    pixels, _ = load_arrays(folder, "train")
    fit(cfg, pixels, manifest).save(out, **meta)
