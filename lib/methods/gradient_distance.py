"""Gradients of each class and the distance between them: what DC and DSA match.

Source: reference sheet of DC, DSA and DM, section 4.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from ..training.compute import wide

EPSILON = 1e-6  # in the denominator of a cosine, as published


def class_gradients(net, x, labels, part, create_graph=False):
    """The gradient of each class's mean cross-entropy with respect to net's parameters.

    x (c, n, K, H, W): n images of each of c classes, labels (c,). Returns a list of tensors (c, *parameter.shape).
    One class goes through the network `part` images at a time, where no graph is asked for; several go under one vmap.
    """
    params = dict(net.named_parameters())
    if len(x) > 1:

        def loss(params, images, label):
            return F.cross_entropy(wide(functional_call(net, params, (images,))), label.expand(len(images)))

        return list(vmap(grad(loss), (None, 0, 0))(params, x, labels).values())
    images, n = x[0], x.shape[1]
    total = None
    for some in images.split(n if create_graph else part):
        loss = F.cross_entropy(wide(net(some)), labels.expand(len(some)), reduction="sum") / n
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph)
        total = list(grads) if total is None else [t.add_(g) for t, g in zip(total, grads)]
    return [g.unsqueeze(0) for g in total]


def layerwise(ours, theirs):
    """Sum over the rows (output channels) of every weight of 1 - cosine, biases and norms' vectors left out: (c,)."""
    total = 0
    for a, b in zip(ours, theirs):
        if a.ndim > 2:
            a, b = a.flatten(2), b.flatten(2)
            total = total + (1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + EPSILON)).sum(-1)
    return total


def _joined(tensors):
    return torch.cat([t.flatten(1) for t in tensors], 1)


def mse(ours, theirs):
    """Squared distance of all gradients as one vector: (c,)."""
    return (_joined(ours) - _joined(theirs)).square().sum(1)


def cos(ours, theirs):
    """1 - cosine of all gradients as one vector: (c,)."""
    a, b = _joined(ours), _joined(theirs)
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)


DISTANCES = {"layerwise": layerwise, "mse": mse, "cos": cos}
