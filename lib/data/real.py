"""The real set, preprocessed, on the device as one tensor: a batch is an index."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..files import check_digest
from ..records import Manifest, read_record
from .pixels import Pixels, fit_in_float32, rows
from .preprocess import Preprocess
from .text import Sentences, WordVectors, padded

BLOCK = 10000


@dataclass
class RealSet:
    """x (n, K, H, W) float32 and y (n,) of both splits on the device, their preprocessing, and the manifest.

    What has a tensor's shape and indexing in x's place: Pixels, where float32 would fill a GPU, and for text Sentences
    (n, 1, L, D); then `preprocess` is WordVectors.
    """

    train_x: torch.Tensor | Pixels | Sentences
    train_y: torch.Tensor
    test_x: torch.Tensor | Pixels | Sentences
    test_y: torch.Tensor
    preprocess: Preprocess | WordVectors
    manifest: dict

    @property
    def shape(self):
        return tuple(self.train_x.shape[1:])

    @property
    def num_classes(self):
        return self.manifest["num_classes"]

    @property
    def classes(self):
        """The classes that have training images, in the order in which a distilled set holds them."""
        return self.manifest.get("classes") or list(range(self.num_classes))

    def only(self, classes):
        """The training and test images of these classes; labels and num_classes stay."""
        labels = torch.tensor(classes, device=self.train_y.device)
        train, test = torch.isin(self.train_y, labels), torch.isin(self.test_y, labels)
        tensors = rows(self.train_x, train), self.train_y[train], rows(self.test_x, test), self.test_y[test]
        return RealSet(*tensors, self.preprocess, {**self.manifest, "classes": list(classes)})

    def chunk(self, index, size):
        """The `index`-th run of `size` consecutive training images; all test images."""
        part = slice(index * size, (index + 1) * size)
        return replace(self, train_x=rows(self.train_x, part), train_y=self.train_y[part])


def class_groups(num_classes, steps, seed):
    """`steps` equal groups of classes in random order: numpy's legacy permutation of `seed`, as in DM and FRePo."""
    return np.random.RandomState(seed).permutation(num_classes).reshape(steps, -1).tolist()


def part_of(real, cfg, seed, step=0):
    """The real data of one run of a cell (config.models.Distill): a chunk, or the classes of one step, or all."""
    if cfg.chunk:
        real = real.chunk(seed, cfg.chunk)
    return real if cfg.class_steps == 1 else real.only(class_groups(real.num_classes, cfg.class_steps, seed)[step])


def manifest_of(folder):
    """The manifest of a prepared dataset."""
    return read_record(Path(folder) / "manifest.json", Manifest)


def load_arrays(folder, split):
    """The arrays of a split of a prepared dataset, memory-mapped, checked against the manifest's digests.

    x (n, K, H, W) from 0 to 255, uint8 or float32, and y (n,) int64; of text x (all words,), ends (n,) and y (n,).
    """
    manifest = manifest_of(folder)
    names = ("x", "ends", "y") if manifest.get("text") else ("x", "y")
    paths = {name: checked_file(folder, manifest, f"{split}_{name}.npy") for name in names}
    return [np.load(path, mmap_mode="r" if name == "x" else None, allow_pickle=False) for name, path in paths.items()]


def checked_file(folder, manifest, name):
    """The path of a file of a prepared dataset, once its content is known to be what the manifest says."""
    path = Path(folder) / name
    check_digest(path, manifest["sha256"].get(name), f"prepare the dataset (`dvc repro prepare@{Path(folder).name}`)")
    return path


def load_real(folder, preprocess_path, device):
    """Load a prepared dataset, preprocess it and put it on the device."""
    manifest, device = manifest_of(folder), torch.device(device)
    if manifest.get("text"):
        return load_text(folder, WordVectors.load(preprocess_path), manifest, device)
    preprocess = Preprocess.load(preprocess_path)
    tensors = []
    for split in ("train", "test"):
        pixels, labels = load_arrays(folder, split)
        as_bytes = pixels.dtype == np.uint8 and not fit_in_float32(pixels.shape, device)
        x = torch.empty(pixels.shape, dtype=torch.uint8 if as_bytes else torch.float32, device=device)
        for start in range(0, len(pixels), BLOCK):
            block = torch.from_numpy(pixels[start : start + BLOCK].astype(pixels.dtype if as_bytes else np.float32))
            x[start : start + BLOCK] = block.to(device) if as_bytes else preprocess.apply(block.to(device) / 255)
        tensors += [Pixels(x, preprocess) if as_bytes else x, torch.from_numpy(labels).to(device)]
    return RealSet(*tensors, preprocess, manifest)


def load_text(folder, words, manifest, device):
    """Load a prepared text dataset onto the device, padded to the length and with the vectors of `words`."""
    tensors, vectors = [], words.vectors.to(device)
    for split in ("train", "test"):
        tokens, ends, labels = load_arrays(folder, split)
        indices = torch.from_numpy(padded(np.asarray(tokens), ends, words.length, len(vectors))).to(device)
        tensors += [Sentences(indices, vectors), torch.from_numpy(labels).to(device)]
    return RealSet(*tensors, words, manifest)
