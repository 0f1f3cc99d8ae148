"""DD: dataset distillation (Wang, Zhu, Torralba, Efros 2018), by differentiating through the training on the set.

Source: reference sheet of dataset distillation, sections 1 to 4. The set is S minibatches. A network takes them in turn
E times, each at a learned rate of its own; the outer loss is the trained network's on a batch of real images. On
sentences, whose images are sequences of word vectors, this is text dataset distillation. Knowing departures: the
gradient is formed in constant memory (unroll.py), the real batch goes in parts (outer_loss.py), every draw has a seed.
`max_norm` and `relu_width` are not in the papers: a limit to the outer gradient, and a ReLU that is smoothed in it.
"""

import torch
import torch.nn.functional as F

from ..augment.dd import crop_flip
from ..autodiff.layerwise import GradientDescent, layerwise_derivatives
from ..autodiff.unroll import Core, Flat, Step, gradient, unroll
from ..networks import build
from ..rng import generator
from ..synthetic.lowrank import images_per_class
from ..training.compute import forward_flops
from ..training.losses import cross_entropy
from . import METHODS
from .outer_loss import OuterLoss
from .state import Stateful

BETAS = (0.5, 0.999)  # of the outer Adam
HALVING = 0.5


@METHODS.register()
class DD(Stateful):
    """State and step of one run. cfg: the cell's `distill` parameters; syn: the SyntheticSet to learn, on the device.

    The set gets a learned rate for each inner step and, if all networks share one start, these starting weights.
    experts: training.trajectories.Trajectories whose last weights networks start from, or None; `held_out`: how many of
    them are kept for evaluations.
    """

    def __init__(self, cfg, syn, seed, experts=None, held_out=0):
        self.cfg, self.syn = cfg, syn
        device, shape = syn.y.device, tuple(syn.x.shape[1:])
        self.net = Flat(build(cfg.net, shape, syn.y.shape[1]).to(device))
        self.max_norm = getattr(cfg, "max_norm", None)  # recipes leave out what is null
        width = getattr(cfg, "relu_width", None)
        exact = layerwise_derivatives(self.net) if syn.y.shape[1] > 1 else None
        self.derivatives = layerwise_derivatives(self.net, width) if width else exact
        self.dropout = any(isinstance(m, torch.nn.Dropout) for m in self.net.net.modules())
        self.descent = Core(self.descend, not self.dropout)  # a graph would keep its masks
        self.rngs = {name: generator(seed, name, device=device) for name in ("weights", "augment")}
        self.rngs["dropout"] = generator(seed, "dropout")  # on the CPU: it draws seeds
        self.outer_loss = OuterLoss(self.net, exact, cfg.net, shape, device, cfg.conv_dtype)
        rates = torch.full((cfg.epochs, cfg.minibatches), cfg.lr_start, device=device)
        self.pool = None if experts is None else experts.last(range(len(experts) - held_out)).to(device)
        start = self.net.weights(generator(seed, "start", device=device)) if self.pool is None else self.pool[0]
        syn.add_schedule(rates.expm1().log(), F.softplus, start if cfg.start == "fixed" else None)
        self.optimizer = torch.optim.Adam(syn.learned, cfg.outer_lr, BETAS)

    @staticmethod
    def step_flops(cfg, shape, classes):
        """FLOPs of one outer step: the real batch forward and backward; each inner step twice, once differentiated."""
        inner = cfg.epochs * images_per_class(cfg, shape) * len(cfg.classes or range(classes))
        return forward_flops(cfg.net, shape) * cfg.nets_per_step * (3 * cfg.real_batch + 12 * inner)

    def starts(self):
        """Weights (K, P) that this outer step's networks start from."""
        if self.cfg.start == "fixed":
            return self.syn.start[None]
        if self.pool is not None:
            order = torch.randperm(len(self.pool), generator=self.rngs["weights"], device=self.pool.device)
            return self.pool[order[: self.cfg.nets_per_step]]
        return torch.stack([self.net.weights(self.rngs["weights"]) for _ in range(self.cfg.nets_per_step)])

    def descend(self, theta, rate, x, y):
        """Weights (K, P) after a step of gradient descent on a minibatch."""
        return (theta - rate * gradient(lambda w: cross_entropy(self.net(w, x), y).sum(), theta),)

    def train(self, theta):
        """Weights (K, P) after all inner steps of networks that start from theta (K, P); differentiable in the set."""
        steps, minibatches = self.syn.rates.numel(), self.cfg.minibatches
        seeds = torch.randint(2**62, (steps,), generator=self.rngs["dropout"]) if self.dropout else None
        self.net.net.train()

        def minibatch(t, images, y):
            size = len(y) // minibatches
            start = t % minibatches * size
            return images[start : start + size], y[start : start + size]

        def arguments(t, rates, images, y):
            if self.dropout:  # the same masks when the step's graph is rebuilt
                torch.manual_seed(seeds[t].item())
            return rates[t], *minibatch(t, images, y)

        by_hand = self.derivatives and len(theta) == 1
        step = GradientDescent(self.derivatives, minibatch) if by_hand else Step(self.descent, arguments)
        return unroll(step, steps, (theta,), self.syn.lr.flatten(), self.syn.x, self.syn.labels)[0]

    def step(self, step, x, y):
        """Outer step `step` (from 0) on a real batch x (B, K, H, W), y (B, C) -> metrics on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.outer_lr * HALVING ** (step // self.cfg.halve_every)
        self.optimizer.zero_grad()
        if self.cfg.augment == "crop_flip":
            x = crop_flip(x, self.rngs["augment"])
        metrics = self.outer_loss(self.train(self.starts()), x, y)
        if self.max_norm:  # the gradient of one step in a hundred is ten times the median and more
            torch.nn.utils.clip_grad_norm_(self.syn.learned, self.max_norm)
        self.optimizer.step()
        return metrics
