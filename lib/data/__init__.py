"""Real data, from archives to tensors on the device. Imports nothing of lib but files, rng and registry."""

from ..registry import Registry

READERS = Registry(__name__)  # {source: reader}; a reader yields the examples of one split, in the file's order
