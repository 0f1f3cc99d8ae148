"""MTT: matching training trajectories (Cazenavette et al., CVPR 2022), and TESLA's approximation of its gradient.

Source: reference sheet of trajectory matching, sections 3, 6 and 7. From an expert's weights at some epoch, a student
takes N steps of gradient descent on the set, at a learned rate. The loss is its squared distance to the expert some
epochs later, over the squared distance that the expert went. Low-rank images (LoMTT) are in synthetic/lowrank.py.
Knowing departures: the gradient is the exact adjoint in constant memory (unroll.py), equal to the whole graph's; every
random number has a seed; every expert is taken once before any is taken again.
"""

import torch

from ..augment import dsa
from ..autodiff.layerwise import GradientDescent, layerwise_derivatives
from ..autodiff.unroll import Core, Flat, Step, gradient, unroll
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
    """State and step of one run. cfg: the cell's `distill` parameters; syn: the SyntheticSet, on the device."""

    def __init__(self, cfg, syn, seed, experts=None):
        self.cfg, self.syn = cfg, syn
        device, shape = syn.y.device, tuple(syn.x.shape[1:])
        net = build(cfg.net, shape, syn.y.shape[1])
        self.net = Flat(net.to(device, memory_format=net.layout))
        self.derivatives, self.descent = layerwise_derivatives(self.net), Core(self.descend)
        self.rngs = {name: generator(seed, name, device=device) for name in ("order", "augment")}
        self.rngs["family"] = generator(seed, "family")  # on the CPU: it decides which code runs
        syn.add_schedule(torch.full((1, 1), cfg.lr_start, device=device), torch.clone)
        groups = [{"params": syn.images, "lr": cfg.lr_img}, {"params": [syn.rates], "lr": cfg.lr_lr}]
        self.optimizer = torch.optim.SGD(groups, cfg.lr_img, momentum=MOMENTUM)

    @staticmethod
    def step_flops(cfg, shape, classes):
        """FLOPs of one outer step: each inner step twice, once differentiated."""
        images = images_per_class(cfg, shape) * classes
        batch = min(cfg.batch_syn or images, images)
        return forward_flops(cfg.net, shape) * cfg.inner_steps * 9 * batch

    def minibatches(self):
        """Indices of each inner step's images: one permutation after another, split; a smaller batch comes first."""
        size, batches = self.cfg.batch_syn or len(self.syn), []
        while len(batches) < self.cfg.inner_steps:
            order = torch.randperm(len(self.syn), generator=self.rngs["order"], device=self.syn.y.device)
            batches += order.split(size)[::-1]
        return batches[: self.cfg.inner_steps]

    def descend(self, theta, rate, x, y):
        """Weights (1, P) after a step of gradient descent on a minibatch."""
        frozen = self.cfg.gradient == "tesla"
        return (theta - rate * gradient(lambda w: cross_entropy(self.net.one(w[0], x), y), theta, frozen),)

    def train(self, theta):
        """Weights (P,), after all inner steps, of a student that starts from theta (P,); differentiable in the set."""
        indices, policy = self.minibatches(), self.cfg.augment
        draws = None
        if policy != "none":
            draws = [dsa.draw(policy, 1, len(i), self.rngs["augment"], self.rngs["family"]) for i in indices]

        def minibatch(t, images, y):
            x = images[indices[t]]
            return dsa.apply(x[None], draws[t])[0] if draws else x, y[indices[t]]

        self.net.net.train()
        if self.derivatives:
            step = GradientDescent(self.derivatives, minibatch, self.cfg.gradient == "tesla")
        else:
            step = Step(self.descent, lambda t, rates, images, y: (rates[t], *minibatch(t, images, y)))
        rates = self.syn.lr[0, 0].expand(len(indices))
        return unroll(step, len(indices), (theta[None],), rates, self.images(), self.syn.labels)[0][0]

    def distance(self, end, start, target):
        """The loss of a student that went from start to end (P,), where the expert went to target (P,)."""
        return (end - target).square().sum() / (start - target).square().sum()

    def images(self):
        """The set's images (N, K, H, W) with their graph."""
        return self.syn.x

    def update(self, loss):
        """Move all that is learned down the loss."""
        loss.backward()
        self.optimizer.step()

    def step(self, step, start, target):
        """Outer step `step` (from 0) on an expert's weights start (P,) and, epochs later, target (P,) -> metrics."""
        self.optimizer.zero_grad()
        loss = self.distance(self.train(start), start, target)
        self.update(loss)
        return {"loss": loss.detach(), "step_size": self.syn.rates.detach()[0, 0].clone()}
