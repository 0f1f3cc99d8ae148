"""Real data, from archives to tensors on the device. Imports nothing of lib but files, rng and registry."""

from ..files import parsing
from ..registry import Registry

READERS = Registry(__name__)  # {source: reader}; a reader yields the examples of one split, in the file's order


def examples_of(source, files, *rest):
    """Yield what the reader of a source does; FileError where the files are not laid out as they are published."""
    with parsing(", ".join(map(str, files)), f"not laid out as {source} is published", "get it again"):
        yield from READERS[source](files, *rest)
