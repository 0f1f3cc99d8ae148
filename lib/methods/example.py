"""A cell's method at full size with random inputs: on the meta device its step is counted without a GPU."""

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
        return torch.randn(len(experts), self.size).mul_(0.05)


def work_of_step(name, cfg, shape, classes, train, pool=0, graphs=True):
    """The Work of a cell's second step, its real data in use; arguments as of `example`.

    graphs: whether functions are captured as CUDA graphs.
    """
    with Work(graphs) as work:
        method, batch = example(name, cfg, shape, classes, train, pool, META)
        method.step(0, *batch())
        work.restart()
        method.step(1, *batch())
    return work


def example(name, cfg, shape, classes, train, pool, device):
    """A cell's method on random images, and batch(): random arguments for its step. cfg: its `distill` parameters.

    shape: of an image (K, H, W); classes: of a run; train: how many training images; pool: how many experts its
    networks start from, or 0.
    """
    net = build(cfg.net, shape, 1 if classes == 2 and cfg.labels == "outputs" else classes)
    size = sum(p.numel() for p in net.parameters())
    further = {"experts": Weights(size, pool)} if pool else {}
    if cfg.judge:
        further = {"judge": (build(cfg.net, shape, classes).to(device).eval(), torch.arange(classes, device=device))}
    method = METHODS[name](cfg, start(cfg, shape, classes, device), 0, **further)
    return method, batches(cfg, shape, classes, train, size, device)


def start(cfg, shape, classes, device):
    """A synthetic set of a cell's size."""
    count = images_per_class(cfg, shape)
    labels = torch.arange(len(cfg.classes or range(classes)), device=device).repeat_interleave(count)
    channels, height, width = shape
    sizes = [(channels, height, cfg.rank), (channels, cfg.rank, width)] if cfg.rank else [shape]
    images = tuple(torch.randn(len(labels), *size, device=device) for size in sizes)
    return SyntheticSet(images, initial_labels(labels, classes, cfg.labels), cfg.learn_labels)


def batches(cfg, shape, classes, train, size, device):
    """A function that gives what a step takes: two sets of weights (P,), or a batch of images of the device."""
    if cfg.batches == "segments":
        weights = torch.randn(size, device=device) * 0.05
        segment = weights, weights + 0.01 * torch.randn(size, device=device)
        return lambda: segment
    if fit_in_float32((train, *shape), device):
        x = torch.randn(train, *shape, device=device)
    else:
        pixels, channels = torch.empty(train, *shape, dtype=torch.uint8, device=device), torch.ones(shape[0])
        zca = [torch.zeros(each, device=device) for each in (shape, (prod(shape), prod(shape)), prod(shape))]
        x = Pixels(pixels, Preprocess(channels, channels, zca))
    if cfg.batches == "by_class":
        indices = torch.randint(train, (classes, cfg.real_batch + OTHERS), device=device)
        return lambda: (x, indices)
    labels = torch.randint(classes, (cfg.real_batch,), device=device)
    if cfg.labels == "centred":
        return lambda: (x[labels], centred_one_hot(labels, classes))
    return lambda: (x[labels], class_labels(labels, classes, cfg.labels))
