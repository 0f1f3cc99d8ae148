"""The outer loss: what networks that were trained on a set have on real images, and its gradient by their weights."""

import torch

from ..networks.text import Recurrent
from ..training.compute import autocast, images_per_pass, wide
from ..training.losses import cross_entropy, predicted


class RealLoss:
    """Mean cross-entropy of networks on a real batch, whose gradient goes on into the graph of their weights.

    net: an unroll.Flat; tape: its tape.Tape or None; shape: of an image; dtype: of convolutions. The batch goes through in parts of
    `part` images, which stay in the cache; the networks are in eval mode.
    """

    def __init__(self, net, tape, name, shape, device, dtype):
        self.net, self.tape, self.device, self.dtype = net, tape, device, dtype
        self.recurrent = [m for m in net.net.modules() if isinstance(m, Recurrent)]
        self.part = images_per_pass(name, shape, device, dtype)

    def __call__(self, theta, x, y):
        """theta (K, P), x (B, K, H, W), y (B, C) -> {"loss", "batch_accuracy"} on the device."""
        leaf = theta.detach().requires_grad_()
        total = right = by_weight = 0
        taped = self.tape and len(theta) == 1 and self.dtype == "float32"
        self.net.net.eval()
        for layer in self.recurrent:  # a first derivative is enough here
            layer.library = len(theta) == 1
        for images, labels in zip(x.split(self.part), y.split(self.part)):
            share = len(labels) / len(y)
            if taped:
                found, logits, _ = self.tape.gradient(leaf.detach()[0], images, labels)
                loss = cross_entropy(logits, labels) * share
                by_weight = by_weight + found * share
            else:
                with autocast(self.device, self.dtype):
                    logits = self.net(leaf, images)
                loss = cross_entropy(wide(logits), labels).mean() * share
                by_weight = by_weight + torch.autograd.grad(loss, leaf)[0]
            total = total + loss.detach()
            right = right + (predicted(logits) == predicted(labels - 0.5)).sum()  # one number is 0 or 1
        for layer in self.recurrent:
            layer.library = False
        theta.backward(by_weight.view_as(theta))
        return {"loss": total, "batch_accuracy": right / (len(theta) * len(y))}
