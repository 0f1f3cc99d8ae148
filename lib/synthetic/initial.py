"""How a synthetic set starts: from real images, noise or low-rank factors. And the random real images it is to beat."""

import torch

from ..data.labels import initial_labels
from ..data.real import part_of
from ..rng import generator
from .lowrank import images_per_class, noise_factors, svd_factors


def sample_real(labels, classes, ipc, generator):
    """Indices of `ipc` distinct random training images of each of `classes`, class-major. `labels` (n,) on the CPU."""
    chosen = []
    for c in classes:
        members = (labels == c).nonzero().flatten()
        if len(members) < ipc:
            raise ValueError(f"class {c} has {len(members)} training images, fewer than the {ipc} asked for")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(chosen)


def in_minibatches(tensor, minibatches, per_class):
    """Class-major rows (C * n, ...) -> equal minibatches one after the other, each of them class-major."""
    return tensor.unflatten(0, (-1, minibatches, per_class // minibatches)).transpose(0, 1).flatten(0, 2)


def real_subset(real, cfg, seed, ipc=None):
    """`ipc` (by default the cell's) random training images a class: x (N, K, H, W), y (N, C) in the method's form."""
    ipc = ipc or cfg.ipc
    indices = sample_real(real.train_y.cpu(), cfg.classes or real.classes, ipc, generator(seed, "init"))
    indices = in_minibatches(indices.to(real.train_x.device), cfg.minibatches, ipc)
    return real.train_x[indices], initial_labels(real.train_y[indices], real.num_classes, cfg.labels)


def initial_set(real, cfg, seed):
    """The start of a cell's run `seed`: images (or their factors) and labels, as SyntheticSet takes them."""
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
    """Random real images (x, y) in place of a cell's distilled set of `seed`: all class steps, one after the other."""
    steps = range(cfg.class_steps)
    return join([real_subset(part_of(real, cfg, seed, step), cfg, run_name(seed, step)) for step in steps])


def join(sets):
    """Several sets (x, y) as one."""
    return tuple(torch.cat(tensors) for tensors in zip(*sets))


def run_name(seed, step):
    """The seed of one run's random numbers: the cell's seed, from the second class step on with the step's number."""
    return f"{seed}.{step}" if step else seed
