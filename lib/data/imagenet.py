"""Ten classes of ImageNet-1K at a time, from the user's own copy: MTT's six subsets and Comp-DD's sixteen.

Source: reference sheets of trajectory matching, section 1, and of EDF, sections 2.1 and 8. A label is the position in a
list of imagenet.yaml. Images are resized to a square, not cropped. `music_hard` names one class twice, as released: its
first label has no images.
"""

import csv
import io
from pathlib import Path

import numpy as np
import torch

from ..files import FileError, kind_of, parsing, read_bytes
from .archives import members
from .folders import entries
from .pictures import opened
from .sources import SUBSETS

SPLITS = {"train": "train", "test": "val"}
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "test": "ILSVRC2012_img_val.tar"}
FOLDERS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
MOST_BYTES = 1 << 38  # of an archive; that of all training images has 138 GB
REMEDY = "replace or remove it"
VAL_CLASSES = "LOC_val_solution.csv"  # classes of validation images that lie in one folder


def labels_of(subset):
    """{WordNet id: label}; of a class that is named twice, the later."""
    return {wnid: label for label, (_, wnid) in enumerate(SUBSETS[subset])}


def pictures(folder, subset, split):
    """Yield (name, bytes, label) of one split of a subset, sorted by class and name.

    folder: holds train/WNID/* and val/WNID/* (or below ILSVRC/Data/CLS-LOC), or ILSVRC's two tar files. Validation
    images may lie in one folder or archive if LOC_val_solution.csv is beside it. FileError names all places tried.
    """
    if folder is None:
        setting = "runtime.imagenet_dir (or the variable DISTILLERY_IMAGENET)"
        raise FileError(f"{setting}: not given; name the folder of your copy of ImageNet-1K")
    folder, labels = Path(folder).expanduser(), labels_of(subset)
    places, archive = [folder / place / SPLITS[split] for place in FOLDERS], folder / ARCHIVES[split]
    root = next((place for place in places if kind_of(place) == "folder"), None)
    tables = folder / VAL_CLASSES, folder / "ILSVRC" / VAL_CLASSES
    table = next((path for path in tables if kind_of(path) != "not found"), None)
    if root is not None and any(kind_of(root / wnid) == "folder" for wnid in labels):
        for wnid in checked_classes(root, labels):
            folders, files = entries(root / wnid)
            if folders:
                raise FileError(f"{folders[0]}: a folder among the pictures of a class; remove it")
            for path in files:
                yield path, read_bytes(path, REMEDY), labels[wnid]
    elif root is not None and split == "test" and table:
        for name, wnid in validation_classes(table, labels):
            yield name, read_bytes(root / f"{name}.JPEG", f"{table} names it: {REMEDY}"), labels[wnid]
    elif kind_of(archive) != "not found" and (split == "train" or table):
        class_of = dict(validation_classes(table, labels)) if split == "test" else None
        yield from archived_pictures(archive, labels, class_of)
    else:
        tried = ", ".join([*(str(place / "WNID") for place in places), str(archive)])
        hint = f"; images of val in one folder or archive need {folder / VAL_CLASSES} beside them"
        hint = hint if split == "test" else ""
        raise FileError(f"{folder}: no {split} images of ImageNet-1K; looked for {tried}{hint}")


def checked_classes(folder, labels):
    """The classes in the order of their labels; FileError unless each has its folder."""
    absent = [wnid for wnid in labels if kind_of(folder / wnid) != "folder"]
    if absent:
        raise FileError(f"{folder}: has no folder of {', '.join(absent)}")
    return sorted(labels, key=labels.get)


def validation_classes(path, labels):
    """Pairs (image name, WordNet id) of the validation images of these classes, from ImageNet's table."""
    table = read_bytes(path, REMEDY)
    with parsing(path, "not a table of ImageId and PredictionString", REMEDY):
        rows = csv.DictReader(io.StringIO(table.decode(), newline=""))
        rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in rows]
        if leaving := [name for name, _ in rows if Path(name).name != name]:
            raise ValueError(f"{leaving[0]!r} is no picture's name")
    return sorted((row for row in rows if row[1] in labels), key=lambda row: (labels[row[1]], row[0]))


def archived_pictures(path, labels, class_of):
    """Yield the pictures of the training archive, which holds one archive a class, or of the validation archive.

    class_of: {image name: WordNet id} for the validation archive, which holds the pictures themselves; else None.
    """
    known = labels if class_of is None else class_of
    for member, data in members(path, MOST_BYTES, lambda name: Path(name).stem in known):
        name = Path(member).stem
        if class_of is not None:
            yield name, data, labels[class_of[name]]
        else:
            for image, picture in members(f"{path}: {member}", MOST_BYTES, data=data):
                yield image, picture, labels[name]


def resized(data, resolution, antialias, name):
    """Decode a picture (bytes) and resize it bilinearly to a square of `resolution` -> float32 (H, W, 3), 0 to 255.

    Not rounded: the papers resize normalised numbers.
    """
    image = opened(data, name).convert("RGB")  # not turned upright: the papers' loaders do not either
    x, size = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float(), (resolution, resolution)
    x = torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False, antialias=antialias)
    return x[0].permute(1, 2, 0).numpy()


def read_subset(folder, subset, split, resolution, antialias):
    """Yield (image float32 (H, W, 3), label) of one split."""
    for name, data, label in pictures(folder, subset, split):
        yield resized(data, resolution, antialias, name), label
