"""Ten classes of ImageNet-1K at a time, from the user's own copy: the six subsets of trajectory matching, and Comp-DD's sixteen.

Source: reference sheets of trajectory matching, section 1, and of EDF, sections 2.1 and 8. A label is the position in the list. Pictures
are squashed to a square, not cropped. `music_hard` names one class twice, as released: its first label has no images. The lists are in
imagenet.yaml.
"""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..files import FileError
from .sources import SUBSETS

SPLITS = {"train": "train", "test": "val"}
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "test": "ILSVRC2012_img_val.tar"}
FOLDERS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
ANSWERS = "LOC_val_solution.csv"  # of validation images that lie in one folder: their classes


def labels_of(subset):
    """{WordNet id: label}; of a class that is named twice, the later."""
    return {wnid: label for label, (_, wnid) in enumerate(SUBSETS[subset])}


def pictures(folder, subset, split):
    """Yield (name, bytes, label) of one split of a subset, in order of classes and names.

    folder: holds train/WNID/* and val/WNID/* (or below ILSVRC/Data/CLS-LOC), or ILSVRC's two tar files; validation images may lie in one
    folder or archive if LOC_val_solution.csv is beside it. FileError names all that was looked for.
    """
    if folder is None:
        raise FileError(
            "runtime.imagenet_dir (or the variable DISTILLERY_IMAGENET): not given; name the folder of your copy of ImageNet-1K"
        )
    folder, labels = Path(folder).expanduser(), labels_of(subset)
    found = next(
        (folder / inner / SPLITS[split] for inner in FOLDERS if (folder / inner / SPLITS[split]).is_dir()), None
    )
    answers = next((path for path in (folder / ANSWERS, folder / "ILSVRC" / ANSWERS) if path.is_file()), None)
    if found is not None and any((found / wnid).is_dir() for wnid in labels):
        for wnid in missing_none(found, labels):
            for path in sorted((found / wnid).iterdir()):
                yield path, path.read_bytes(), labels[wnid]
    elif found is not None and split == "test" and answers:
        for name, wnid in answered(answers, labels):
            yield name, (found / f"{name}.JPEG").read_bytes(), labels[wnid]
    elif (folder / ARCHIVES[split]).is_file() and (split == "train" or answers):
        yield from archived(
            folder / ARCHIVES[split], labels, dict(answered(answers, labels)) if split == "test" else None
        )
    else:
        looked = [str(folder / inner / SPLITS[split] / "WNID") for inner in FOLDERS] + [str(folder / ARCHIVES[split])]
        beside = (
            f"; images of {SPLITS[split]} in one folder or archive need {folder / ANSWERS} beside them"
            if split == "test"
            else ""
        )
        raise FileError(f"{folder}: no {split} images of ImageNet-1K; looked for {', '.join(looked)}{beside}")


def missing_none(folder, labels):
    """The classes, once each of them has a folder."""
    absent = [wnid for wnid in labels if not (folder / wnid).is_dir()]
    if absent:
        raise FileError(f"{folder}: has no folder of {', '.join(absent)}")
    return sorted(labels, key=labels.get)


def answered(path, labels):
    """(image, WordNet id) of the validation images of these classes, by the table that comes with them."""
    with open(path, newline="") as file:
        rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(file)]
    return sorted((row for row in rows if row[1] in labels), key=lambda row: (labels[row[1]], row[0]))


def archived(path, labels, answers):
    """Pictures of an archive of one archive for each class; or, where `answers` tells their classes, of an archive of pictures."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).stem
                if answers is not None and name in answers:
                    yield name, archive.extractfile(member).read(), labels[answers[name]]
                elif answers is None and name in labels:
                    with tarfile.open(fileobj=archive.extractfile(member)) as inner:
                        for each in inner:
                            if each.isfile():
                                yield each.name, inner.extractfile(each).read(), labels[name]
    except tarfile.TarError as error:
        raise FileError(f"{path}: not a complete archive ({error})") from None


def squashed(data, resolution, antialias, name):
    """A picture (bytes) as uint8 (H, W, 3) of a square of `resolution`, whatever its own sides; bilinear."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(
            f"{name}: not a readable picture ({type(error).__name__}: {error}); replace or remove it"
        ) from None
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(
        x, (resolution, resolution), mode="bilinear", align_corners=False, antialias=antialias
    )
    return x[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def read_subset(folder, subset, split, resolution, antialias):
    """Yield (image uint8 (H, W, 3), label) of one split."""
    for name, data, label in pictures(folder, subset, split):
        yield squashed(data, resolution, antialias, name), label
