"""The synthetic set: images and labels that a method learns, and that everything downstream trains on."""

from typing import NamedTuple

import torch

from .data.real import part_of
from .files import FileError, load_tensors, save_tensors
from .krr import centred_one_hot
from .losses import class_labels
from .lowrank import images_per_class, noise_factors, svd_factors
from .rng import generator


class DistilledSet(NamedTuple):
    """What a method gives: images x (N, K, H, W) and labels y (N, C).

    Where the order counts, also the rates lr (E, S) of E passes over S minibatches, which are the set's S equal parts one after the
    other, and, where training starts from known weights, these, start (P,), in the order of the network's parameters.
    """

    x: torch.Tensor
    y: torch.Tensor
    lr: torch.Tensor | None = None
    start: torch.Tensor | None = None


class SyntheticSet:
    """N images in the data's preprocessed space, class-major, with labels: pixels, or products of low-rank factors.

    images: x (N, K, H, W), or the factors a (N, K, H, r) and b (N, K, r, W); y (N, C). The images, or both factors, require
    a gradient, y only if `learn_labels`.
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
        """Learn rate_of(rates), rates (E, S), with the set, as DistilledSet has them; start (P,) is kept."""
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
        """The rates (E, S), positive or whatever `rate_of` allows."""
        return self.rate_of(self.rates)

    @property
    def x(self):
        """The images (N, K, H, W); through factors, formed anew with a graph."""
        return render(self.images)

    def state_dict(self):
        names = ("x",) if len(self.images) == 1 else ("a", "b")
        tensors = {**dict(zip(names, self.images)), "y": self.y, "rates": self.rates, "start": self.start}
        return {name: t.detach() for name, t in tensors.items() if t is not None}

    @torch.no_grad()
    def snapshot(self):
        """Copies of all that is stored of the set, by name; `rendered` makes a DistilledSet of them."""
        tensors = {**self.state_dict(), "y": self.labels}
        if tensors.pop("rates", None) is not None:
            tensors["lr"] = self.lr
        return {name: t.clone() for name, t in tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, mine in self.state_dict().items():
            mine.copy_(state[name])


def render(images):
    return images[0] if len(images) == 1 else images[0] @ images[1]


def rendered(tensors):
    """The DistilledSet of what is stored of a set."""
    x = render([tensors[name] for name in ("x", "a", "b") if name in tensors])
    return DistilledSet(x, tensors["y"], tensors.get("lr"), tensors.get("start"))


def sample_real(labels, classes, ipc, generator):
    """Indices of `ipc` distinct random training images of each of `classes`, class-major. `labels` (n,) on the CPU."""
    picks = []
    for c in classes:
        members = (labels == c).nonzero().flatten()
        if len(members) < ipc:
            raise ValueError(f"class {c} has {len(members)} training images, fewer than the {ipc} asked for")
        picks.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(picks)


def initial_labels(labels, num_classes, kind="centred"):
    """Labels (N, C) of images of the classes `labels` (N,): a kind of `class_labels`, or FRePo's start, centred over sqrt(C / 10) (sheet section 4)."""
    if kind != "centred":
        return class_labels(labels, num_classes, kind)
    return centred_one_hot(labels, num_classes) / (num_classes / 10) ** 0.5


def in_minibatches(tensor, minibatches, per_class):
    """Rows (C * n, ...) in the order of their classes -> in so many equal parts one after the other, each in the order of its classes."""
    return tensor.unflatten(0, (-1, minibatches, per_class // minibatches)).transpose(0, 1).flatten(0, 2)


def real_subset(real, cfg, seed, ipc=None):
    """`ipc` (the cell's) random training images of each class: x (N, K, H, W), y (N, C) with labels as the cell's method has them."""
    ipc = ipc or cfg.ipc
    chosen = sample_real(real.train_y.cpu(), cfg.classes or real.classes, ipc, generator(seed, "init")).to(real.train_x.device)
    chosen = in_minibatches(chosen, cfg.minibatches, ipc)
    return real.train_x[chosen], initial_labels(real.train_y[chosen], real.num_classes, cfg.labels)


def initial_set(real, cfg, seed):
    """What the run `seed` of a cell starts from: images, or their factors, and labels, as SyntheticSet takes them."""
    count = images_per_class(cfg, real.shape)
    if cfg.init != "noise":
        x, y = real_subset(real, cfg, seed, count)
        return (svd_factors(x, cfg.rank) if cfg.rank else x), y
    classes = torch.tensor(cfg.classes or real.classes, device=real.train_y.device).repeat_interleave(count)
    gen = generator(seed, "init", device=classes.device)
    if cfg.rank:
        images = noise_factors(len(classes), real.shape, cfg.rank, gen)
    else:
        images = torch.randn(len(classes), *real.shape, generator=gen, device=gen.device)
    y = initial_labels(in_minibatches(classes, cfg.minibatches, count), real.num_classes, cfg.labels)
    return images, torch.randn(y.shape, generator=gen, device=gen.device) if cfg.label_start == "normal" else y


def real_subsets(real, cfg, seed):
    """The random real images, class steps one after the other, that a cell's distilled set of `seed` is to beat: (x, y)."""
    return join([real_subset(part_of(real, cfg, seed, step), cfg, run_name(seed, step)) for step in range(cfg.class_steps)])


def join(sets):
    """Several sets (x, y) as one."""
    return tuple(torch.cat(tensors) for tensors in zip(*sets))


def stacked(sets):
    """DistilledSets of one size as one, whose tensors have a leading axis of sets."""
    return DistilledSet(*(None if tensors[0] is None else torch.stack(tensors) for tensors in zip(*sets)))


def run_name(seed, step):
    """The seed of one run's random numbers; the first step of a cell has its plain seed."""
    return f"{seed}.{step}" if step else seed


def save_set(path, sets, **meta):
    """Write a distilled set for others to use: what `snapshot` gave for each of its parts, one after the other (a schedule has one part)."""
    save_tensors(path, {name: torch.cat([part[name] for part in sets]) for name in sets[0]}, **meta)


def load_set(path, in_shape, num_classes, device="cpu"):
    """Read a distilled set and check it against the data it is to be used with -> DistilledSet."""
    tensors, _ = load_tensors(path, device)
    if set(tensors) - {"lr", "start"} not in ({"x", "y"}, {"a", "b", "y"}):
        holds = "x (N, K, H, W), or its factors a (N, K, H, r) and b (N, K, r, W), y (N, C), and where it has a schedule lr (E, S) and start (P,)"
        raise FileError(f"{path}: holds {sorted(tensors) or 'nothing'}; a distilled set holds {holds}")
    try:
        found = rendered(tensors)
    except RuntimeError:
        raise FileError(f"{path}: the factors a {tuple(tensors['a'].shape)} and b {tuple(tensors['b'].shape)} have no product") from None
    x, y = found.x, found.y
    outputs = (num_classes, 1) if num_classes == 2 else (num_classes,)
    if tuple(x.shape[1:]) != tuple(in_shape) or y.shape not in [(len(x), width) for width in outputs]:
        expected = f"x (N, {', '.join(map(str, in_shape))}) and y (N, {num_classes})"
        raise FileError(f"{path}: x {tuple(x.shape)}, y {tuple(y.shape)} where this cell's data needs {expected}")
    if found.lr is not None and (found.lr.ndim != 2 or not found.lr.numel() or len(x) % found.lr.shape[1]):
        raise FileError(f"{path}: lr {tuple(found.lr.shape)} must be (passes, minibatches), minibatches dividing the {len(x)} images")
    if not all(t is None or t.isfinite().all() for t in found):
        raise FileError(f"{path}: holds values that are not finite; distil it again (`dvc repro -f`)")
    return found
