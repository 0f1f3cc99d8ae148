"""What is kept of a row between runs, by all that its result depends on: checkpoints, and what is finished."""

import shutil

from lib.files import FileError, link, sha256
from lib.records import Finished, read_record, write_record
from lib.training.checkpoint import Checkpoint

from .force import forced
from .identity import CHECKPOINTS, identity, owner


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
        return Checkpoint(self.folder / f"{name}.safetensors", owner(name, self.identity))

    def finish(self, name, record, files):
        """Keep the record (a dict) of what is finished, with the digests of its files in `done`; its checkpoints go.

        Of what was lost and is here again, with the same bits, the former record stays: nothing after it has to run.
        """
        record["files"] = {path.name: sha256(path) for path in files}
        if (self._record(name) or {}).get("files") != record["files"]:
            write_record(self.done / f"{name}.record.json", record)
        self.checkpoint(name).remove()

    def _record(self, name):
        """What is recorded of this name, or None."""
        try:
            return read_record(self.done / f"{name}.record.json", Finished)
        except FileError:
            return None

    def finished(self, name):
        """The record of what is finished, or None where it is not, or where it or a file of it has changed."""
        if (record := self._record(name)) is None:
            return None
        files = {self.done / name: digest for name, digest in record["files"].items()}
        return record if all(file.is_file() and sha256(file) == digest for file, digest in files.items()) else None

    def deliver(self, names, out):
        """Put the files of what is finished, and no others, into `out`, without storing them twice -> the records."""
        for path in out.glob("*"):
            path.unlink()
        records = [self.finished(name) for name in names]
        for file in (file for record in records for file in record["files"]):
            link(self.done / file, out / file)
        return records
