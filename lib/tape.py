"""First and second derivatives of piecewise-linear networks, without a graph of a graph.

Each layer is linear in its input between kinks (ReLU, maxima), or bilinear in its input and its weights (dense layers, convolutions).
So the derivative of a gradient along a direction of the weights (Pearlmutter's R-operator; forward over reverse: reference sheet of
dataset distillation, section 2.2, variant E) needs no rule that the gradient itself has not: images and their tangents go through
the same layers, side by side. Exact; a fraction of the operations of the general way, which matters where each of them is small.

Inside, a batch comes last and the tangents d (images alone, or images and tangents) second: (rows, d, ..., B).
"""

import torch
import torch.nn.functional as F
from torch import nn

from .networks.layers import PLACES, PooledConv, at_four_places


class Dense:
    """A matrix times the input."""

    def lift(self, h):
        """The input as the columns of a matrix (R, d, n)."""
        self.shape = h.shape
        return h.movedim(1, -2).flatten(0, -3) if h.ndim > 3 else h

    def lower(self, columns):
        """The adjoint of `lift`."""
        if len(self.shape) == 3:
            return columns
        return columns.unflatten(0, (self.shape[0], *self.shape[2:-1])).movedim(-2, 1)

    def output(self, z):
        return z

    def matrix(self, w):
        return w

    def unmatrix(self, matrix):
        """The adjoint of `matrix`."""
        return matrix


class Convolution:
    """A PooledConv, its maximum over the four places included: a matrix times the patches of the input."""

    def __init__(self, module):
        self.padding, self.kernel = module.padding[0], module.kernel_size[0] + 1

    def lift(self, h):  # (K, d, H, W, B)
        h = F.pad(h, (0, 0, *[self.padding] * 4)).contiguous()
        self.padded, k = h.shape, self.kernel
        channels, d, height, width, batch = h.shape
        self.size = (channels, k, k, d, (height - k) // 2 + 1, (width - k) // 2 + 1, batch)
        c, e, i, j, b = h.stride()
        return h.as_strided(self.size, (c, i, j, e, 2 * i, 2 * j, b)).reshape(channels * k * k, d, -1)

    def lower(self, columns):
        d = columns.shape[1]
        patches, (height, width, batch) = columns.view(*self.size[:3], d, *self.size[4:]), self.size[4:]
        rows = patches.new_zeros(*self.size[:2], d, height, self.padded[3], batch)
        for j in range(self.kernel):
            rows[..., j : j + 2 * width : 2, :] += patches[:, :, j]
        h = patches.new_zeros(self.size[0], d, *self.padded[2:])
        for i in range(self.kernel):
            h[:, :, i : i + 2 * height : 2] += rows[:, i]
        inside = slice(self.padding, -self.padding or None)
        return h[:, :, inside, inside]

    def output(self, z):  # (4 O, d, n) -> (O, d, h, w, B)
        z = z.view(-1, 2, 2, z.shape[1], *self.size[4:])  # two rows of two places
        value = z[:, :, :, 0]
        self.right = value[:, :, 1] > value[:, :, 0]
        rows = torch.maximum(value[:, :, 0], value[:, :, 1])
        self.below = rows[:, 1] > rows[:, 0]
        top = torch.maximum(rows[:, 0], rows[:, 1]).unsqueeze(1)
        if z.shape[3] == 1:
            return top
        slope = torch.where(self.right, z[:, :, 1, 1], z[:, :, 0, 1])
        return torch.cat([top, torch.where(self.below, slope[:, 1], slope[:, 0]).unsqueeze(1)], 1)

    def before(self, g):
        """The adjoint of `output`: to the place that had the maximum, the first of equals."""
        places = g.new_empty(len(g), 2, 2, *g.shape[1:])
        below = self.below.unsqueeze(1)
        for row, own in enumerate((g * ~below, g * below)):
            torch.mul(own, self.right[:, row].unsqueeze(1), out=places[:, row, 1])
            torch.sub(own, places[:, row, 1], out=places[:, row, 0])
        return places.view(4 * len(g), g.shape[1], -1)

    def matrix(self, w):
        return at_four_places(w).flatten(2).flatten(0, 1)

    def unmatrix(self, matrix):
        k = self.kernel - 1
        places = matrix.view(-1, 4, self.size[0], k + 1, k + 1)
        return sum(places[:, place, :, i : i + k, j : j + k] for place, (i, j) in enumerate(PLACES))


LAYERS = {nn.Linear: lambda module: Dense(), PooledConv: Convolution, nn.ReLU: lambda module: "relu", nn.Flatten: lambda module: None}


def tape_of(flat):
    """The Tape of an unroll.Flat network; None where one of its layers is of another kind."""
    if not isinstance(flat.net.body, nn.Sequential):
        return None
    modules = [*flat.net.body, flat.net.head]
    if any(type(module) not in LAYERS for module in modules):
        return None
    layers = [layer for module in modules if (layer := LAYERS[type(module)](module))]
    pairs = [(layer, after == "relu") for layer, after in zip(layers, [*layers[1:], None]) if layer != "relu"]
    return Tape(pairs, list(flat.shapes.values()))


class Tape:
    """The derivatives of a network's mean cross-entropy on images x (B, K, H, W) with labels y (B, C), C above 1, as they are.

    layers: pairs of a Dense or Convolution and whether a ReLU follows; shapes: of the parameters: weight, bias, weight, ...
    """

    def __init__(self, layers, shapes):
        self.layers, self.shapes = layers, shapes
        self.sizes = [shape.numel() for shape in shapes]

    def _pairs(self, theta):
        """(matrix, bias) of each layer."""
        views = [piece.view(shape) for piece, shape in zip(theta.split(self.sizes), self.shapes)]
        return [(layer.matrix(w), b) for (layer, _), w, b in zip(self.layers, views[::2], views[1::2])]

    def _forward(self, pairs, x, moves):
        """Logits (C, d, B), and what each layer keeps for the way back: its columns, and where its ReLU is open."""
        h, kept = x.movedim(0, -1).unsqueeze(1), []
        for (layer, rectified), (matrix, b), move in zip(self.layers, pairs, moves):
            columns = layer.lift(h)
            z = (matrix @ columns.flatten(1)).view(len(matrix), *columns.shape[1:])
            if move:
                moved = move[0] @ columns[:, 0]
                z = torch.stack([z[:, 0], moved + z[:, 1] if z.shape[1] == 2 else moved], 1)
                z.view(len(b), -1, *z.shape[1:])[:, :, 1] += move[1][:, None, None]
            z.view(len(b), -1, *z.shape[1:])[:, :, 0] += b[:, None, None]
            h = layer.output(z)
            opened = h[:, :1] > 0 if rectified else None
            if rectified:
                h = h * opened
            kept.append((columns, opened))
        return h, kept

    def _back(self, index, g, opened):
        """A layer's gradient (O, d, ...) on its output -> on its matrix times its columns (rows, d, n)."""
        layer, rectified = self.layers[index]
        if rectified:
            g = g * opened
        return layer.before(g) if isinstance(layer, Convolution) else g

    def _by_weights(self, index, matrix, by_bias):
        layer = self.layers[index][0]
        bias = by_bias.reshape(self.shapes[2 * index + 1].numel(), -1).sum(1)
        return [layer.unmatrix(matrix).flatten(), bias]

    def gradient(self, theta, x, y):
        """By the weights theta (P,) -> (P,), and the logits (B, C)."""
        pairs = self._pairs(theta)
        logits, kept = self._forward(pairs, x, [None] * len(pairs))
        y = y.T
        g, found = (y.sum(0) * logits[:, 0].softmax(0) - y).div_(y.shape[1])[:, None], []
        for index in reversed(range(len(pairs))):
            columns, opened = kept[index]
            g = self._back(index, g, opened)
            found = self._by_weights(index, g[:, 0] @ columns[:, 0].T, g) + found
            if index:
                g = self.layers[index][0].lower((pairs[index][0].T @ g[:, 0])[:, None])
        return torch.cat(found), logits[:, 0].T

    def along(self, theta, direction, x, y):
        """The gradient's derivative along `direction` (P,): (the loss's own slope (), by the weights (P,), by the images, by the labels)."""
        pairs, moves = self._pairs(theta), self._pairs(direction)
        logits, kept = self._forward(pairs, x, moves)
        y, p = y.T, logits[:, 0].softmax(0)
        slopes = logits[:, 1] - (p * logits[:, 1]).sum(0)  # of the log-probabilities
        weight, n = y.sum(0), y.shape[1]
        g, found = torch.stack([weight * p - y, weight * p * slopes], 1).div_(n), []
        slope = (g[:, 0] * logits[:, 1]).sum()
        for index in reversed(range(len(pairs))):
            columns, opened = kept[index]
            g = self._back(index, g, opened)
            by_matrix = g[:, 1] @ columns[:, 0].T
            if columns.shape[1] == 2:
                by_matrix.addmm_(g[:, 0], columns[:, 1].T)
            found = self._by_weights(index, by_matrix, g[:, 1]) + found
            layer, matrix, move = self.layers[index][0], pairs[index][0], moves[index][0]
            moved = move.T @ g[:, 0]
            if index:
                back = matrix.T @ g.flatten(1)
                g = layer.lower(torch.stack([back[:, : moved.shape[1]], moved.add_(back[:, moved.shape[1] :])], 1))
        by_image = layer.lower((moved.addmm_(matrix.T, g[:, 1]))[:, None])[:, 0].movedim(-1, 0)
        return slope, torch.cat(found), by_image, -slopes.T / n


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
        return (torch.sub(state[0], self.tape.gradient(state[0][0], self.own(t, x), self.own(t, y))[0] * rates[t]),)

    def pullback(self, t, state, inputs, adjoint, totals):
        rates, x, y = inputs
        slope, by_weight, by_image, by_label = self.tape.along(state[0][0], adjoint[0][0], self.own(t, x), self.own(t, y))
        for total, part in zip(totals, (slope, by_image * rates[t], by_label * rates[t])):
            if total is not None:
                (total[t] if part is slope else self.own(t, total)).sub_(part)
        return (adjoint[0] - by_weight * rates[t],)
