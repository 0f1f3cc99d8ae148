"""FRePo: dataset distillation using neural feature regression with pooling (Zhou, Nezhadarya, Ba; NeurIPS 2022).

Source: reference sheet of FRePo, sections 2 to 5. Knowing departures from the released code: the pool's member is drawn
from a seeded generator, real batches are permutations of the training set (the original shuffles within a buffer of 16
batches), convolutions may run in bfloat16. `augment` is ours: outer loss and pool see the set as evaluations do.
"""

from functools import partial
from math import cos, pi

import torch

from ..augment.frepo import augmented
from ..autodiff.captured import Captured
from ..networks import build
from ..rng import generator, restore
from ..synthetic.lowrank import images_per_class
from ..training.compute import autocast, forward_flops, images_per_pass
from ..training.losses import squared_error
from ..training.optimizers import adam, forget, load_state, state_of
from . import METHODS
from .kernel_regression import krr_predict
from .lamb import Lamb


def label_margin(y):
    """Minus the mean margin between the two largest entries of each row of y (N, C), each capped at 1/C."""
    first, second = y.topk(2, dim=1).values.unbind(1)
    return -(first - second).clamp(max=1 / y.shape[1]).mean()


def meta_loss(features, x, y, phi_real, targets, flip, data_fit=squared_error):
    """The outer objective: regression from the synthetic set to a real batch, plus the labels' margin term.

    features: images -> (N, F); x (N, K, H, W), y (N, C): the synthetic set; phi_real (B, F), without gradient;
    targets (B, C): centred one-hot; flip: double the set by its mirror images; data_fit: the loss of predictions and
    targets. Returns the loss and the fraction of the batch that is predicted correctly.
    """
    margin = label_margin(y)
    if flip:
        x, y = torch.cat([x, x.flip(-1)]), torch.cat([y, y])
    prediction = krr_predict(features(x), y, phi_real)
    accuracy = (prediction.argmax(1) == targets.argmax(1)).float().mean()
    return data_fit(prediction, targets) + margin, accuracy


def cosine_lr(base, final_fraction, step, total):
    """Cosine from `base` at step 0 to `base * final_fraction` at `total`."""
    return base * (final_fraction + (1 - final_fraction) * 0.5 * (1 + cos(pi * min(step / total, 1))))


class Member:
    """One network of the pool, its Adam state, and `counter`: the number of its updates."""

    def __init__(self, net, lr, counter):
        self.net, self.optimizer, self.counter = net, adam(net.parameters(), lr), counter

    def reset(self, gen):
        self.net.reset(gen)
        forget(self.optimizer)
        self.counter = 0

    def tensors(self):
        """All that an update changes."""
        return [*self.net.state_dict().values(), *state_of(self.optimizer)]

    def state_dict(self):
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "counter": self.counter}

    def load_state_dict(self, state):
        self.net.load_state_dict(state["net"])
        load_state(self.optimizer, state["optimizer"])
        self.counter = state["counter"]


@METHODS.register()
class FRePo:
    """The method's state; `step` is one iteration of the algorithm.

    cfg: the cell's `distill` parameters; syn: the SyntheticSet to learn, on the device.
    """

    def __init__(self, cfg, syn, seed):
        self.cfg, self.syn = cfg, syn
        device = syn.y.device
        self.weights_rng = generator(seed, "pool", "weights", device=device)
        self.pool_rng = generator(seed, "pool", "member")
        self.batch_rng = generator(seed, "pool", "batch", device=device)
        self.rngs = [self.weights_rng, self.pool_rng, self.batch_rng]
        self.augment = getattr(cfg, "augment", "none")  # a recipe has no such field where it is none
        if self.augment != "none":
            self.rngs.append(generator(seed, "augment", device=device))
        self.pool = [self._member(cfg.reset_after // cfg.pool_size * i) for i in range(cfg.pool_size)]
        self.optimizer = Lamb(syn.learned, cfg.outer_lr)
        self.target_features = Captured(self.target_features)
        self.meta_gradients = Captured(self.meta_gradients)
        self.update = Captured(self.update, changes=lambda member, *batch: member.tensors())

    def _member(self, counter):
        x, y = self.syn.x, self.syn.y
        net = build(self.cfg.net, tuple(x.shape[1:]), y.shape[1]).to(x.device, memory_format=torch.channels_last)
        return Member(net.reset(self.weights_rng), self.cfg.online_lr, counter)

    @staticmethod
    def step_flops(cfg, shape, classes):
        """FLOPs of one iteration: real images forward; the set forward, and back to the images; the online step."""
        n = classes * images_per_class(cfg, shape)
        copies = n * (1 + cfg.flip) * (1 if getattr(cfg, "augment", "none") == "none" else 2)
        return forward_flops(cfg.net, shape) * (cfg.real_batch + 2 * copies + 3 * min(n, cfg.online_batch))

    def _pass(self, net, x, head):
        """A network's logits (with its head) or features on images x, convolutions in the cell's precision."""
        with autocast(x.device, self.cfg.conv_dtype):
            x = x.contiguous(memory_format=torch.channels_last)
            return net(x) if head else net.features(x)

    def _features(self, net, x):
        """Penultimate features (N, F) in the kernel's precision; eval-mode norm statistics."""
        return self._pass(net.eval(), x, False).to(getattr(torch, self.cfg.krr_dtype))

    def data_fit(self, phi_real):
        """The regression's loss, a function of predictions and targets (B, C), for real features phi_real (B, F)."""
        return squared_error

    @torch.no_grad()
    def target_features(self, net, x):
        """Features (B, F) of the real images x (B, K, H, W), a part at a time."""
        size = images_per_pass(self.cfg.net, tuple(x.shape[1:]), x.device, self.cfg.conv_dtype)
        return torch.cat([self._features(net, part) for part in x.split(size)])

    def meta_gradients(self, net, x, y, phi_real, targets):
        """The outer loss of a set x, y through a frozen network, the batch's accuracy, the gradients by x and by y."""
        net.requires_grad_(False)  # saves about half of the backward pass
        leaves = [x.detach().requires_grad_(), y.detach().requires_grad_()]
        y, targets = leaves[1].to(phi_real.dtype), targets.to(phi_real.dtype)
        features, data_fit = partial(self._features, net), self.data_fit(phi_real)
        loss, accuracy = meta_loss(features, leaves[0], y, phi_real, targets, self.cfg.flip, data_fit)
        learned = leaves if self.syn.y.requires_grad else leaves[:1]
        return loss.detach(), accuracy, *torch.autograd.grad(loss, learned)

    def meta_step(self, net, x_real, targets, lr):
        """Update the synthetic set through a frozen network (sections 2 and 3)."""
        phi_real, x, y = self.target_features(net, x_real), self.syn.x, self.syn.y
        if self.augment != "none":
            x, y = torch.cat([x, self.augmented(x)]), torch.cat([y, y])
        loss, accuracy, *grads = self.meta_gradients(net, x.detach(), y.detach(), phi_real, targets)
        self.optimizer.zero_grad()
        torch.autograd.backward([x, y][: len(grads)], grads)  # to the pixels or, if a product, to its factors
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        return {"loss": loss, "batch_accuracy": accuracy}

    def augmented(self, x):
        """Images x (N, K, H, W), augmented by one operation; differentiable."""
        return augmented(self.augment, x[None], self.rngs[-1], None)[0]

    def online_step(self, member):
        """Train a member of the pool on the set for one step (section 5): train-mode norm, no flip."""
        n, batch = len(self.syn), self.cfg.online_batch
        x, y = self.syn.x.detach(), self.syn.y.detach()
        if n > batch:
            indices = torch.randperm(n, generator=self.batch_rng, device=x.device)[:batch]
            x, y = x[indices], y[indices]
        self.update(member, x if self.augment == "none" else self.augmented(x), y)
        member.counter += 1

    def update(self, member, x, y):
        """One step of a member's Adam on images x (B, K, H, W) and labels y (B, C)."""
        net = member.net.train()
        net.requires_grad_(True)
        member.optimizer.zero_grad()
        squared_error(self._pass(net, x, True).to(y.dtype), y).backward()
        member.optimizer.step()

    def step(self, step, x_real, targets):
        """Iteration `step` (from 0) on a real batch x_real (B, K, H, W), targets (B, C) -> metrics on the device."""
        member = self.pool[torch.randint(len(self.pool), (), generator=self.pool_rng)]
        lr = cosine_lr(self.cfg.outer_lr, self.cfg.outer_lr_final, step, self.cfg.steps)
        metrics = self.meta_step(member.net, x_real, targets, lr)
        if member.counter > self.cfg.reset_after:
            member.reset(self.weights_rng)
        else:
            self.online_step(member)
        return metrics

    def state_dict(self):
        return {
            "syn": self.syn.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pool": [m.state_dict() for m in self.pool],
            "rng": [gen.get_state() for gen in self.rngs],
        }

    def load_state_dict(self, state):
        self.syn.load_state_dict(state["syn"])
        self.optimizer.load_state_dict(state["optimizer"])
        for member, saved in zip(self.pool, state["pool"], strict=True):
            member.load_state_dict(saved)
        for gen, saved in zip(self.rngs, state["rng"], strict=True):
            restore(gen, saved)
