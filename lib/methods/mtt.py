"""MTT: matching training trajectories (Cazenavette et al., CVPR 2022), and TESLA's approximation of its gradient.

Source: reference sheet of trajectory matching, sections 3, 6 and 7. From an expert's weights at some epoch, a student takes N steps of
gradient descent on the set, at a learned rate; the loss is its squared distance to the expert some epochs later, over the distance
that the expert went. Low-rank images (LoMTT) are the set's affair. Knowing departures: the gradient is the exact adjoint in constant
memory (unroll.py), the same as the whole graph's; every random number has a seed; every expert is taken once before any is again.
"""

import torch

from ..augment import dsa
from ..autodiff.layerwise import Descent, tape_of
from ..autodiff.unroll import Flat, gradient, unroll
from ..networks import build
from ..rng import generator
from ..synthetic.lowrank import images_per_class
from ..training.compute import forward_flops
from ..training.losses import cross_entropy
from . import METHODS
from .state import Stateful

MOMENTUM = 0.5  # of the images and of the rate


@METHODS.register()
class MTT(Stateful):
    """State and step of one run. cfg: the cell's `distill` parameters; syn: the SyntheticSet to learn, on the device; seed: of this run."""

    def __init__(self, cfg, syn, seed, compiled="none", experts=None):
        self.cfg, self.syn = cfg, syn
        device, shape = syn.y.device, tuple(syn.x.shape[1:])
        net = build(cfg.net, shape, syn.y.shape[1])
        self.net = Flat(net.to(device, memory_format=net.layout))
        self.tape = tape_of(self.net, compiled)
        self.rngs = {name: generator(seed, name, device=device) for name in ("order", "augment")}
        self.rngs["family"] = generator(seed, "family")  # on the CPU: it decides which code runs
        syn.add_schedule(torch.full((1, 1), cfg.lr_start, device=device), torch.clone)
        groups = [{"params": syn.images, "lr": cfg.lr_img}, {"params": [syn.rates], "lr": cfg.lr_lr}]
        self.optimizer = torch.optim.SGD(groups, cfg.lr_img, momentum=MOMENTUM)

    @staticmethod
    def step_flops(cfg, shape, classes):
        """Work of one outer step: each inner step twice, once of it differentiated."""
        images = images_per_class(cfg, shape) * classes
        batch = min(cfg.batch_syn or images, images)
        return forward_flops(cfg.net, shape) * cfg.inner_steps * 9 * batch

    def minibatches(self):
        """The images of each inner step: parts of one permutation after another, from its end, so that a smaller part comes first."""
        size, parts = self.cfg.batch_syn or len(self.syn), []
        while len(parts) < self.cfg.inner_steps:
            order = torch.randperm(len(self.syn), generator=self.rngs["order"], device=self.syn.y.device)
            parts += order.split(size)[::-1]
        return parts[: self.cfg.inner_steps]

    def train(self, theta):
        """Weights (P,) of a student that started from theta (P,), after all inner steps; a function of the set, with its graph."""
        chosen = self.minibatches()
        draws = None
        if self.cfg.augment != "none":
            draws = [dsa.draw(self.cfg.augment, 1, len(b), self.rngs["augment"], self.rngs["family"]) for b in chosen]
        frozen = self.cfg.gradient == "tesla"

        def batch(t, images, y):
            x = images[chosen[t]]
            return dsa.apply(x[None], draws[t])[0] if draws else x, y[chosen[t]]

        def step(t, state, rates, images, y):
            x, y = batch(t, images, y)
            return (
                state[0] - rates[t] * gradient(lambda at: cross_entropy(self.net.one(at[0], x), y), state[0], frozen),
            )

        self.net.net.train()
        if self.tape:
            step = Descent(self.tape, batch, frozen)
        rates = self.syn.lr[0, 0].expand(len(chosen))
        return unroll(step, len(chosen), (theta[None],), rates, self.images(), self.syn.labels)[0][0]

    def distance(self, end, start, target):
        """The loss of a student that went from start to end (P,), where the expert went to target."""
        return (end - target).square().sum() / (start - target).square().sum()

    def images(self):
        """The set's images (N, K, H, W) with their graph."""
        return self.syn.x

    def update(self, loss):
        """Move what is learned down the loss."""
        loss.backward()
        self.optimizer.step()

    def step(self, step, start, target):
        """Outer step `step` (from 0) on a part of a trajectory, from weights start (P,) to target (P,) -> metrics on the device."""
        self.optimizer.zero_grad()
        loss = self.distance(self.train(start), start, target)
        self.update(loss)
        return {"loss": loss.detach(), "step_size": self.syn.rates.detach()[0, 0].clone()}
