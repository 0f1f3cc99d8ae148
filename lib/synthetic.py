"""The synthetic set: images and labels that a method learns, and that everything downstream trains on."""

import torch

from .data.real import part_of
from .files import FileError, load_tensors, save_tensors
from .krr import centred_one_hot
from .lowrank import images_per_class, noise_factors, svd_factors
from .rng import generator


class SyntheticSet:
    """N images in the data's preprocessed space, class-major, with labels: pixels, or products of low-rank factors.

    images: x (N, K, H, W), or the factors a (N, K, H, r) and b (N, K, r, W); y (N, C). The images, or both factors, require
    a gradient, y only if `learn_labels`.
    """

    def __init__(self, images, y, learn_labels=True):
        images = (images,) if isinstance(images, torch.Tensor) else images
        self.images = tuple(t.detach().clone().requires_grad_() for t in images)
        self.y = y.detach().clone().requires_grad_(learn_labels)

    def __len__(self):
        return len(self.y)

    @property
    def x(self):
        """The images (N, K, H, W); through factors, formed anew with a graph."""
        return render(self.images)

    def state_dict(self):
        names = ("x",) if len(self.images) == 1 else ("a", "b")
        return {**{name: t.detach() for name, t in zip(names, self.images)}, "y": self.y.detach()}

    def snapshot(self):
        """Detached copies of all that is stored of the set, by name; `rendered` makes images of them."""
        return {name: t.clone() for name, t in self.state_dict().items()}

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, mine in self.state_dict().items():
            mine.copy_(state[name])


def render(images):
    return images[0] if len(images) == 1 else images[0] @ images[1]


def rendered(tensors):
    """Images and labels (x, y) of what is stored of a set."""
    return render([tensors[name] for name in ("x", "a", "b") if name in tensors]), tensors["y"]


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
    """Labels (N, C) of images of the classes `labels` (N,): one-hot, or FRePo's start, centred over sqrt(C / 10) (sheet section 4)."""
    if kind == "one_hot":
        return torch.nn.functional.one_hot(labels, num_classes).float()
    return centred_one_hot(labels, num_classes) / (num_classes / 10) ** 0.5


def real_subset(real, cfg, seed, ipc=None):
    """`ipc` (the cell's) random training images of each class: x (N, K, H, W), y (N, C) with labels as the cell's method has them."""
    chosen = sample_real(real.train_y.cpu(), real.classes, ipc or cfg.ipc, generator(seed, "init")).to(real.train_x.device)
    return real.train_x[chosen], initial_labels(real.train_y[chosen], real.num_classes, cfg.labels)


def initial_set(real, cfg, seed):
    """What the run `seed` of a cell starts from: images, or their factors, and labels, as SyntheticSet takes them."""
    count = images_per_class(cfg, real.shape)
    if cfg.init != "noise":
        x, y = real_subset(real, cfg, seed, count)
        return (svd_factors(x, cfg.rank) if cfg.rank else x), y
    classes = torch.tensor(real.classes, device=real.train_x.device).repeat_interleave(count)
    gen = generator(seed, "init", device=real.train_x.device)
    if cfg.rank:
        images = noise_factors(len(classes), real.shape, cfg.rank, gen)
    else:
        images = torch.randn(len(classes), *real.shape, generator=gen, device=gen.device)
    return images, initial_labels(classes, real.num_classes, cfg.labels)


def real_subsets(real, cfg, seed):
    """The random real images, class steps one after the other, that a cell's distilled set of `seed` is to beat: (x, y)."""
    return join([real_subset(part_of(real, cfg, seed, step), cfg, run_name(seed, step)) for step in range(cfg.class_steps)])


def join(sets):
    """Several sets (x, y) as one."""
    return tuple(torch.cat(tensors) for tensors in zip(*sets))


def run_name(seed, step):
    """The seed of one run's random numbers; the first step of a cell has its plain seed."""
    return f"{seed}.{step}" if step else seed


def save_set(path, sets, **meta):
    """Write a distilled set for others to use: what `snapshot` gave for each of its parts, one after the other."""
    save_tensors(path, {name: torch.cat([part[name] for part in sets]) for name in sets[0]}, **meta)


def load_set(path, in_shape, num_classes, device="cpu"):
    """Read a distilled set and check it against the data it is to be used with -> (x, y, metadata)."""
    tensors, meta = load_tensors(path, device)
    if set(tensors) not in ({"x", "y"}, {"a", "b", "y"}):
        holds = "x (N, K, H, W), or its factors a (N, K, H, r) and b (N, K, r, W), and y (N, C)"
        raise FileError(f"{path}: holds {sorted(tensors) or 'nothing'}; a distilled set holds {holds}")
    try:
        x, y = rendered(tensors)
    except RuntimeError:
        raise FileError(f"{path}: the factors a {tuple(tensors['a'].shape)} and b {tuple(tensors['b'].shape)} have no product") from None
    if tuple(x.shape[1:]) != tuple(in_shape) or y.shape != (len(x), num_classes):
        expected = f"x (N, {', '.join(map(str, in_shape))}) and y (N, {num_classes})"
        raise FileError(f"{path}: x {tuple(x.shape)}, y {tuple(y.shape)} where this cell's data needs {expected}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise FileError(f"{path}: holds values that are not finite; distil it again (`dvc repro -f`)")
    return x, y, meta
