"""What is kept of a row between runs, by all that its result depends on: checkpoints, and what is finished."""

import hashlib
import json
import shutil

import torch

from lib.files import link, read_json, sha256, write_json
from lib.training.trajectories import INDEX

from .common import EXPERTS, PREPROCESSING, ROOT
from .force import forced

CHECKPOINTS = ROOT / ".checkpoints"  # outside of what DVC hashes and removes


def inputs_of_cell(recipe):
    """What a seed's set depends on: the recipe without its list of seeds, and the files that stand for the data."""
    cell = recipe.cell
    inputs = [PREPROCESSING / f"{cell.preprocessing}.safetensors"]
    inputs += [EXPERTS / cell.experts / INDEX] if recipe.experts else []
    return recipe.changed(cell=cell.changed(distill=cell.distill.changed(seeds=()))), inputs


def inputs_of_experts(recipe):
    """What an expert depends on: the recipe without how many there are, and the file that stands for the data."""
    fewest = recipe.changed(experts=recipe.experts.changed(count=1, held_out=0))
    return fewest, [PREPROCESSING / f"{recipe.experts.preprocessing}.safetensors"]


def identity(recipe, inputs, version=torch.__version__, digest=sha256):
    """A name for all that a result depends on: its recipe, the data and torch's version."""
    digests = {str(path): digest(path) for path in inputs}
    whole = json.dumps([recipe.plain(), digests, version], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


class Workplace:
    """A row's folder: checkpoints, and under `done/` what is finished, with a record each.

    It is named by the identity of the recipe and inputs, so that no other run finds it. Under `dvc repro --force` it is
    emptied first.
    """

    def __init__(self, recipe, inputs):
        self.identity = identity(recipe, inputs)
        self.folder = CHECKPOINTS / recipe.key / self.identity
        self.done = self.folder / "done"
        if forced():
            shutil.rmtree(self.folder, ignore_errors=True)
        self.done.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, name):
        return self.folder / f"{name}.safetensors"

    def finish(self, name, record, files):
        """Keep the record (a dict) of what is finished, with the digests of its files in `done`; its checkpoints go."""
        write_json(self.done / f"{name}.record.json", {**record, "files": {path.name: sha256(path) for path in files}})
        for path in self.folder.glob(f"{name}.*"):
            path.unlink()

    def finished(self, name):
        """The record of what is finished, or None where it is not, or a file of it has changed."""
        path = self.done / f"{name}.record.json"
        record = read_json(path) if path.is_file() else {"files": {}}
        files = {self.done / name: digest for name, digest in record["files"].items()}
        whole = files and all(file.is_file() and sha256(file) == digest for file, digest in files.items())
        return record if whole else None

    def deliver(self, names, out):
        """Put the files of what is finished, and no others, into `out`, without storing them twice -> the records."""
        for path in out.glob("*"):
            path.unlink()
        records = [self.finished(name) for name in names]
        for file in (file for record in records for file in record["files"]):
            link(self.done / file, out / file)
        return records
