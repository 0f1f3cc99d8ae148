"""The outer loss of DD and RaT: on real images, of networks trained on the set; and its gradient by their weights."""

import torch

from ..networks.text import Recurrent
from ..training.compute import at_least_float32, autocast, images_per_pass
from ..training.losses import cross_entropy, predicted


class OuterLoss:
    """Mean cross-entropy of networks on a real batch; its gradient goes on into the graph of their weights.

    net: an unroll.Flat; derivatives: its layerwise.LayerwiseDerivatives or None; name: its architecture; shape: an
    image's; dtype: of convolutions. `images_per_pass` images at a time, which stay in the cache; eval mode.
    """

    def __init__(self, net, derivatives, name, shape, device, dtype):
        self.net, self.derivatives, self.device, self.dtype = net, derivatives, device, dtype
        self.recurrent = [m for m in net.net.modules() if isinstance(m, Recurrent)]
        self.images_per_pass = images_per_pass(name, shape, device, dtype)

    def __call__(self, theta, x, y):
        """theta (K, P), x (B, K, H, W), y (B, C) -> {"loss", "batch_accuracy"} on the device."""
        leaf = theta.detach().requires_grad_()
        total_loss = num_right = total_grad = 0
        by_hand = self.derivatives and len(theta) == 1 and self.dtype == "float32"
        self.net.net.eval()
        for layer in self.recurrent:  # a first derivative is enough here
            layer.library = len(theta) == 1
        for images, labels in zip(x.split(self.images_per_pass), y.split(self.images_per_pass)):
            share = len(labels) / len(y)
            if by_hand:
                grad, logits, _ = self.derivatives.gradient(leaf.detach()[0], images, labels)
                loss = cross_entropy(logits, labels) * share
                total_grad = total_grad + grad * share
            else:
                with autocast(self.device, self.dtype):
                    logits = self.net(leaf, images)
                loss = cross_entropy(at_least_float32(logits), labels).mean() * share
                total_grad = total_grad + torch.autograd.grad(loss, leaf)[0]
            total_loss = total_loss + loss.detach()
            num_right = num_right + (predicted(logits) == predicted(labels - 0.5)).sum()  # a single label is 0 or 1
        for layer in self.recurrent:
            layer.library = False
        theta.backward(total_grad.view_as(theta))
        return {"loss": total_loss, "batch_accuracy": num_right / (len(theta) * len(y))}
