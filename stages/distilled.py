"""The files of a cell's distilled sets, once they are known to be what `distill` wrote."""

from lib.files import check_digest
from lib.records import History, read_record


def as_written(path):
    """The path of a seed's file, if it has the digest that `distill` wrote into history.json; else FileError."""
    history = path.with_name("history.json")
    seeds = read_record(history, History)["seeds"].values() if history.is_file() else ()
    digests = {name: digest for seed in seeds for name, digest in seed["files"].items()}
    check_digest(path, digests.get(path.name), f"distil the cell: `dvc repro distill@{path.parent.name}`")
    return path


def sets_at(folder, seeds, name="seed{}.safetensors"):
    """The paths of each seed's set, as written."""
    return [as_written(folder / name.format(seed)) for seed in seeds]
