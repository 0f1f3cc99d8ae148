"""What DC, DSA and DM have in common: images of each class against real images of that class, through random networks.

Source: reference sheet of DC, DSA and DM, sections 1, 4 and 5. Knowing departures: every random number has a seed (the original's
come from the clock), and the loss is formed for groups of classes that fit the device; their gradients are added before the
update, so that the update is the original's.
"""

import torch

from ..networks import build
from ..networks.layers import BatchNorm
from ..rng import generator
from ..training.compute import autocast, images_per_pass
from .state import Stateful

MOMENTUM = 0.5  # of the images' SGD


class Matching(Stateful):
    """State and step of a matching method, which gives `class_losses` and `prepare` (the network's mode); `draw` is its augmentation.

    cfg: the cell's `distill` parameters; syn: the SyntheticSet to learn, on the device; seed: of this run.
    """

    outer = 1  # updates of the images to a network
    parts = ("syn", "optimizer", "net")
    joint = False  # whether all classes must be in one group

    def __init__(self, cfg, syn, seed, compiled="none"):
        self.cfg, self.syn = cfg, syn
        device = syn.y.device
        self.classes = syn.y.detach().argmax(1).unique_consecutive()  # the set is class-major
        self.per_class = len(syn) // len(self.classes)
        self.rngs = {name: generator(seed, name, device=device) for name in ("weights", "order", "augment")}
        self.rngs["family"] = generator(seed, "family")  # on the CPU: it decides which code runs
        shape = tuple(syn.x.shape[1:])
        net = build(cfg.net, shape, syn.y.shape[1])
        self.net = net.to(device, memory_format=net.layout)
        self.coupled = any(
            isinstance(m, BatchNorm) for m in self.net.modules()
        )  # classes see each other through the norm
        self.part = max(
            images_per_pass(cfg.net, shape, device, cfg.conv_dtype) // 2, 1
        )  # half, measured best with norms over positions
        self.optimizer = torch.optim.SGD(syn.images, cfg.lr_img, momentum=MOMENTUM)

    def draw(self):
        """An augmentation for each class, or None."""
        return None

    def groups(self):
        """Slices of classes that are matched together: as many as fill a pass."""
        size = len(self.classes)
        step = size if self.joint else max(self.part // max(self.cfg.real_batch, self.per_class), 1)
        return [slice(c, min(c + step, size)) for c in range(0, size, step)]

    def step(self, step, real_x, chosen):
        """One update of the images: real_x (n, K, H, W), chosen (C, B) of them for each class -> metrics on the device."""
        if step % self.outer == 0:
            self.net.reset(self.rngs["weights"])
        x, draw = self.syn.x, self.draw()
        images = x.detach().unflatten(0, (len(self.classes), self.per_class))
        total, gradients = 0, []
        with autocast(x.device, self.cfg.conv_dtype):
            self.prepare(real_x, chosen)
            for part in self.groups():
                own = images[part].clone().requires_grad_()
                loss = self.class_losses(real_x[chosen[part]], own, self.classes[part], draw and draw[part]).sum()
                gradients += torch.autograd.grad(loss, own)
                total = total + loss.detach()
        self.optimizer.zero_grad()
        x.backward(torch.cat(gradients).flatten(0, 1))  # to the pixels, or through the product to its factors
        self.optimizer.step()
        if (step + 1) % self.outer:
            self.train_network()
        return {"loss": total / len(self.classes)}
