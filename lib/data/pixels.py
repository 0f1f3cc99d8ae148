"""Real images on a GPU whose float32 would fill it: bytes there, preprocessed where they are taken."""

from math import prod

from ..tensors import memory_of

SHARE = 0.25  # of a GPU's memory, that a split's images may take in float32


def fit_in_float32(shape, device):
    """Whether images (n, K, H, W) may lie on the device in float32. On a CPU they always may."""
    return device.type == "cpu" or 4 * prod(shape) <= SHARE * memory_of(device)


class Pixels:
    """Images as bytes uint8 (n, K, H, W) on the device, with a tensor's shape and indexing.

    Indexing gives preprocessed images (..., K, H, W) in float32; `rows` fewer images, still as bytes.
    preprocess: preprocess.Preprocess.
    """

    def __init__(self, pixels, preprocess):
        self.pixels, self.preprocess = pixels, preprocess.to(pixels.device)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        taken = self.pixels[index]
        return self.preprocess.apply(taken.reshape(-1, *taken.shape[-3:]).float() / 255).view(taken.shape)

    def rows(self, index):
        return Pixels(self.pixels[index], self.preprocess)

    def split(self, size):
        return (self[start : start + size] for start in range(0, len(self), size))

    @property
    def shape(self):
        return self.pixels.shape

    @property
    def device(self):
        return self.pixels.device


def rows(images, index):
    """The images that an index names: of Pixels, bytes too."""
    return images.rows(index) if isinstance(images, Pixels) else images[index]
