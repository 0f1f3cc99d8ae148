"""The synthetic set: images and labels that a method learns, and that everything downstream trains on."""

import torch

from .data.real import part_of
from .files import FileError, load_tensors, save_tensors
from .krr import centred_one_hot
from .rng import generator


class SyntheticSet:
    """N = ipc * C images in the data's preprocessed space, class-major, with soft labels.

    x (N, K, H, W), y (N, C); both require a gradient, y only if `learn_labels`.
    """

    def __init__(self, x, y, learn_labels=True):
        self.x = x.detach().clone().requires_grad_()
        self.y = y.detach().clone().requires_grad_(learn_labels)

    def __len__(self):
        return len(self.x)

    def snapshot(self):
        """Detached copies (x, y), for evaluation."""
        return self.x.detach().clone(), self.y.detach().clone()

    def state_dict(self):
        return {"x": self.x.detach(), "y": self.y.detach()}

    @torch.no_grad()
    def load_state_dict(self, state):
        self.x.copy_(state["x"])
        self.y.copy_(state["y"])


def sample_real(labels, classes, ipc, generator):
    """Indices of `ipc` distinct random training images of each of `classes`, class-major. `labels` (n,) on the CPU."""
    picks = []
    for c in classes:
        members = (labels == c).nonzero().flatten()
        if len(members) < ipc:
            raise ValueError(f"class {c} has {len(members)} training images, fewer than ipc = {ipc}")
        picks.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(picks)


def initial_labels(labels, num_classes):
    """FRePo's start, (N, C), of images of the classes `labels` (N,): centred one-hot over sqrt(C / 10) (sheet section 4)."""
    return centred_one_hot(labels, num_classes) / (num_classes / 10) ** 0.5


def initial_set(real, ipc, seed):
    """The real subset that the run `seed` starts from: x (N, K, H, W), y (N, C), on the data's device; N = ipc * its classes."""
    chosen = sample_real(real.train_y.cpu(), real.classes, ipc, generator(seed, "init")).to(real.train_x.device)
    return real.train_x[chosen], initial_labels(real.train_y[chosen], real.num_classes)


def initial_sets(real, cfg, seed):
    """What all runs of a cell's `seed` start from, one after the other: the random images that its distilled set replaces."""
    return join([initial_set(part_of(real, cfg, seed, step), cfg.ipc, run_name(seed, step)) for step in range(cfg.class_steps)])


def join(sets):
    """Several sets (x, y) as one."""
    return tuple(torch.cat(tensors) for tensors in zip(*sets))


def run_name(seed, step):
    """The seed of one run's random numbers; the first step of a cell has its plain seed."""
    return f"{seed}.{step}" if step else seed


def save_set(path, x, y, **meta):
    """Write a distilled set for others to use."""
    save_tensors(path, {"x": x, "y": y}, **meta)


def load_set(path, in_shape, num_classes, device="cpu"):
    """Read a distilled set and check it against the data it is to be used with -> (x, y, metadata)."""
    tensors, meta = load_tensors(path, device)
    if set(tensors) != {"x", "y"}:
        raise FileError(f"{path}: holds {sorted(tensors) or 'nothing'}; a distilled set holds x (N, K, H, W) and y (N, C)")
    x, y = tensors["x"], tensors["y"]
    if tuple(x.shape[1:]) != tuple(in_shape) or y.shape != (len(x), num_classes):
        expected = f"x (N, {', '.join(map(str, in_shape))}) and y (N, {num_classes})"
        raise FileError(f"{path}: x {tuple(x.shape)}, y {tuple(y.shape)} where this cell's data needs {expected}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise FileError(f"{path}: holds values that are not finite; distil it again (`dvc repro -f`)")
    return x, y, meta
