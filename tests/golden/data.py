"""Toy data of the traces: random classes, random sentences, trajectories of experts in memory."""

import torch
from sklearn.datasets import load_digits

from lib.autodiff.unroll import Flat
from lib.data.labels import initial_labels
from lib.data.real import RealSet
from lib.data.text import Sentences
from lib.networks import build
from lib.rng import generator

SHAPE, TEXT = (1, 8, 8), (1, 6, 10)
DEVICE = "cpu"  # of the data, which is where all else computes (tests/test_rehearsal.py)


def on_device(real):
    """The same data on the device."""

    def moved(x):
        return Sentences(x.tokens.to(DEVICE), x.vectors.to(DEVICE)) if isinstance(x, Sentences) else x.to(DEVICE)

    tensors = map(moved, (real.train_x, real.train_y, real.test_x, real.test_y))
    return RealSet(*tensors, real.preprocess, real.manifest)


def real_set(classes=3, shape=SHAPE, train=48, test=30):
    """Random classes: each has a mean, its images much noise."""
    gen = generator(0, "real")
    means = torch.randn(classes, *shape, generator=gen)
    y = torch.arange(train + test) % classes
    x = means[y] + 1.5 * torch.randn(len(y), *shape, generator=gen)
    return on_device(RealSet(x[:train], y[:train], x[train:], y[train:], None, {"num_classes": classes}))


def sentences(classes, train=24, test=12):
    """Random sentences of random word vectors; two words of each come from its class's own part of the vocabulary."""
    gen = generator(0, "sentences")
    length, dim = TEXT[1:]
    y = torch.arange(train + test) % classes
    tokens = torch.randint(20, (len(y), length), generator=gen)
    tokens[:, :2] = 2 * y[:, None] + tokens[:, :2] % 2
    x = Sentences(tokens, torch.randn(20, dim, generator=gen))
    train_x, test_x = Sentences(tokens[:train], x.vectors), x[slice(train, None)]
    return on_device(RealSet(train_x, y[:train], test_x, y[train:], None, {"num_classes": classes}))


def digits_set(train=60, test=60):
    """The first of scikit-learn's digits."""
    digits, end = load_digits(), train + test
    x, y = torch.from_numpy(digits.images[:end, None] / 8 - 1), torch.from_numpy(digits.target[:end])
    return on_device(RealSet(x[:train], y[:train], x[train:], y[train:], None, {"num_classes": 10}))


def some_sets(real, count=2, ipc=2, kind="one_hot"):
    """Real images as sets x (M, N, K, H, W), y (M, N, C): the first `ipc` of each class, then the next."""
    labels = torch.arange(real.num_classes, device=real.train_y.device).repeat_interleave(ipc)
    order = real.train_y.argsort(stable=True).view(real.num_classes, -1)
    x = torch.stack([real.train_x[order[:, m * ipc : (m + 1) * ipc].flatten()] for m in range(count)])
    return x, initial_labels(labels, real.num_classes, kind).double().expand(count, -1, -1)


class Walks:
    """In place of training.trajectories.Trajectories: weights of experts that drift away from a random start."""

    folder, epochs = "memory", 3

    def __init__(self, net, shape, outputs, count=3):
        flat = Flat(build(net, shape, outputs))
        self.starts = [flat.weights(generator(i, "start")) for i in range(count)]
        self.drifts = [flat.weights(generator(i, "drift")) for i in range(count)]

    def __len__(self):
        return len(self.starts)

    def weights(self, expert, epoch):
        return self.starts[expert] + 0.2 * (self.epochs if epoch == -1 else epoch) * self.drifts[expert]

    def last(self, experts):
        return torch.stack([self.weights(expert, -1) for expert in experts])


class Snapshots(Walks):
    """The same of a trained training.experts.Group: its last weights."""

    def __init__(self, group):
        self.starts = list(group.weights())
        self.drifts = [torch.zeros_like(start) for start in self.starts]
