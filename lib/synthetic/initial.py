"""What a synthetic set starts from: real images, noise or low-rank factors; and the random real images that it is to beat."""

import torch

from ..data.labels import initial_labels
from ..data.real import part_of
from ..rng import generator
from .lowrank import images_per_class, noise_factors, svd_factors


def sample_real(labels, classes, ipc, generator):
    """Indices of `ipc` distinct random training images of each of `classes`, class-major. `labels` (n,) on the CPU."""
    picks = []
    for c in classes:
        members = (labels == c).nonzero().flatten()
        if len(members) < ipc:
            raise ValueError(f"class {c} has {len(members)} training images, fewer than the {ipc} asked for")
        picks.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(picks)


def in_minibatches(tensor, minibatches, per_class):
    """Rows (C * n, ...) in the order of their classes -> in so many equal parts one after the other, each in the order of its classes."""
    return tensor.unflatten(0, (-1, minibatches, per_class // minibatches)).transpose(0, 1).flatten(0, 2)


def real_subset(real, cfg, seed, ipc=None):
    """`ipc` (the cell's) random training images of each class: x (N, K, H, W), y (N, C) with labels as the cell's method has them."""
    ipc = ipc or cfg.ipc
    chosen = sample_real(real.train_y.cpu(), cfg.classes or real.classes, ipc, generator(seed, "init")).to(
        real.train_x.device
    )
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
    return join(
        [real_subset(part_of(real, cfg, seed, step), cfg, run_name(seed, step)) for step in range(cfg.class_steps)]
    )


def join(sets):
    """Several sets (x, y) as one."""
    return tuple(torch.cat(tensors) for tensors in zip(*sets))


def run_name(seed, step):
    """The seed of one run's random numbers; the first step of a cell has its plain seed."""
    return f"{seed}.{step}" if step else seed
