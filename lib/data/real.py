"""The real set, preprocessed, on the device as one tensor: a batch is an index."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..files import FileError, read_json
from ..rng import restore
from .preprocess import Preprocess

BLOCK = 10000


@dataclass
class RealSet:
    """x (n, K, H, W) float32 and y (n,) of both splits on the device, the transform that made them, and the manifest."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    preprocess: Preprocess
    manifest: dict

    @property
    def shape(self):
        return tuple(self.train_x.shape[1:])

    @property
    def num_classes(self):
        return self.manifest["num_classes"]


def load_arrays(folder, split):
    """x (n, K, H, W) uint8, memory-mapped, and y (n,) int64 of a prepared dataset."""
    try:
        x = np.load(Path(folder) / f"{split}_x.npy", mmap_mode="r", allow_pickle=False)
        return x, np.load(Path(folder) / f"{split}_y.npy", allow_pickle=False)
    except FileNotFoundError as error:
        raise FileError(f"{error.filename}: not found; prepare the dataset first (`dvc repro prepare@{Path(folder).name}`)") from None
    except ValueError as error:
        raise FileError(f"{folder}: {split} arrays are damaged ({error}); prepare the dataset again (`dvc repro -f prepare@{Path(folder).name}`)") from None


def load_real(folder, preprocess_path, device):
    """Load a prepared dataset, preprocess it and put it on the device."""
    manifest = read_json(Path(folder) / "manifest.json")
    preprocess = Preprocess.load(preprocess_path)
    tensors = []
    for split in ("train", "test"):
        pixels, labels = load_arrays(folder, split)
        x = torch.empty(pixels.shape, device=device)
        for start in range(0, len(pixels), BLOCK):
            block = torch.from_numpy(pixels[start : start + BLOCK].astype(np.float32)).to(device) / 255
            x[start : start + BLOCK] = preprocess.apply(block)
        tensors += [x, torch.from_numpy(labels).to(device)]
    return RealSet(*tensors, preprocess, manifest)


class Batches:
    """Endless batches of indices: one random permutation of the set after another, batches may straddle two of them."""

    def __init__(self, n, batch, generator):
        self.n, self.batch, self.generator = n, batch, generator
        self.left = torch.empty(0, dtype=torch.long, device=generator.device)

    def next(self):
        while len(self.left) < self.batch:
            order = torch.randperm(self.n, generator=self.generator, device=self.generator.device)
            self.left = torch.cat([self.left, order])
        indices, self.left = self.left[: self.batch], self.left[self.batch :]
        return indices

    def state_dict(self):
        return {"left": self.left, "rng": self.generator.get_state()}

    def load_state_dict(self, state):
        self.left = state["left"]
        restore(self.generator, state["rng"])
