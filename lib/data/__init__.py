"""Real data: archives, readers, preparation, preprocessing, the real set on the device. Imports nothing of lib but files, rng and registry."""

from ..registry import Registry

READERS = Registry(__name__)  # of a source's archives: one split's examples, in the file's order
