"""Distilled sets that others made: images, labels and a step size from a file; and Comp-DD's data for its users.

Source: reference sheet of EDF, section 8. Files are safetensors, or PyTorch's own, which are read without running code.
"""

from pathlib import Path
from pickle import UnpicklingError

import torch

from ..data.labels import class_labels
from ..data.preprocess import Preprocess
from ..data.real import load_arrays
from ..data.sources import SUBSETS
from ..files import FileError, load_tensors
from ..synthetic.set import DistilledSet

NAMES = {"images": ("x", "images", "image"), "labels": ("y", "labels", "label"), "lr": ("lr", "syn_lr")}


def read_external(path, real, kind, lr=None):
    """Read somebody's set and check it against the data -> DistilledSet, its labels as networks are to learn them.

    The file holds tensors x (N, K, H, W), y and, if it was learned, lr (by these or by Comp-DD's names), in the
    preprocessed space of `real`. kind of y: logits (N, C), whose softmax is learned; probabilities (N, C); classes
    (N,). lr: a step size in place of the file's.
    """
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        tensors, _ = load_tensors(path)
    else:
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise FileError(f"{path}: not found") from None
        except (UnpicklingError, RuntimeError, EOFError) as error:
            remedy = f"save its tensors alone ({str(error).splitlines()[0]})"
            raise FileError(f"{path}: holds more than tensors, or is damaged, and is not read; {remedy}") from None
    stored = tensors if isinstance(tensors, dict) else {}
    x, y, stored_lr = (next((stored[name] for name in names if name in stored), None) for names in NAMES.values())
    if not all(isinstance(t, torch.Tensor) for t in (x, y)):
        holds = sorted(map(str, tensors)) if isinstance(tensors, dict) else type(tensors).__name__
        needs = "images (x or images) and labels (y or labels), and may have lr"
        raise FileError(f"{path}: holds {holds}; a set has {needs}")
    y_shape = (len(x),) if kind == "classes" else (len(x), real.num_classes)
    if tuple(x.shape[1:]) != real.shape or tuple(y.shape) != y_shape:
        needs = f"this data and labels: {kind} need (N, {real.shape}) and {('N', *y_shape[1:])}"
        raise FileError(f"{path}: images {tuple(x.shape)}, labels {tuple(y.shape)}; {needs}")
    if kind == "probabilities" and not torch.allclose(y.sum(1).float(), torch.ones(len(y)), atol=1e-3):
        raise FileError(f"{path}: labels do not sum to 1 (the first: {y[0].sum().item():.3g}); are they logits?")
    if kind == "classes":
        labels = class_labels(y.long(), real.num_classes, "one_hot")
    else:
        labels = y.float().softmax(1) if kind == "logits" else y.float()
    lr = stored_lr if lr is None else lr
    if lr is not None:
        lr = torch.as_tensor(lr, dtype=torch.float32).reshape(1, 1)
    if not all(t is None or t.isfinite().all() for t in (x, labels, lr)) or (lr is not None and lr.item() <= 0):
        raise FileError(f"{path}: images, labels and lr must be finite, and lr above 0")
    device = real.train_x.device
    return DistilledSet(x.float().to(device), labels.to(device), None if lr is None else lr.to(device))


def load_comp_dd(prepared, preprocessing, category, difficulty):
    """Comp-DD's data of a category (birds, cars, ...) and difficulty (easy, hard), in memory, labels already 0 to 9.

    prepared: the folder of `dvc repro prepare@in1k_CATEGORY_DIFFICULTY`; preprocessing: its whitening stage's file.
    Returns (channels, size, num_classes, train set, test set, class map {ImageNet's index: label}, its inverse); the
    sets are TensorDatasets of images (n, K, H, W) float32 and labels (n,).
    """
    subset = f"{category}_{difficulty}"
    if subset not in SUBSETS:
        known = ", ".join(sorted({name.rsplit("_", 1)[0] for name in SUBSETS if name.endswith("_easy")}))
        raise FileError(f"Comp-DD has no {category} {difficulty}; categories are {known}, each easy and hard")
    transform, sets = Preprocess.load(preprocessing), []
    for split in ("train", "test"):
        pixels, labels = load_arrays(prepared, split)
        x = transform.apply(torch.from_numpy(pixels[:]).float() / 255)
        sets.append(torch.utils.data.TensorDataset(x, torch.from_numpy(labels)))
    class_map = {index: label for label, (index, _) in enumerate(SUBSETS[subset])}
    channels, size = sets[0].tensors[0].shape[1:3]
    return channels, size, len(SUBSETS[subset]), *sets, class_map, {label: index for index, label in class_map.items()}
