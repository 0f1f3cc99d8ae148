"""First and second derivatives of piecewise-linear networks, without a graph of a graph.

Each layer is linear in its input between kinks (ReLU, maximum pooling, flattening), or bilinear in its input and its weights (dense
layers, convolutions). So the derivative of a gradient along a direction of the weights (Pearlmutter's R-operator; forward over
reverse: reference sheet of dataset distillation, section 2.2, variant E) needs no rule that the gradient itself has not: images and
their tangents go through the same layers, as one batch of twice the size. Exact; a third of the operations of the general way.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Dense:
    """y = x w^T."""

    spread = (0,)  # the axes of an output over which a bias is spread

    def __init__(self, module):
        pass

    def lift(self, x):
        return x

    def forward(self, x, w):
        return x @ w.T

    def to_lifted(self, g, w):
        return g @ w

    def lower(self, x):
        return x

    def to_weight(self, x, g):
        return g.T @ x


class Convolution:
    """A convolution of stride 1, as matrix products with the images' patches: quicker than the library's for few channels."""

    spread = (0, 2, 3)

    def __init__(self, module):
        self.padding, self.kernel = module.padding[0], module.kernel_size[0]

    def lift(self, x):
        """Images (B, K, H, W) -> patches (B, K k k, h w)."""
        x = F.pad(x, (self.padding,) * 4)
        self.padded, k = x.shape, self.kernel
        self.size = (*x.shape[:2], k, k, x.shape[2] - k + 1, x.shape[3] - k + 1)
        b, c, i, j = x.stride()
        return x.as_strided(self.size, (b, c, i, j, i, j)).reshape(len(x), x.shape[1] * k * k, -1)

    def forward(self, patches, w):
        return (w.flatten(1) @ patches).unflatten(2, self.size[4:])

    def to_lifted(self, g, w):
        return w.flatten(1).T @ g.flatten(2)

    def lower(self, patches):
        """The adjoint of `lift`."""
        patches, (height, width) = patches.view(len(patches), *self.size[1:]), self.size[4:]
        rows = patches.new_zeros(len(patches), self.size[1], self.kernel, height, self.padded[3])
        for j in range(self.kernel):
            rows[..., j : j + width] += patches[:, :, :, j]
        x = patches.new_zeros(len(patches), *self.padded[1:])
        for i in range(self.kernel):
            x[:, :, i : i + height] += rows[:, :, i]
        inside = slice(self.padding, -self.padding or None)
        return x[:, :, inside, inside]

    def to_weight(self, patches, g):
        return (g.flatten(2) @ patches.mT).sum(0)


class Rectifier:
    def forward(self, z):  # (d, B, ...): the images, then their tangents
        self.open = z[0] > 0
        return z * self.open

    def backward(self, g):
        return g * self.open


class Maximum:
    def __init__(self, module):
        self.window = module.kernel_size, module.stride, module.padding

    def forward(self, z):
        top, self.winner = F.max_pool2d(z[0], *self.window, return_indices=True)
        self.shape = z.shape[1:]
        if len(z) == 1:
            return top[None]
        return torch.stack([top, z[1].flatten(2).gather(2, self.winner.flatten(2)).view_as(top)])

    def backward(self, g):
        winner = self.winner.flatten(2).expand(len(g), -1, -1, -1)
        return g.new_zeros(len(g), *self.shape[:2], self.shape[2] * self.shape[3]).scatter_add_(3, winner, g.flatten(3)).view(len(g), *self.shape)


class Flatten:
    def forward(self, z):
        self.shape = z.shape[2:]
        return z.flatten(2)

    def backward(self, g):
        return g.unflatten(2, self.shape)


LINEAR = {nn.ReLU: lambda module: Rectifier(), nn.MaxPool2d: Maximum, nn.Flatten: lambda module: Flatten()}
BILINEAR = {nn.Linear: Dense, nn.Conv2d: Convolution}


def tape_of(flat):
    """The Tape of an unroll.Flat network; None where one of its layers is of another kind."""
    if not isinstance(flat.net.body, nn.Sequential):
        return None
    modules = [*flat.net.body, flat.net.head]
    for module in modules:
        plain = not isinstance(module, nn.Conv2d) or (module.stride == (1, 1) and module.groups == 1 and module.bias is not None)
        if type(module) not in {**LINEAR, **BILINEAR} or not plain:
            return None
    return Tape([{**LINEAR, **BILINEAR}[type(module)](module) for module in modules], list(flat.shapes.values()))


class Tape:
    """The derivatives of a network's mean cross-entropy on images x (B, K, H, W) with labels y (B, C), C above 1, as they are."""

    def __init__(self, layers, shapes):
        self.layers, self.shapes = layers, shapes  # of the parameters, in their order: weight, bias, weight, ...
        self.sizes = [shape.numel() for shape in shapes]

    def _views(self, theta):
        views = [piece.view(shape) for piece, shape in zip(theta.split(self.sizes), self.shapes)]
        return iter(list(zip(views[::2], views[1::2])))

    def _loss(self, logits, y):
        """Logits (B, C) -> probabilities, and the loss's gradient by them."""
        p = logits.softmax(1)
        return p, (y.sum(1, keepdim=True) * p - y) / len(y)

    def gradient(self, theta, x, y):
        """By the weights theta (P,) -> (P,)."""
        weights, saved, h = self._views(theta), [], x[None]
        for layer in self.layers:
            if type(layer) in LINEAR_TYPES:
                h = layer.forward(h)
                continue
            w, b = next(weights)
            lifted = layer.lift(h[0])
            saved.append((layer, w, lifted))
            h = (layer.forward(lifted, w) + b.view(-1, *[1] * (len(layer.spread) - 1)))[None]
        g, found = self._loss(h[0], y)[1][None], []
        for layer in reversed(self.layers):
            if type(layer) in LINEAR_TYPES:
                g = layer.backward(g)
                continue
            _, w, h = saved.pop()
            found = [layer.to_weight(h, g[0]).flatten(), g[0].sum(layer.spread)] + found
            if not saved:
                return torch.cat(found)
            g = layer.lower(layer.to_lifted(g[0], w))[None]

    def along(self, theta, direction, x, y):
        """The gradient's derivative along `direction` (P,): (the loss's own slope (), by the weights (P,), by the images, by the labels)."""
        weights, moves, saved, h = self._views(theta), self._views(direction), [], x[None]
        for layer in self.layers:
            if type(layer) in LINEAR_TYPES:
                h = layer.forward(h)
                continue
            (w, b), (dw, db), wide = next(weights), next(moves), [1] * (len(layer.spread) - 1)
            lifted = layer.lift(h.flatten(0, 1)).unflatten(0, h.shape[:2])
            saved.append((layer, w, dw, lifted))
            z = layer.forward(lifted.flatten(0, 1), w)
            moved = layer.forward(lifted[0], dw).add_(db.view(-1, *wide))
            if len(h) == 2:
                moved += z[len(moved) :]
            h = torch.stack([z[: len(moved)].add_(b.view(-1, *wide)), moved])
        p, g = self._loss(h[0], y)
        slopes = h[1] - (p * h[1]).sum(1, keepdim=True)  # of the log-probabilities
        by_label = -slopes / len(y)
        slope, g, found = (g * h[1]).sum(), torch.stack([g, y.sum(1, keepdim=True) * p * slopes / len(y)]), []
        for layer in reversed(self.layers):
            if type(layer) in LINEAR_TYPES:
                g = layer.backward(g)
                continue
            _, w, dw, h = saved.pop()
            outputs = g[1:] if len(h) == 1 else g.flip(0)
            found = [layer.to_weight(h.flatten(0, 1), outputs.flatten(0, 1)).flatten(), g[1].sum(layer.spread)] + found
            if not saved:  # the images have no tangent: what is left is theirs
                g = layer.lower(layer.to_lifted(g[1], w) + layer.to_lifted(g[0], dw))[None]
                continue
            back = layer.to_lifted(g.flatten(0, 1), w)
            back[g.shape[1] :] += layer.to_lifted(g[0], dw)
            g = layer.lower(back).unflatten(0, g.shape[:2])
        return slope, torch.cat(found), g[0], by_label


LINEAR_TYPES = (Rectifier, Maximum, Flatten)


class Descent:
    """Gradient descent of one network's weights (1, P) on minibatches in turn, at the rates (T,): a step for `unroll`."""

    def __init__(self, tape, minibatches):
        self.tape, self.minibatches = tape, minibatches

    def own(self, t, tensor):
        """The minibatch of step t."""
        size = len(tensor) // self.minibatches
        start = t % self.minibatches * size
        return tensor[start : start + size]

    def __call__(self, t, state, rates, x, y):
        return (torch.sub(state[0], self.tape.gradient(state[0][0], self.own(t, x), self.own(t, y)) * rates[t]),)

    def pullback(self, t, state, inputs, adjoint, totals):
        rates, x, y = inputs
        slope, by_weight, by_image, by_label = self.tape.along(state[0][0], adjoint[0][0], self.own(t, x), self.own(t, y))
        for total, part in zip(totals, (slope, by_image * rates[t], by_label * rates[t])):
            if total is not None:
                (total[t] if part is slope else self.own(t, total)).sub_(part)
        return (adjoint[0] - by_weight * rates[t],)
