"""Readers of the published formats of images: each yields (image uint8 (H, W, K), label) for one split, in the file's order."""

import bz2
import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..files import FileError
from . import READERS
from .sources import SOURCES, gunzip, members

GIGA = 1 << 30
DIGITS_TRAIN = 1297  # the fixed split: the first 1297 of scikit-learn's 1797 digits train, the last 500 test
SPLITS = ("train", "test")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def picture(data, resolution, name):
    """Decode a picture (bytes), crop its central square and shrink it to `resolution` by area averaging -> uint8 (H, W, 3)."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(
            f"{name}: not a readable picture ({type(error).__name__}: {error}); replace or remove it"
        ) from None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # BOX averages the source pixels under each target pixel, which is what 'area' interpolation means.
    return np.asarray(
        image.resize((resolution, resolution), Image.Resampling.BOX, (left, top, left + side, top + side))
    )


@READERS.register("digits")
def digits(files, packed, split, resolution):
    """scikit-learn's bundled 8x8 digits, their 17 grey levels spread over 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = slice(None, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    for image, label in zip(bunch.images[part], bunch.target[part]):
        yield np.rint(image[..., None] * (255 / 16)).astype(np.uint8), int(label)


@READERS.register("mnist", "fashion_mnist")
def idx(files, packed, split, resolution):
    """MNIST's format: 16 bytes of header before the images, 8 before the labels."""
    images, labels = (files[0], files[1]) if split == "train" else (files[2], files[3])
    count = 60000 if split == "train" else 10000
    x = np.frombuffer(gunzip(images, 16 + count * 784), np.uint8, offset=16).reshape(count, 28, 28, 1)
    y = np.frombuffer(gunzip(labels, 8 + count), np.uint8, offset=8)
    yield from zip(x, map(int, y))


@READERS.register("usps")
def usps(files, packed, split, resolution):
    """USPS digits, 16x16, grey values from -1 to 1: libsvm's lines `LABEL INDEX:VALUE ...` with labels 1 to 10, or arrays of thousandths.

    Brought to `resolution` bilinearly, as the 28-pixel copies of it were.
    """
    if packed:
        arrays = np.load(files[0], allow_pickle=False)
        values, labels = arrays[f"x_{split}"].reshape(-1, 256) / 1000, arrays[f"y_{split}"]
    else:
        with bz2.open(files[SPLITS.index(split)], "rt") as file:
            rows = [line.split() for line in file if line.strip()]
        labels = np.array([int(row[0]) - 1 for row in rows])
        values = np.zeros((len(rows), 256))
        for row, mine in zip(rows, values):
            for index, value in (pair.split(":") for pair in row[1:]):
                mine[int(index) - 1] = float(value)
    for image, label in zip(np.rint((values + 1) * 127.5).clip(0, 255).astype(np.uint8).reshape(-1, 16, 16), labels):
        yield (
            np.asarray(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BILINEAR))[..., None],
            int(label),
        )


@READERS.register("svhn")
def svhn(files, packed, split, resolution):
    """Street View House Numbers, cropped: MATLAB files of X (32, 32, 3, n) and y (n, 1), in which 10 stands for the digit 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = files[0 if split == "train" else 1]
    try:
        arrays = loadmat(path, variable_names=("X", "y"))
        yield from zip(
            np.ascontiguousarray(arrays["X"].transpose(3, 0, 1, 2)),
            (int(label) % 10 for label in arrays["y"].flatten()),
        )
    except (MatReadError, KeyError, ValueError, TypeError) as error:
        raise FileError(f"{path}: not a MATLAB file of X and y ({error})") from None


@READERS.register("cifar10")
def cifar(files, packed, split, resolution, label_bytes=1):
    """CIFAR's binary records: label byte(s), the last of them the fine one, then the R, G and B planes."""
    if packed:
        yield from cifar10_packed(files, split)
        return
    prefix = {"train": ("data_batch_", "train.bin"), "test": ("test_batch", "test.bin")}[split]
    found = {_base(n): data for n, data in members(files[0], GIGA, lambda n: _base(n).startswith(prefix))}
    for name in sorted(found):
        if len(found[name]) % (label_bytes + 3072):
            raise FileError(f"{files[0]}: {name} does not hold whole records")
        records = np.frombuffer(found[name], np.uint8).reshape(-1, label_bytes + 3072)
        yield from zip(
            records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), map(int, records[:, label_bytes - 1])
        )


def listed_names(ending):
    """A function: the names of the labels, the last words of the lines of the archive's file of this ending."""

    def names(files):
        for _, data in members(files[0], 4 * GIGA, lambda name: name.endswith(ending)):
            return [line.split()[-1] for line in data.decode().splitlines() if line.strip()]

    return names


@READERS.register(names=listed_names("fine_label_names.txt"))
def cifar100(files, packed, split, resolution):
    """CIFAR-100's records have two label bytes."""
    return cifar(files, packed, split, resolution, label_bytes=2)


def cifar10_packed(files, split):
    """Lossless WebP pictures of 100x100 tiles in the published order, labels beside them."""
    labels = np.load(files[-1], allow_pickle=False)[split]
    pictures = files[:5] if split == "train" else files[5:6]
    tiles = []
    for path in pictures:
        tiles.append(
            np.asarray(Image.open(path).convert("RGB"))
            .reshape(100, 32, 100, 32, 3)
            .swapaxes(1, 2)
            .reshape(-1, 32, 32, 3)
        )
    yield from zip(np.concatenate(tiles), map(int, labels))


def _base(name):
    return name.rsplit("/", 1)[-1]


def _tiny_names(files):
    for _, data in members(files[0], 2 * GIGA, lambda n: _base(n) == "wnids.txt"):
        return sorted(data.decode().split())
    raise FileError(f"{files[0]}: wnids.txt is missing")


@READERS.register(names=_tiny_names)
def tiny_imagenet(files, packed, split, resolution):
    """ROOT/train/WNID/images/*.JPEG; the test split is ROOT/val/images with its list of annotations."""
    folder = "train" if split == "train" else "val"
    found = dict(members(files[0], 2 * GIGA, lambda n: n.split("/")[1:2] == [folder] and not n.endswith("_boxes.txt")))
    names, labels = _tiny_names(files), {}
    for name in [n for n in found if n.endswith("/val_annotations.txt")]:
        labels = dict(line.split("\t")[:2] for line in found.pop(name).decode().splitlines())
    for name, data in found.items():
        yield (
            picture(data, resolution, name),
            names.index(name.split("/")[2] if split == "train" else labels[_base(name)]),
        )


@READERS.register("imagenette", "imagewoof")
def class_folders_archive(files, packed, split, resolution):
    """ROOT/{train,val}/CLASS/*: Imagenette and Imagewoof; the val split is the test split."""
    part = "train" if split == "train" else "val"
    found = dict(
        members(files[0], 2 * GIGA, lambda n: n.split("/")[1:2] == [part] and Path(n).suffix.lower() in SUFFIXES)
    )
    classes = sorted({name.split("/")[-2] for name in found})
    for name in sorted(found):
        yield picture(found[name], resolution, name), classes.index(name.split("/")[-2])


@READERS.register("imagenet_resized")
def imagenet_resized(files, packed, split, resolution):
    """npz batches of flat rows, R, G and B planes one after the other; labels from 1."""
    for path in files[:2] if split == "train" else files[2:]:
        for _, data in members(path, 20 * GIGA):
            batch = np.load(io.BytesIO(data), allow_pickle=False)
            images = batch["data"].reshape(-1, 3, 64, 64).transpose(0, 2, 3, 1)
            yield from zip(images, (int(label) - 1 for label in batch["labels"]))


@READERS.register(names=listed_names("CUB_200_2011/classes.txt"))
def caltech_birds2011(files, packed, split, resolution):
    """CUB-200: image paths and the train/test split are lists inside the archive."""
    lists, pictures = {}, {}
    texts = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    for name, data in members(files[0], 4 * GIGA, lambda n: _base(n) in texts or "/images/" in n):
        if _base(name) in texts:
            lists[_base(name)] = dict(line.split() for line in data.decode().splitlines() if line.strip())
        elif Path(name).suffix.lower() in SUFFIXES:
            pictures[name.split("/images/")[1]] = picture(data, resolution, name)
    wanted = "1" if split == "train" else "0"
    for key, name in lists["images.txt"].items():
        if lists["train_test_split.txt"][key] == wanted:
            yield pictures[name], int(lists["image_class_labels.txt"][key]) - 1


def class_names(source, files):
    """Names by label where the papers or the files give them, else None."""
    listed = getattr(READERS[source], "names", None)
    return SOURCES[source].get("names") or (listed(files) if listed else None)


def folder_files(folder):
    """A user's own folder of class folders -> ({split: [(path, label)]}, class names).

    FOLDER/train/CLASS/* with FOLDER/test or FOLDER/val beside it; or FOLDER/CLASS/*, of which every fifth picture of
    each class, in order of names, is the test set.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder (a dataset's `folder` holds one folder of pictures per class)")
    train = folder / "train" if (folder / "train").is_dir() else folder
    test = next((folder / name for name in ("test", "val") if train != folder and (folder / name).is_dir()), None)
    classes = sorted(p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        raise FileError(f"{train}: holds {len(classes)} class folder(s); at least 2 are needed")

    def pictures(root, name):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise FileError(f"{root / name}: no pictures ({', '.join(sorted(SUFFIXES))})")
        return found

    splits = {"train": [], "test": []}
    for label, name in enumerate(classes):
        if test is not None:
            splits["train"] += [(p, label) for p in pictures(train, name)]
            splits["test"] += [(p, label) for p in pictures(test, name)]
        else:
            for i, p in enumerate(pictures(train, name)):
                splits["test" if i % 5 == 4 else "train"].append((p, label))
    if not splits["test"]:
        raise FileError(
            f"{folder}: too few pictures for a test set; each class needs at least 5, or give a test folder"
        )
    return splits, classes


def read_folder(pairs, resolution, channels):
    """Yield (image uint8 (H, W, K), label) for the (path, label) pairs of `folder_files`."""
    for path, label in pairs:
        image = picture(path.read_bytes(), resolution, path)
        yield (image if channels == 3 else np.asarray(Image.fromarray(image).convert("L"))[..., None]), label
