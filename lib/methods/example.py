"""A cell's method on the meta device, at its full size: what its step takes can be counted without a GPU."""

from math import prod

import torch

from ..data.labels import centred_one_hot, class_labels, initial_labels
from ..data.pixels import Pixels, fit_in_float32
from ..data.preprocess import Preprocess
from ..networks import build
from ..synthetic.lowrank import images_per_class
from ..synthetic.set import SyntheticSet
from ..training.batches import OTHERS
from ..training.work import Work
from . import METHODS

META = torch.device("meta")


class Weights:
    """In place of training.trajectories.Trajectories: weights of experts, of which only the size counts."""

    def __init__(self, size, count):
        self.size, self.count = size, count

    def __len__(self):
        return self.count

    def last(self, experts):
        return torch.empty(len(experts), self.size, device=META)


def work_of_step(name, cfg, shape, classes, train, pool=0, graphs=True):
    """The Work of a cell's second step, its real data in use. cfg: its `distill` parameters.

    shape: of an image (K, H, W); classes: of a run; train: how many training images; pool: how many experts its
    networks start from, or 0; graphs: whether functions are captured as CUDA graphs.
    """
    with Work(graphs) as work:
        net = build(cfg.net, shape, 1 if classes == 2 and cfg.labels == "outputs" else classes)
        size = sum(p.numel() for p in net.parameters())
        x, batch = real_batch(cfg, shape, classes, train, size)
        further = {"experts": Weights(size, pool)} if pool else {}
        if cfg.judge:
            further = {"judge": (build(cfg.net, shape, classes).to(META).eval(), torch.arange(classes, device=META))}
        method = METHODS[name](cfg, start(cfg, shape, classes), 0, **further)
        method.step(0, *batch(x))
        work.restart()
        method.step(1, *batch(x))
    return work


def start(cfg, shape, classes):
    """A synthetic set of a cell's size."""
    count = images_per_class(cfg, shape)
    labels = torch.arange(len(cfg.classes or range(classes)), device=META).repeat_interleave(count)
    channels, height, width = shape
    sizes = [(channels, height, cfg.rank), (channels, cfg.rank, width)] if cfg.rank else [shape]
    images = tuple(torch.empty(len(labels), *size, device=META) for size in sizes)
    return SyntheticSet(images, initial_labels(labels, classes, cfg.labels), cfg.learn_labels)


def real_batch(cfg, shape, classes, train, size):
    """The real images on the device, and what makes a step's arguments of them."""
    if cfg.batches == "segments":
        return None, lambda x: [torch.empty(size, device=META) for _ in range(2)]
    in_float32 = fit_in_float32((train, *shape), META)
    x = torch.empty(train, *shape, dtype=torch.float32 if in_float32 else torch.uint8, device=META)
    if not in_float32:
        size, channels = prod(shape), torch.empty(shape[0], device=META)
        zca = [torch.empty(each, device=META) for each in (shape, (size, size), size)]
        x = Pixels(x, Preprocess(channels, channels, zca))
    if cfg.batches == "by_class":
        indices = torch.empty(classes, cfg.real_batch + OTHERS, dtype=torch.long, device=META)
        return x, lambda x: (x, indices)
    labels = torch.empty(cfg.real_batch, dtype=torch.long, device=META)
    targets = centred_one_hot if cfg.labels == "centred" else lambda y, count: class_labels(y, count, cfg.labels)
    return x, lambda x: (x[labels], targets(labels, classes))
