"""What a method takes at each outer step: batches of real images, batches of each class, or segments of trajectories."""

import torch

from ..data.labels import attacked, centred_one_hot, class_labels
from ..rng import restore
from .trajectories import Segments


class Batches:
    """Endless batches of rows of `tensors`: one random permutation after another; batches may straddle two, or the last of each is smaller."""

    def __init__(self, tensors, batch, generator, straddle=True):
        self.tensors, self.batch, self.generator, self.straddle = tensors, batch, generator, straddle
        self.left = torch.empty(0, dtype=torch.long, device=generator.device)

    def next(self):
        while len(self.left) < (self.batch if self.straddle else 1):
            order = torch.randperm(len(self.tensors[0]), generator=self.generator, device=self.generator.device)
            self.left = torch.cat([self.left, order])
        indices, self.left = self.left[: self.batch], self.left[self.batch :]
        return tuple(t[indices] for t in self.tensors)

    def state_dict(self):
        return {"left": self.left, "rng": self.generator.get_state()}

    def load_state_dict(self, state):
        self.left = state["left"]
        restore(self.generator, state["rng"])


class ClassBatches:
    """Endless batches of `batch` distinct random images of each class: the images x (n, K, H, W) and the chosen (C, batch) of them."""

    def __init__(self, x, y, classes, batch, generator):
        self.x, self.batch, self.generator = x, batch, generator
        members = [(y == c).nonzero().flatten() for c in classes]
        self.members = torch.nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=-1)

    def next(self):
        order = torch.rand(self.members.shape, generator=self.generator, device=self.generator.device)
        order[self.members < 0] = 2  # never among the first: every class has at least `batch` images
        return self.x, self.members.gather(1, order.topk(self.batch, dim=1, largest=False).indices)

    def state_dict(self):
        return {"rng": self.generator.get_state()}

    def load_state_dict(self, state):
        restore(self.generator, state["rng"])


def batches_for(real, cfg, generator, experts=None):
    """What a cell's method (cfg: schema.Distill) takes at each step: real batches, or parts of the experts' trajectories."""
    if cfg.batches == "segments":
        return Segments(experts, cfg, generator)
    if cfg.batches == "by_class":
        return ClassBatches(real.train_x, real.train_y, real.classes, cfg.real_batch, generator)
    centred = cfg.labels == "centred"
    targets = (
        centred_one_hot(real.train_y, real.num_classes)
        if centred
        else class_labels(attacked(real.train_y, cfg.attack), real.num_classes, cfg.labels)
    )
    return Batches((real.train_x, targets), cfg.real_batch, generator, cfg.batches == "straddling")
