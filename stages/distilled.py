"""The files of a cell's distilled sets, once they are known to be what `distill` wrote."""

from lib.files import FileError, sha256
from lib.records import History, read_record


def as_written(path):
    """The path of a seed's file, if it has the digest that `distill` wrote into history.json; else FileError.

    A file that was changed in place has changed DVC's cache too, where both are one file, and DVC believes what is
    read-only in its cache. So the file is made writable and new: DVC looks at it again, and `distill` mends it.
    """
    history = path.with_name("history.json")
    seeds = read_record(history, History)["seeds"].values() if history.is_file() else ()
    digests = {name: digest for seed in seeds for name, digest in seed["files"].items()}
    again = f"`dvc repro distill@{path.parent.name}`"
    if path.name not in digests or not path.is_file():
        raise FileError(f"{path}: not found, or not in the history.json beside it; distil the cell: {again}")
    if (found := sha256(path)) != digests[path.name]:
        path.chmod(0o644)
        path.touch()
        wanted = f"found SHA-256 {found[:12]}..., where history.json has {digests[path.name][:12]}..."
        raise FileError(f"{path}: changed since `distill` wrote it, {wanted}; {again} makes it again")
    return path


def sets_at(folder, seeds, name="seed{}.safetensors"):
    """The paths of each seed's set, as written."""
    return [as_written(folder / name.format(seed)) for seed in seeds]
