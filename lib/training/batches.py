"""What a method takes at each outer step: batches of real images, of each class's images, or trajectory segments."""

import torch

from ..data.labels import attack_labels, centred_one_hot, class_labels
from ..rng import generator, restore
from .trajectories import Segments


class Batches:
    """Endless batches of rows of `tensors`, from one random permutation after another.

    straddle: a batch may take rows of two permutations; otherwise the last batch of each is smaller. form: what is made
    of a batch's rows.
    """

    def __init__(self, tensors, batch, generator, straddle=True, form=lambda *rows: rows):
        self.tensors, self.batch, self.generator, self.straddle, self.form = tensors, batch, generator, straddle, form
        self.left = torch.empty(0, dtype=torch.long, device=generator.device)  # of the present permutation

    def next(self):
        while len(self.left) < (self.batch if self.straddle else 1):
            order = torch.randperm(len(self.tensors[0]), generator=self.generator, device=self.generator.device)
            self.left = torch.cat([self.left, order])
        indices, self.left = self.left[: self.batch], self.left[self.batch :]
        return self.form(*(t[indices] for t in self.tensors))

    def state_dict(self):
        return {"left": self.left, "rng": self.generator.get_state()}

    def load_state_dict(self, state):
        self.left = state["left"].to(self.generator.device)
        restore(self.generator, state["rng"])


OTHERS = 16  # further images of each class beside a batch: DC sets a batch norm's statistics by them


class ClassBatches:
    """Endless batches of distinct random images of each class: all images x (n, K, H, W), and indices (C, B + OTHERS).

    The first B = batch are the batch. Where a class has fewer than B + OTHERS images, all classes get so many.
    """

    def __init__(self, x, y, classes, batch, generator):
        self.x, self.generator = x, generator
        members = [(y == c).nonzero().flatten() for c in classes]
        self.batch = min(batch + OTHERS, *map(len, members))
        self.members = torch.nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=-1)

    def next(self):
        order = torch.rand(self.members.shape, generator=self.generator, device=self.generator.device)
        order[self.members < 0] = 2  # padding is never taken
        return self.x, self.members.gather(1, order.topk(self.batch, dim=1, largest=False).indices)

    def state_dict(self):
        return {"rng": self.generator.get_state()}

    def load_state_dict(self, state):
        restore(self.generator, state["rng"])


def batches_for(real, cfg, seed, experts=None):
    """What the run `seed` of a cell's method (cfg: config.models.Distill) takes at each step."""
    device = real.train_y.device
    if cfg.batches == "segments":
        return Segments(experts, cfg, generator(seed, "batches"), device)
    gen = generator(seed, "batches", device=device)
    if cfg.batches == "by_class":
        return ClassBatches(real.train_x, real.train_y, real.classes, cfg.real_batch, gen)

    def with_targets(x, y):
        if cfg.labels == "centred":
            return x, centred_one_hot(y, real.num_classes)
        return x, class_labels(attack_labels(y, cfg.attack), real.num_classes, cfg.labels)

    return Batches((real.train_x, real.train_y), cfg.real_batch, gen, cfg.batches == "straddling", with_targets)
