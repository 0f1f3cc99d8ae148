"""The outer loss of DD and RaT: on real images, of networks trained on the set; and its gradient by their weights."""

import torch

from ..autodiff.captured import Captured
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
        self.part = Captured(self.part)

    def __call__(self, theta, x, y):
        """theta (K, P), x (B, K, H, W), y (B, C) -> {"loss", "batch_accuracy"} on the device."""
        total_loss = num_right = total_grad = 0
        self.net.net.eval()
        for layer in self.recurrent:  # a first derivative is enough here
            layer.library = len(theta) == 1
        for images, labels in zip(x.split(self.images_per_pass), y.split(self.images_per_pass)):
            loss, grad, right = self.part(theta.detach(), images, labels, len(labels) / len(y))
            total_loss, total_grad, num_right = total_loss + loss, total_grad + grad, num_right + right
        for layer in self.recurrent:
            layer.library = False
        theta.backward(total_grad.view_as(theta))
        return {"loss": total_loss, "batch_accuracy": num_right / (len(theta) * len(y))}

    def part(self, theta, images, labels, share):
        """Of a part of the batch: its share of the loss, that of the gradient by theta, and how many are right."""
        if self.derivatives and len(theta) == 1 and self.dtype in ("float32", "tf32"):
            grad, logits, _ = self.derivatives.gradient(theta[0], images, labels)
            loss, grad = cross_entropy(logits, labels) * share, grad * share
        else:
            leaf = theta.detach().requires_grad_()
            with autocast(self.device, self.dtype):
                logits = self.net(leaf, images)
            loss = cross_entropy(at_least_float32(logits), labels).mean() * share
            (grad,) = torch.autograd.grad(loss, leaf)
        right = (predicted(logits) == predicted(labels - 0.5)).sum()  # a single label is 0 or 1
        return loss.detach(), grad, right
