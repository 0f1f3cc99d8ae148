"""What DC, DSA and DM share: each class's synthetic images are matched to its real images through random networks.

Source: reference sheet of DC, DSA and DM, sections 1, 4 and 5. Knowing departures: every random number has a seed (the
original's come from the clock), and the loss is formed for groups of classes that fit the device. The groups' gradients
are added before the update, so the update is the original's.
"""

import torch

from ..networks import build
from ..networks.layers import BatchNorm
from ..rng import generator
from ..synthetic.lowrank import images_per_class
from ..training.batches import OTHERS
from ..training.compute import autocast, images_per_pass
from .state import Stateful

MOMENTUM = 0.5  # of the images' SGD


class Matching(Stateful):
    """State and step of a matching method, which adds `class_losses` and `prepare` (the network's mode and statistics).

    cfg: the cell's `distill` parameters; syn: the SyntheticSet to learn, on the device; seed: of this run.
    """

    outer = 1  # updates of the images to a network
    checkpointed = ("syn", "optimizer", "net")
    joint = False  # whether all classes must be in one group

    def __init__(self, cfg, syn, seed):
        self.cfg, self.syn = cfg, syn
        device = syn.y.device
        self.per_class = images_per_class(cfg, tuple(syn.x.shape[1:]))
        self.classes = syn.y.detach().argmax(1)[:: self.per_class]  # the set is class-major
        self.rngs = {name: generator(seed, name, device=device) for name in ("weights", "order", "augment")}
        self.rngs["family"] = generator(seed, "family")  # on the CPU: it decides which code runs
        shape = tuple(syn.x.shape[1:])
        net = build(cfg.net, shape, syn.y.shape[1])
        self.net = net.to(device, memory_format=net.layout)
        self.coupled = any(isinstance(m, BatchNorm) for m in net.modules())  # a batch norm mixes the classes
        # A half was measured best with norms over positions.
        self.images_per_pass = max(images_per_pass(cfg.net, shape, device, cfg.conv_dtype) // 2, 1)
        self.optimizer = torch.optim.SGD(syn.images, cfg.lr_img, momentum=MOMENTUM)

    def draw(self):
        """An augmentation for each class, or None."""
        return None

    def groups(self):
        """Slices of classes that are matched together: as many as fill a pass."""
        count = len(self.classes)
        size = count if self.joint else max(self.images_per_pass // max(self.cfg.real_batch, self.per_class), 1)
        return [slice(c, min(c + size, count)) for c in range(0, count, size)]

    def step(self, step, real_x, indices):
        """One update of the images on real_x (n, K, H, W) -> metrics on the device.

        indices (C, B + others): of each class's batch, and of others that set a batch norm's statistics.
        """
        if step % self.outer == 0:
            self.net.reset(self.rngs["weights"])
        x, draw = self.syn.x, self.draw()
        images = x.detach().unflatten(0, (len(self.classes), self.per_class))
        total, grads = 0, []
        with autocast(x.device, self.cfg.conv_dtype):
            self.prepare(real_x[indices[:, -OTHERS:].flatten()] if self.coupled else None)
            for group in self.groups():
                leaf = images[group].clone().requires_grad_()
                labels, group_draw = self.classes[group], draw and draw[group]
                batch = real_x[indices[group, : self.cfg.real_batch]]
                loss = self.class_losses(batch, leaf, labels, group_draw).sum()
                grads += torch.autograd.grad(loss, leaf)
                total = total + loss.detach()
        self.optimizer.zero_grad()
        x.backward(torch.cat(grads).flatten(0, 1))  # to the pixels or, if they are a product, to its factors
        self.optimizer.step()
        if (step + 1) % self.outer:
            self.train_network()
        return {"loss": total / len(self.classes)}
