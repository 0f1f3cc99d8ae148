"""The synthetic set: images and labels that a method learns and that networks are trained on."""

from typing import NamedTuple

import torch

from ..files import FileError
from ..tensors import load_tensors, save_tensors


class DistilledSet(NamedTuple):
    """The result of a method: images x (N, K, H, W) and labels y (N, C).

    A set with a schedule also has step sizes lr (E, S): E passes over S minibatches, the set's S equal parts in order.
    Where training starts from known weights, these are start (P,), in the order of the network's parameters.
    """

    x: torch.Tensor
    y: torch.Tensor
    lr: torch.Tensor | None = None
    start: torch.Tensor | None = None


class SyntheticSet:
    """N images in the preprocessed space, class-major, with labels: pixels, or products of low-rank factors.

    images: x (N, K, H, W), or the factors a (N, K, H, r) and b (N, K, r, W); y (N, C). The images, or both factors,
    require a gradient, y only if `learn_labels`.
    """

    def __init__(self, images, y, learn_labels=True):
        images = (images,) if isinstance(images, torch.Tensor) else images
        self.images = tuple(t.detach().clone().requires_grad_() for t in images)
        self.y = y.detach().clone().requires_grad_(learn_labels)
        self.softmax_labels = False
        self.rates = self.rate_of = self.start = None

    def __len__(self):
        return len(self.y)

    def add_schedule(self, rates, rate_of, start=None):
        """Learn the step sizes rate_of(rates), rates (E, S), with the set; `start` (P,) is kept. See DistilledSet."""
        self.rates, self.rate_of = rates.detach().clone().requires_grad_(), rate_of
        self.start = start

    @property
    def learned(self):
        """The tensors that require a gradient."""
        return [t for t in (*self.images, self.y, self.rates) if t is not None and t.requires_grad]

    @property
    def labels(self):
        """The labels (N, C) as networks are to learn them."""
        return self.y.softmax(1) if self.softmax_labels else self.y

    @property
    def lr(self):
        """The step sizes (E, S), in the range that `rate_of` allows."""
        return self.rate_of(self.rates)

    @property
    def x(self):
        """The images (N, K, H, W); of factors, their product, computed anew with a graph."""
        return render(self.images)

    def state_dict(self):
        names = ("x",) if len(self.images) == 1 else ("a", "b")
        tensors = {**dict(zip(names, self.images)), "y": self.y, "rates": self.rates, "start": self.start}
        return {name: t.detach() for name, t in tensors.items() if t is not None}

    @torch.no_grad()
    def snapshot(self):
        """Copies of all stored tensors, by name; `rendered` makes a DistilledSet of them."""
        tensors = {**self.state_dict(), "y": self.labels}
        if tensors.pop("rates", None) is not None:
            tensors["lr"] = self.lr
        return {name: t.clone() for name, t in tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


def render(images):
    """The images (N, K, H, W) of (x,), or of factors (a, b)."""
    return images[0] if len(images) == 1 else images[0] @ images[1]


def rendered(tensors):
    """The DistilledSet of a snapshot's tensors."""
    x = render([tensors[name] for name in ("x", "a", "b") if name in tensors])
    return DistilledSet(x, tensors["y"], tensors.get("lr"), tensors.get("start"))


def stacked(sets):
    """DistilledSets of equal size as one, whose tensors have a leading axis of sets."""
    return DistilledSet(*(None if tensors[0] is None else torch.stack(tensors) for tensors in zip(*sets)))


def save_set(path, snapshots, **meta):
    """Write a distilled set: the snapshots of its parts, concatenated (a set with a schedule has one part)."""
    save_tensors(path, {name: torch.cat([part[name] for part in snapshots]) for name in snapshots[0]}, **meta)


def load_set(path, in_shape, num_classes, device="cpu"):
    """Read a distilled set and check it against the data it is to be used with -> DistilledSet."""
    tensors, _ = load_tensors(path, device)
    if set(tensors) - {"lr", "start"} not in ({"x", "y"}, {"a", "b", "y"}):
        holds = "x (N, K, H, W), or its factors a (N, K, H, r) and b (N, K, r, W), y (N, C), "
        holds += "and where it has a schedule lr (E, S) and start (P,)"
        raise FileError(f"{path}: holds {sorted(tensors) or 'nothing'}; a distilled set holds {holds}")
    try:
        distilled = rendered(tensors)
    except RuntimeError:
        a, b = tuple(tensors["a"].shape), tuple(tensors["b"].shape)
        raise FileError(f"{path}: the factors a {a} and b {b} have no product") from None
    x, y, lr, _ = distilled
    widths = (num_classes, 1) if num_classes == 2 else (num_classes,)
    if tuple(x.shape[1:]) != tuple(in_shape) or y.shape not in [(len(x), width) for width in widths]:
        expected = f"x (N, {', '.join(map(str, in_shape))}) and y (N, {num_classes})"
        raise FileError(f"{path}: x {tuple(x.shape)}, y {tuple(y.shape)} where this cell's data needs {expected}")
    if lr is not None and (lr.ndim != 2 or not lr.numel() or len(x) % lr.shape[1]):
        expected = f"(passes, minibatches), minibatches dividing the {len(x)} images"
        raise FileError(f"{path}: lr {tuple(lr.shape)} must be {expected}")
    if not all(t is None or t.isfinite().all() for t in distilled):
        raise FileError(f"{path}: holds values that are not finite; distil it again (`dvc repro -f`)")
    return distilled
