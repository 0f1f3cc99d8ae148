"""Distilled sets that others made: images, labels and a step size from a file; and Comp-DD's data for its users.

Source: reference sheets of EDF, section 8, and of FRePo, section 4.
"""

import torch

from ..data.labels import initial_labels
from ..data.preprocess import Preprocess
from ..data.real import load_arrays
from ..data.sources import SUBSETS
from ..files import FileError, kind_of
from ..networks import build
from ..synthetic.set import DistilledSet, render
from .set_files import plain_tensor, read_arrays, read_pictures, shown

IMAGES = ("x", "x_proto", "images", "image")  # the first two in the network's space, where a file has both
LABELS = ("y", "y_proto", "labels", "label")  # the first two learned, where a file has both
RATES = ("lr", "syn_lr")
LARGEST = 1e4  # of a number in an image, a label or a rate; a network learns nothing from larger ones


def read_external(row, real, protocol):
    """Read somebody's set and check it against the data -> (DistilledSet as networks are to learn it, notes).

    row: config.models.External; protocol: the row's. A file holds images (N, K, H, W) or (N, H, W, K) by the names x,
    images, image or x_proto, or low-rank factors a and b. It may have a step size lr or syn_lr, one number, or (passes,
    minibatches) for a protocol of optimizer schedule, and the weights `start` from which all networks begin. Labels are
    y, labels, label or y_proto, in the same file or in row.label_file.
    notes: sentences on what was assumed, and warnings of what looks otherwise. FileError says what is wrong.
    """
    name, notes = row.file, []
    x, y, lr, start = stored_tensors(row, real, notes)
    x = channels_first(x, real.shape, name, notes)
    if not len(x):
        raise FileError(f"{name}: holds no images")
    for what, tensor in (("images", x), ("labels", y)):
        if not ((tensor >= -LARGEST) & (tensor <= LARGEST)).all():  # NaN is neither; the least int64 has no abs
            raise FileError(
                f"{name}: {what} hold {worst(tensor):.6g}; all must be finite and at most {LARGEST:g} in size"
            )
    x = in_network_space(row, x, real, notes)
    y = targets(row, y, len(x), real.num_classes, protocol.loss, notes)
    lr = rates(row, lr, len(x), protocol.optimizer, notes)
    if start is not None:
        start = starting_weights(row, start, real, y.shape[1], notes)
    device = real.train_x.device
    return DistilledSet(*(None if t is None else t.float().to(device) for t in (x, y, lr, start))), notes


def stored_tensors(row, real, notes):
    """(images, labels, rate or None, starting weights or None) of a row's files, as they are there."""
    if kind_of(row.file) == "folder":
        if row.labels != "classes" or row.label_file != row.file or row.space in ("network", "0..1"):
            must = f"its row has labels: classes, label_file: {row.file} and space: 0..255 (or none)"
            raise FileError(f"{row.file}: is a folder of pictures, whose classes are their folders; {must}")
        x, y, told = read_pictures(row.file, real.shape, real.manifest["class_names"])
        notes.append(f"classes are told {told}")
        return x, y, None, None
    both = row.label_file != row.file
    files = {path: read_arrays(path) for path in (row.file, row.label_file)}
    for path, alone in ((row.file, "x"), (row.label_file, "y")):
        if both and not isinstance(files[path], dict | list | tuple):
            files[path] = {alone: files[path]}
        if not isinstance(files[path], dict):
            raise FileError(
                f"{path}: holds {type(files[path]).__name__}; a set has images (x or images) and labels (y or labels), "
                "or two files, `file` and `label_file`, hold one array each"
            )
    images, labels = files[row.file], files[row.label_file]
    x = picked(images, IMAGES if row.space in (None, "network") else IMAGES[::-1], row.file)
    if x is None:
        x = product(images, row.file)
    y = picked(labels, LABELS if row.labels != "classes" else LABELS[::-1], row.label_file)
    for tensor, path, needs in (
        (x, row.file, "images (x, images, image or x_proto)"),
        (y, row.label_file, "labels (y, labels, label or y_proto)"),
    ):
        if tensor is None:
            raise FileError(f"{path}: holds {shown(list(files[path])) or 'nothing'}; a set has {needs}")
    extra = {**labels, **images}
    lr = None if row.lr is not None else picked(extra, RATES, row.file)
    return x, y, lr, picked(extra, ("start",), row.file)


def picked(tensors, names, path):
    """The tensor of the first of these names that is there, or None."""
    return next((plain_tensor(tensors[name], f"{path}: {name}") for name in names if name in tensors), None)


def product(tensors, path):
    """The images of low-rank factors a (N, K, H, r) and b (N, K, r, W); None where there are none."""
    a, b = (picked(tensors, (name,), path) for name in "ab")
    if a is None or b is None:
        return None
    if a.ndim != 4 or b.ndim != 4 or a.shape[:2] != b.shape[:2] or a.shape[3] != b.shape[2]:
        raise FileError(f"{path}: the factors a {tuple(a.shape)} and b {tuple(b.shape)} have no product")
    return render((a, b))


def worst(tensor):
    """The number of a tensor that is not finite, or the largest."""
    wrong = tensor[~tensor.isfinite()]
    return (wrong if len(wrong) else tensor.flatten()[tensor.double().abs().argmax()][None])[0].item()


def channels_first(x, shape, name, notes):
    """Images as (N, K, H, W), where they are that, (N, H, W, K), or (N, H, W) of one channel."""
    channels, *sides = shape
    if tuple(x.shape[1:]) == tuple(shape):
        return x
    if tuple(x.shape[1:]) == (*sides, channels):
        notes.append("images have their channels last and are turned")
        return x.permute(0, 3, 1, 2)
    if tuple(x.shape[1:]) == tuple(sides) and channels == 1:
        return x[:, None]
    raise FileError(f"{name}: images {tuple(x.shape)}; this data needs (N, {', '.join(map(str, shape))})")


def in_network_space(row, x, real, notes):
    """Images in the space that networks see. Without a word of the row, floats are in it, integers are 0 to 255."""
    integers = not x.is_floating_point() and not real.manifest.get("text")
    space, low, high = row.space or ("0..255" if integers else "network"), x.min().item(), x.max().item()
    said = "as the row says" if row.space else f"as the file has {'integers' if integers else 'floats'}"
    notes.append(f"images are taken to be in the space {space}, {said}; they go from {low:.4g} to {high:.4g}")
    if space == "network":
        known = real.train_x[:1000]
        least, most = known.min().item(), known.max().item()
        look = "0..1" if least < -0.1 and low >= 0 and high <= 1 else None
        look = "0..255" if low >= 0 and 10 * max(-least, most) < high <= 255 else look
        if look:
            seen = f"real images go from {least:.3g} to {most:.3g}"
            notes.append(f"warning: they look like {look}, where {seen}; `space: {look}` would normalise them")
        return x
    if space == "0..1" and high > 4:
        notes.append("warning: they look like 0..255")
    elif space == "0..255" and high <= 4:
        notes.append(f"warning: they look like {'0..1' if low >= -0.5 else 'network'}")
    elif low < (-0.5 if space == "0..1" else -128):
        notes.append("warning: they look like network")
    return real.preprocess.apply(x.float() / (255 if space == "0..255" else 1))


def targets(row, y, n, num_classes, loss, notes):
    """Labels (N, C) as the protocol's loss takes them; of two classes, probabilities and free labels may be (N, 1)."""
    name, widths = row.label_file, [num_classes, 1] if num_classes == 2 else [num_classes]
    if row.labels == "classes":
        if tuple(y.shape) != (n,):
            raise FileError(f"{name}: labels {tuple(y.shape)}; the classes of {n} images are ({n},)")
        low, high = y.min().item(), y.max().item()
        if (y != y.round()).any() or low < 0 or high >= num_classes:
            hint = "; they look counted from 1: subtract 1" if (low, high) == (1, num_classes) else ""
            kind = "fractions among " if (y != y.round()).any() else ""
            must = f"integers from 0 to {num_classes - 1}"
            raise FileError(f"{name}: labels hold {kind}{low:g} to {high:g}; classes are {must}{hint}")
        return initial_labels(y.long(), num_classes, "one_hot" if loss == "cross_entropy" else "centred")
    if y.ndim != 2 or len(y) != n or y.shape[1] not in (widths if row.labels != "logits" else widths[:1]):
        raise FileError(f"{name}: labels {tuple(y.shape)}; {row.labels} of {n} images are ({n}, {num_classes})")
    y, sums = y.float(), y.float().sum(1)
    shares = y.min() >= 0 and ((sums - 1).abs() < 1e-3).all()
    if row.labels == "probabilities":
        if y.min() < 0:
            raise FileError(
                f"{name}: labels hold {y.min().item():.3g}; probabilities are not below 0: are they logits?"
            )
        if y.shape[1] == 1 and y.max() > 1 or y.shape[1] > 1 and not shares:
            raise FileError(f"{name}: labels do not sum to 1 (the first: {sums[0].item():.3g}); are they logits?")
    if row.labels == "logits" and shares:
        kind = "classes, each as a 1 among zeros" if ((y == 0) | (y == 1)).all() else "probabilities"
        notes.append(f"warning: labels look like {kind}; `labels: probabilities` would take them as they are")
    elif row.labels == "logits" and y.abs().max() <= 1 and (sums.abs() < 0.05).all():
        notes.append(
            "warning: labels look centred around 0; `labels: centred` and a protocol of squared_error take them"
        )
    return y.softmax(1) if row.labels == "logits" else y


def rates(row, lr, n, optimizer, notes):
    """Step sizes (E, S), or None for the protocol's own. The row's number comes before the file's."""
    if row.lr is not None:
        return torch.full((1, 1), row.lr)
    if lr is None:
        if optimizer == "schedule":
            raise FileError(f"{row.file}: holds no rates (lr), which a protocol of optimizer schedule follows")
        return None
    shape = tuple(lr.shape)
    lr = (lr.reshape(1, 1) if lr.numel() == 1 else lr).float()
    if lr.ndim != 2 or not lr.numel() or n % lr.shape[1]:
        must = f"one number, or (passes, minibatches), minibatches dividing the {n} images"
        raise FileError(f"{row.file}: lr {shape} must be {must}")
    if len(wrong := lr[~((lr > 0) & (lr <= LARGEST))]):
        raise FileError(f"{row.file}: lr holds {wrong[0].item():.4g}; rates must be above 0 and at most {LARGEST:g}")
    if optimizer == "adam":
        raise FileError(f"{row.file}: has a rate of gradient descent (lr), which adam does not take: give the row's lr")
    if optimizer == "sgd" and lr.numel() > 1:
        must = "take a protocol of optimizer schedule, or give the row's lr"
        raise FileError(f"{row.file}: lr {shape} are the rates of a schedule; {must}")
    notes.append(f"rates are the file's: {lr.numel()} from {lr.min().item():.4g} to {lr.max().item():.4g}")
    return lr


def starting_weights(row, start, real, outputs, notes):
    """Weights (P,) from which all networks start; each of the row's must have as many."""
    for net in row.nets:
        count = sum(p.numel() for p in build(net, real.shape, outputs).parameters())
        if tuple(start.shape) != (count,) or not start.isfinite().all():
            found = f"start {tuple(start.shape)}, {'all' if start.isfinite().all() else 'not all'} finite"
            raise FileError(f"{row.file}: has {found}; the weights of {net} are ({count},), and finite")
    notes.append("networks start from the weights of the file")
    return start


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
