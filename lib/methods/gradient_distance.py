"""Gradients of each class and the distance between them: what DC and DSA match.

Source: reference sheet of DC, DSA and DM, section 4.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from ..training.compute import at_least_float32

EPSILON = 1e-6  # in the denominator of a cosine, as published


def class_gradients(net, x, labels, images_per_pass, create_graph=False):
    """The gradient of each class's mean cross-entropy by net's parameters.

    x (c, n, K, H, W): n images of each of c classes; labels (c,). Returns a list of tensors (c, *parameter.shape).
    Several classes go through the network under one vmap; a single one `images_per_pass` images at a time, or at once
    with create_graph.
    """
    params = dict(net.named_parameters())
    if len(x) > 1:

        def class_loss(params, images, label):
            logits = functional_call(net, params, (images,))
            return F.cross_entropy(at_least_float32(logits), label.expand(len(images)))

        return list(vmap(grad(class_loss), (None, 0, 0))(params, x, labels).values())
    n, total = x.shape[1], None
    for images in x[0].split(n if create_graph else images_per_pass):
        loss = F.cross_entropy(at_least_float32(net(images)), labels.expand(len(images)), reduction="sum") / n
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph)
        total = list(grads) if total is None else [t.add_(g) for t, g in zip(total, grads)]
    return [g.unsqueeze(0) for g in total]


# Distances (c,) of two lists of gradients (c, *parameter.shape), of the synthetic and of the real images.


def layerwise(syn_grads, real_grads):
    """Sum of 1 - cosine over the rows (output channels) of every weight; biases and norms' vectors are left out."""
    total = 0
    for a, b in zip(syn_grads, real_grads):
        if a.ndim > 2:
            a, b = a.flatten(2), b.flatten(2)
            total = total + (1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + EPSILON)).sum(-1)
    return total


def _flat(grads):
    return torch.cat([g.flatten(1) for g in grads], 1)


def mse(syn_grads, real_grads):
    """Squared distance of all gradients as one vector."""
    return (_flat(syn_grads) - _flat(real_grads)).square().sum(1)


def cos(syn_grads, real_grads):
    """1 - cosine of all gradients as one vector."""
    a, b = _flat(syn_grads), _flat(real_grads)
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)


DISTANCES = {"layerwise": layerwise, "mse": mse, "cos": cos}
