"""RaT-BPTT: distillation by differentiating through a random window of the training (Feng, Vedantam, Kempe 2023).

Source: reference sheet of dataset distillation, section 12. A fresh network trains on the set by Adam. The steps before
the window are constants; the gradient of the loss on real images goes back through the window only. Knowing departures:
the window's gradient is formed in constant memory (unroll.py), and every random number has a seed.
"""

import torch

from ..augment import dsa
from ..autodiff.layerwise import layerwise_derivatives
from ..autodiff.unroll import Core, Flat, Step, gradient, unroll
from ..networks import build
from ..rng import class_minibatches, generator
from ..synthetic.lowrank import images_per_class
from ..training.compute import forward_flops
from ..training.losses import cross_entropy
from . import METHODS
from .outer_loss import OuterLoss
from .state import Stateful

BETAS, EPS = (0.9, 0.999), 1e-8  # of the inner Adam; of the outer one too
DECAY, LIMIT = 0.9, 2.0  # of the running mean of the gradient's norm; how many times this mean a norm may be


def adam_rate(count, lr):
    """What Adam's update `count` (from 1) makes of its rate: the moments started from 0."""
    return lr * (1 - BETAS[1] ** count) ** 0.5 / (1 - BETAS[0] ** count)


def adam(state, grad, rate):
    """The state (weights, first moment, second moment) after Adam's update at an `adam_rate`; differentiable.

    Where the second moment is 0 its root has an infinite slope, which must not meet a gradient of 0 (the sheet, 12.2).
    """
    theta, first, second = state
    first = BETAS[0] * first + (1 - BETAS[0]) * grad
    second = BETAS[1] * second + (1 - BETAS[1]) * grad**2
    positive = second > 0
    root = torch.where(positive, second, 1.0).sqrt() * positive
    return theta - rate * first / (root + EPS), first, second


class Clip:
    """Limits the norm of gradients to LIMIT times its running mean, which includes the present norm."""

    def __init__(self, device):
        self.mean = torch.full((), torch.nan, device=device)

    def __call__(self, tensors):
        """Scale the tensors' gradients; returns their norm () before."""
        norm = torch.stack([t.grad.norm() for t in tensors]).norm()
        self.mean = torch.where(self.mean.isnan(), norm, DECAY * self.mean + (1 - DECAY) * norm)
        for t in tensors:
            t.grad.mul_(torch.where(norm > LIMIT * self.mean, LIMIT * self.mean / norm, 1.0))
        return norm

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"].to(self.mean.device)


@METHODS.register()
class RaT(Stateful):
    """State and step of one run. cfg: the cell's `distill` parameters; syn: the SyntheticSet, on the device."""

    checkpointed = ("syn", "optimizer", "clip")

    def __init__(self, cfg, syn, seed):
        self.cfg, self.syn, self.seed = cfg, syn, seed
        device, shape = syn.y.device, tuple(syn.x.shape[1:])
        self.net = Flat(build(cfg.net, shape, syn.y.shape[1]).to(device))
        derivatives = layerwise_derivatives(self.net)
        self.outer_loss = OuterLoss(self.net, derivatives, cfg.net, shape, device, cfg.conv_dtype)
        self.update = Core(self.descend)
        self.rates = torch.tensor([adam_rate(i + 1, cfg.lr_net) for i in range(cfg.inner_steps)], device=device)
        self.rngs = {name: generator(seed, name, device=device) for name in ("weights", "augment", "minibatches")}
        self.rngs["families"] = generator(seed, "families")  # on the CPU
        if cfg.init == "noise" and not cfg.rank:
            with torch.no_grad():
                syn.images[0].div_(syn.images[0].flatten(1).norm(dim=1)[:, None, None, None])
        self.optimizer, self.clip = torch.optim.Adam(syn.learned, cfg.outer_lr, BETAS, EPS), Clip(device)

    @staticmethod
    def step_flops(cfg, shape, classes):
        """FLOPs of one outer step: the real batch, the inner steps before the window, and 4 times each step in it."""
        before = (cfg.inner_steps - cfg.window) * (0.5 if cfg.place == "random" else 1)
        batch = cfg.inner_batch or images_per_class(cfg, shape) * classes
        return forward_flops(cfg.net, shape) * (3 * cfg.real_batch + batch * (3 * before + 12 * cfg.window))

    def window_start(self, step):
        """How many inner steps come before the window at outer step `step`; drawn anew every `redraw_every` steps."""
        latest = self.cfg.inner_steps - self.cfg.window
        if self.cfg.place == "late":
            return latest
        gen = generator(self.seed, "window", step // self.cfg.redraw_every)
        return torch.randint(latest + 1, (), generator=gen).item()

    def draw(self, count):
        """An augmentation of `count` images, one family for all; None without augmentation."""
        if self.cfg.augment == "none":
            return None
        return dsa.draw(self.cfg.augment, 1, count, self.rngs["augment"], self.rngs["families"])

    def minibatches(self, steps):
        """Indices of the images of each inner step: (steps, B), or all images at every step."""
        if not self.cfg.inner_batch:
            return [slice(None)] * steps
        ipc = images_per_class(self.cfg, tuple(self.syn.x.shape[1:]))
        sizes = len(self.syn) // ipc, ipc, self.cfg.inner_batch, self.cfg.batch_per_class
        return class_minibatches(steps, *sizes, self.rngs["minibatches"])

    def descend(self, theta, first, second, rate, x, y):
        """Weights (1, P) and moments after a step of Adam on a minibatch."""
        grad = gradient(lambda w: cross_entropy(self.net(w, x), y).sum(), theta)
        return adam((theta, first, second), grad, rate)

    def train(self, theta, start):
        """Weights (1, P), trained from theta (1, P) for `start` steps and the window's; differentiable in the set."""
        steps = start + self.cfg.window
        indices, batch = self.minibatches(steps), self.cfg.inner_batch or len(self.syn)
        draws = [self.draw(batch) for _ in range(steps)]
        self.net.net.train()

        def arguments(t, x, y):
            return self.rates[t], dsa.apply(x[indices[t]][None], draws[t])[0], y[indices[t]]

        state, x, y = (theta, torch.zeros_like(theta), torch.zeros_like(theta)), self.syn.x, self.syn.labels
        with torch.no_grad():
            for t in range(start):
                state = self.update.forward(*state, *arguments(t, x, y))
        window = Step(self.update, lambda t, x, y: arguments(start + t, x, y))
        return unroll(window, self.cfg.window, state, x, y)[0]

    def step(self, step, x, y):
        """Outer step `step` (from 0) on a real batch x (B, K, H, W), y (B, C) -> metrics on the device."""
        self.optimizer.zero_grad()
        x = dsa.apply(x[None], self.draw(len(x)))[0]
        theta = self.net.weights(self.rngs["weights"])[None]
        metrics = self.outer_loss(self.train(theta, self.window_start(step)), x, y)
        metrics["gradient_norm"] = self.clip(self.syn.images)
        self.optimizer.step()
        if self.cfg.learn_labels:
            self.syn.y.detach().clamp_(min=0)
        return metrics
