"""The synthetic set: images and labels that a method learns, and that everything downstream trains on."""

import torch

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


def sample_real(labels, num_classes, ipc, generator):
    """Indices (C * ipc) of `ipc` distinct random training images per class, class-major. `labels` (n,) on the CPU."""
    picks = []
    for c in range(num_classes):
        members = (labels == c).nonzero().flatten()
        if len(members) < ipc:
            raise ValueError(f"class {c} has {len(members)} training images, fewer than ipc = {ipc}")
        picks.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(picks)


def initial_labels(num_classes, ipc):
    """FRePo's start, (C * ipc, C): centred one-hot over sqrt(C / 10) (sheet section 4)."""
    return centred_one_hot(torch.arange(num_classes).repeat_interleave(ipc), num_classes) / (num_classes / 10) ** 0.5


def initial_set(real, ipc, seed):
    """The real subset that the run `seed` starts from: x (C * ipc, K, H, W), y (C * ipc, C), on the data's device."""
    chosen = sample_real(real.train_y.cpu(), real.num_classes, ipc, generator(seed, "init"))
    return real.train_x[chosen.to(real.train_x.device)], initial_labels(real.num_classes, ipc).to(real.train_x.device)


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
