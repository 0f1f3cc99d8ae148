"""All that a row's results depend on, as a name for the folder of what is kept of it."""

import hashlib
import json
import os
from pathlib import Path

import torch

from lib.files import sha256
from lib.records import Finished, read_record
from lib.training.checkpoint import Checkpoint
from lib.training.compute import DTYPES
from lib.training.trajectories import INDEX

from .common import EXPERTS, PREPROCESSING, ROOT

# Outside of what DVC hashes and removes; a folder that machines share, so that one goes on with what another began.
CHECKPOINTS = ROOT / Path(os.environ.get("DISTILLERY_CHECKPOINTS") or ".checkpoints").expanduser()


def inputs_of_cell(recipe):
    """What a seed's set depends on: the recipe without its list of seeds, and the files that stand for the data."""
    cell = recipe.cell
    inputs = [PREPROCESSING / f"{cell.preprocessing}.safetensors"]
    inputs += [EXPERTS / cell.experts / INDEX] if recipe.experts else []
    return recipe.changed(cell=cell.changed(distill=cell.distill.changed(seeds=()))), inputs


def inputs_of_evaluation(recipe, sets):
    """What accuracies depend on: the recipe, the files that stand for the data, and those of the cell's sets."""
    return recipe, [*inputs_of_cell(recipe)[1], *sets]


def inputs_of_experts(recipe):
    """What an expert depends on: the recipe without how many there are, and the file that stands for the data."""
    fewest = recipe.changed(experts=recipe.experts.changed(count=1, held_out=0))
    return fewest, [PREPROCESSING / f"{recipe.experts.preprocessing}.safetensors"]


def identity(recipe, inputs, version=torch.__version__, digest=sha256):
    """A name for all that a result depends on: its recipe, the data and torch's version."""
    digests = {str(path): digest(path) for path in inputs}
    whole = json.dumps([recipe.plain(), digests, version], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def identities(recipe, version=torch.__version__, digest=sha256):
    """The names that a cell's run may have, one a dtype that `fast` stands for; none where its data are not here."""
    recipe, files = inputs_of_cell(recipe)
    cell, there = recipe.cell, all(path.is_file() for path in files)
    dtypes = DTYPES if cell.distill.conv_dtype == "fast" else [cell.distill.conv_dtype]
    cells = [cell.changed(distill=cell.distill.changed(conv_dtype=dtype)) for dtype in dtypes if there]
    return [identity(recipe.changed(cell=each), files, version, digest) for each in cells]


def holds(key, names, seeds):
    """Whether one of these folders of a row keeps the very files of `seeds`, {seed: its record in history.json}.

    `accept` renames the folder, and leaves the history its old identity.
    """
    files = {f"done/seed{seed}.record.json": made["files"] for seed, made in seeds.items()}
    folders = [CHECKPOINTS / key / name for name in names if (CHECKPOINTS / key / name).is_dir()]
    paths = [{folder / name: digests for name, digests in files.items()} for folder in folders]
    return any(all(p.is_file() and read_record(p, Finished)["files"] == d for p, d in each.items()) for each in paths)


def rename(key, before, after):
    """Give what is kept of a row a new identity, so that further seeds, experts and steps join it."""
    old, new = CHECKPOINTS / key / before, CHECKPOINTS / key / after
    if not old.exists() or new.exists():
        return
    old.rename(new)
    for path in new.glob("*.safetensors"):
        Checkpoint(path, owner(path.stem, before)).give_to(owner(path.stem, after))


def owner(name, identity):
    """Whose state a checkpoint is."""
    return f"{name} of {identity}"
