"""Readers of image formats: each yields (image uint8 (H, W, K), label) of one split, in the order of its file."""

import math
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import FileError, parsing, read_bytes
from . import READERS
from .archives import gunzip, members, read_npz, unpacked
from .pictures import SUFFIXES, Seen, opened, understood
from .sources import REMEDY, SOURCES

GIGA = 1 << 30
DIGITS_TRAIN = 1297  # the fixed split: the first 1297 of scikit-learn's 1797 digits train, the last 500 test
SPLITS = ("train", "test")
FOLDERS = {"train": "train", "test": "val"}  # archives of ImageNet's kind: their validation images are the test split


def picture(data, resolution, name, seen=None):
    """Decode a picture (bytes), crop its central square and resize it by area averaging -> uint8 (H, W, 3).

    `seen` (pictures.Seen) counts what is told of a user's own pictures.
    """
    image = understood(opened(data, name), name, seen or Seen())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = np.asarray(image, np.float32)[top : top + side, left : left + side]
    weights = area_weights(side, resolution)
    return np.rint(np.einsum("ai,ijk,bj->abk", weights, square, weights, optimize=True)).astype(np.uint8)


@cache
def area_weights(size, resolution):
    """(resolution, size): how much of each pixel of a side lies under each pixel of the new one; rows sum to 1.

    Pixels count by the part of them that is covered, as in TensorFlow's `area`; Pillow's BOX takes them whole.
    """
    edges = np.linspace(0, size, resolution + 1)[:, None]
    covered = np.minimum(edges[1:], np.arange(size) + 1) - np.maximum(edges[:-1], np.arange(size))
    return (covered.clip(0) * resolution / size).astype(np.float32)


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
    """USPS digits, 16x16, grey values from -1 to 1, resized bilinearly as the 28-pixel copies of it were.

    Read from libsvm's lines `LABEL INDEX:VALUE ...` with labels 1 to 10, or (packed) from arrays of thousandths.
    """
    if packed:
        arrays = read_npz(files[0])
        values, labels = arrays[f"x_{split}"].reshape(-1, 256) / 1000, arrays[f"y_{split}"]
    else:
        text = unpacked(files[SPLITS.index(split)], GIGA).decode()
        lines = [line.split() for line in text.splitlines() if line.strip()]
        labels = np.array([int(line[0]) - 1 for line in lines])
        values = np.zeros((len(lines), 256))
        for line, image in zip(lines, values):
            for index, value in (pair.split(":") for pair in line[1:]):
                image[int(index) - 1] = float(value)
    images = np.rint((values + 1) * 127.5).clip(0, 255).astype(np.uint8).reshape(-1, 16, 16)
    for image, label in zip(images, labels):
        resized = Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BILINEAR)
        yield np.asarray(resized)[..., None], int(label)


@READERS.register("svhn")
def svhn(files, packed, split, resolution):
    """Street View House Numbers: MATLAB files of X (32, 32, 3, n) and y (n, 1), in which 10 stands for the digit 0."""
    from scipy.io import loadmat, whosmat

    path, count = (files[0], 73257) if split == "train" else (files[1], 26032)
    with parsing(path, "not a MATLAB file of X and y", REMEDY):
        # SciPy's parser may crash on a damaged file: only the published one, by its checksum, reaches it.
        shapes = {name: shape for name, shape, _ in whosmat(path)}  # before memory is taken for them
        if math.prod(shapes["X"]) > 3072 * count or math.prod(shapes["y"]) > count:
            raise FileError(f"{path}: declares X {shapes['X']} and y {shapes['y']}, more than {count} images; {REMEDY}")
        arrays = loadmat(path, variable_names=("X", "y"))
        images = np.ascontiguousarray(arrays["X"].transpose(3, 0, 1, 2))
        yield from zip(images, (int(label) % 10 for label in arrays["y"].flatten()), strict=True)


@READERS.register("cifar10")
def cifar(files, packed, split, resolution, label_bytes=1):
    """CIFAR's binary records: label byte(s), the last of them the fine one, then the R, G and B planes."""
    if packed:
        yield from cifar10_packed(files, split)
        return
    prefix = {"train": ("data_batch_", "train.bin"), "test": ("test_batch", "test.bin")}[split]
    batches = {_base(n): data for n, data in members(files[0], GIGA, lambda n: _base(n).startswith(prefix))}
    for name, data in sorted(batches.items()):
        if len(data) % (label_bytes + 3072):
            raise FileError(f"{files[0]}: {name} does not hold whole records")
        records = np.frombuffer(data, np.uint8).reshape(-1, label_bytes + 3072)
        images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        yield from zip(images, map(int, records[:, label_bytes - 1]))


def listed_names(ending):
    """A function files -> class names: each line's last word in the archive's file whose name has this ending."""

    def names(files):
        for _, data in members(files[0], 4 * GIGA, lambda name: name.endswith(ending)):
            return [line.split()[-1] for line in data.decode().splitlines() if line.strip()]
        raise FileError(f"{files[0]}: {ending} is missing; {REMEDY}")

    return names


@READERS.register(names=listed_names("fine_label_names.txt"))
def cifar100(files, packed, split, resolution):
    """CIFAR-100's records have two label bytes."""
    return cifar(files, packed, split, resolution, label_bytes=2)


def cifar10_packed(files, split):
    """Lossless WebP pictures of 100x100 tiles in the published order, labels beside them."""
    labels = read_npz(files[-1])[split]
    tiles = []
    for path in files[:5] if split == "train" else files[5:6]:
        pixels = np.asarray(opened(read_bytes(path, REMEDY), path).convert("RGB")).reshape(100, 32, 100, 32, 3)
        tiles.append(pixels.swapaxes(1, 2).reshape(-1, 32, 32, 3))
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
    part, names, wnids = FOLDERS[split], _tiny_names(files), {}
    images = dict(members(files[0], 2 * GIGA, lambda n: n.split("/")[1:2] == [part] and not n.endswith("_boxes.txt")))
    for name in [n for n in images if n.endswith("/val_annotations.txt")]:
        wnids = dict(line.split("\t")[:2] for line in images.pop(name).decode().splitlines())
    for name, data in images.items():
        wnid = name.split("/")[2] if split == "train" else wnids[_base(name)]
        yield picture(data, resolution, name), names.index(wnid)


@READERS.register("imagenette", "imagewoof")
def class_folders_archive(files, packed, split, resolution):
    """Imagenette and Imagewoof: ROOT/{train,val}/CLASS/*; the val split is the test split."""

    def wanted(name):
        return name.split("/")[1:2] == [FOLDERS[split]] and Path(name).suffix.lower() in SUFFIXES

    images = dict(members(files[0], 2 * GIGA, wanted))
    classes = sorted({name.split("/")[-2] for name in images})
    for name in sorted(images):
        yield picture(images[name], resolution, name), classes.index(name.split("/")[-2])


@READERS.register("imagenet_resized")
def imagenet_resized(files, packed, split, resolution):
    """npz batches of flat rows, R, G and B planes one after the other; labels from 1."""
    for path in files[:2] if split == "train" else files[2:]:
        for name, data in members(path, 20 * GIGA):
            batch = read_npz(f"{path}: {name}", data)
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
    with parsing(", ".join(map(str, files)), "its classes cannot be read", REMEDY):
        return SOURCES[source].get("names") or (listed(files) if listed else None)
