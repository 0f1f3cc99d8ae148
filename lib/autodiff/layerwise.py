"""First and second derivatives of a network's loss by hand, layer by layer, without a graph of a graph.

A step of gradient descent is differentiated along an adjoint: the derivative of the loss's gradient along a direction of the weights
(Pearlmutter's R-operator; forward over reverse: reference sheet of dataset distillation, section 2.2, variant E). Most layers are
linear in their input, or bilinear in input and weights, so that tangents go through the same products as values do. Exact. Each
gradient leaves a record of its values; the derivative along a direction needs them, and only its own tangents are computed then.

A layer has four methods, called in this order: value(h), back(g), tangent(h) and pull(g), which is the tangent of `back`; h and g are
its input and the loss's gradient by its output, the tangent of the images is None. `found` is then what its parameters get.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..networks.layers import AveragePool, PooledConv, spread

RECORDS = 2**28  # bytes of records that are kept from an unroll's steps for its way back
FEW = 8  # channels, below which a product of matrices is quicker than the library's transposed convolution


class Bilinear:
    """A layer of weights and a bias. Its kinds have lift, its adjoint lower, and product, by_input, by_weight and by_bias."""

    parameters = 2

    def value(self, h):
        self.matrix = self.form(self.own[0])
        self.c = self.lift(h)
        return self.output(self.product(self.matrix, self.c, self.own[1]))

    def back(self, g, inner, weights):
        self.g = g = self.before(g)
        if weights:
            self.found = self.unform(self.by_weight(g, self.c)), self.by_bias(g)
        return self.lower(self.by_input(self.matrix, g)) if inner else None

    def tangent(self, h):
        self.move, self.c1 = self.form(self.moves[0]), None if h is None else self.lift(h)
        z = self.product(self.move, self.c, self.moves[1])
        if h is not None:
            z += self.product(self.matrix, self.c1, None)
        return self.slope(z)

    def pull(self, g, weights):
        g = self.before(g)
        if weights:
            found = self.by_weight(g, self.c)
            if self.c1 is not None:
                found += self.by_weight(self.g, self.c1)
            self.found = self.unform(found), self.by_bias(g)
        return self.lower(self.by_input(self.matrix, g).add_(self.by_input(self.move, self.g)))

    def form(self, w):
        return w

    unform = lift = lower = output = slope = before = form


class Conv(Bilinear):
    """A convolution of stride 1, batch first (B, K, H, W)."""

    def __init__(self, module):
        self.padding = list(module.padding)

    def product(self, w, c, b):
        return F.conv2d(c, w, b, padding=self.padding)

    def _backward(self, g, c, w, mask):
        return torch.ops.aten.convolution_backward(g, c, w, None, [1, 1], self.padding, [1, 1], False, [0, 0], 1, mask)

    def by_input(self, w, g):
        if self.c.shape[1] < FEW:
            return F.fold(w.flatten(1).T @ g.flatten(2), self.c.shape[2:], w.shape[2:], padding=self.padding)
        return self._backward(g, self.c, w, [True, False, False])[0]

    def by_weight(self, g, c):
        return self._backward(g, c, self.matrix, [False, True, False])[1]

    def by_bias(self, g):
        return g.sum((0, 2, 3))


class Dense(Bilinear):
    """A matrix times the input, batch last (F, B)."""

    def __init__(self, module):
        pass

    def product(self, w, c, b):
        return w @ c if b is None else torch.addmm(b[:, None], w, c)

    def by_input(self, w, g):
        return w.T @ g

    def by_weight(self, g, c):
        return g @ c.T

    def by_bias(self, g):
        return g.sum(1)


class DensePatches(Dense):
    """A PooledConv, its maximum over the four places included, batch last (K, H, W, B): a matrix times the patches of the input."""

    def __init__(self, module):
        self.padding, self.kernel, self.places = module.padding[0], module.kernel_size[0] + 1, module.places

    def form(self, w):
        self.filters = w.shape
        return (w.flatten(2) @ self.places).unflatten(2, (4, -1)).transpose(1, 2).reshape(4 * len(w), -1)

    def product(self, w, c, b):
        return super().product(w, c, None if b is None else b.repeat_interleave(4))

    def unform(self, matrix):
        out, channels = self.filters[:2]
        return matrix.view(out, 4, channels, -1).transpose(1, 2).reshape(out, channels, -1) @ self.places.T

    def by_bias(self, g):
        return g.view(len(g) // 4, -1).sum(1)

    def lift(self, h):
        h = F.pad(h, (0, 0, *[self.padding] * 4)).contiguous()
        self.padded, k = h.shape, self.kernel
        channels, height, width, batch = h.shape
        self.size = (channels, k, k, (height - k) // 2 + 1, (width - k) // 2 + 1, batch)
        c, i, j, b = h.stride()
        return h.as_strided(self.size, (c, i, j, 2 * i, 2 * j, b)).reshape(channels * k * k, -1)

    def lower(self, columns):
        patches, (height, width, batch) = columns.view(self.size), self.size[3:]
        rows = patches.new_zeros(*self.size[:2], height, self.padded[2], batch)
        for j in range(self.kernel):
            rows[..., j : j + 2 * width : 2, :] += patches[:, :, j]
        h = patches.new_zeros(self.padded)
        for i in range(self.kernel):
            h[:, i : i + 2 * height : 2] += rows[:, i]
        inside = slice(self.padding, -self.padding or None)
        return h[:, inside, inside]

    def output(self, z):  # (4 O, n) -> (O, h, w, B)
        value = z.view(-1, 2, 2, *self.size[3:])  # two rows of two places
        self.right = value[:, :, 1] > value[:, :, 0]
        rows = torch.maximum(value[:, :, 0], value[:, :, 1])
        self.below = rows[:, 1] > rows[:, 0]
        return torch.maximum(rows[:, 0], rows[:, 1])

    def slope(self, z):
        z = z.view(-1, 2, 2, *self.size[3:])
        rows = torch.where(self.right, z[:, :, 1], z[:, :, 0])
        return torch.where(self.below, rows[:, 1], rows[:, 0])

    def before(self, g):
        """The adjoint of `output`: to the place that had the maximum, the first of equals."""
        rows = torch.stack((g * ~self.below, g * self.below), 1)
        right = rows * self.right
        return torch.stack((rows - right, right), 2).view(4 * len(g), -1)


class Norm:
    """A group norm, batch first: z = w n + b, where n = r (h - mean h) and r is one over the deviation; means are over a group's numbers.

    tangent: n' = r (h' - mean h' - n mean(n h')), r' = -r r mean(n h'), z' = w n' + w' n + b'.
    back: with a = w g, out = r (a - mean a - n mean(n a)); pull: its derivative, with a' = w g' + w' g,
    out' = r (a' - mean a' - n' mean(n a) - n (mean(n' a) + mean(n a'))) + r' / r out.
    In the code a 1 stands for the stroke; p and q are sums of g n and of g over a channel's positions, share is mean(n a), falling -r' / r.
    """

    parameters = 2

    def __init__(self, module):
        self.groups, self.eps = module.num_groups, module.eps

    def by_group(self, sums):
        """Sums (B, C) over a channel's positions -> their mean over its group's numbers (B, C, 1, 1)."""
        b, channels = sums.shape
        mean = sums.view(b, self.groups, -1).mean(2, keepdim=True) / self.area
        return mean.expand(-1, -1, channels // self.groups).reshape(b, channels, 1, 1)

    @staticmethod
    def dot(a, b):
        return torch.linalg.vecdot(a.flatten(2), b.flatten(2))

    def value(self, h):
        b, channels, height, width = h.shape
        self.area = height * width
        self.n, _, r = torch.native_group_norm(
            h.contiguous(), None, None, b, channels, self.area, self.groups, self.eps
        )
        self.r = r.repeat_interleave(channels // self.groups, 1)[:, :, None, None]
        self.scale = self.own[0][:, None, None]
        return torch.addcmul(self.own[1][:, None, None], self.n, self.scale)

    def back(self, g, inner, weights):
        self.g, self.p, self.q = g, self.dot(g, self.n), g.sum((2, 3))
        if weights:
            self.found = self.p.sum(0), self.q.sum(0)
        self.share = self.by_group(self.p * self.own[0])
        out = g * (self.r * self.scale)
        out.addcmul_(self.n, -self.r * self.share)
        self.out = out.sub_(self.r * self.by_group(self.q * self.own[0]))
        return out

    def tangent(self, h):
        self.falling = self.r * self.by_group(self.dot(self.n, h))  # of r, over r, with its sign turned
        n = h * self.r
        n.addcmul_(self.n, -self.falling)
        self.n1 = n.sub_(self.r * self.by_group(h.sum((2, 3))))
        return torch.addcmul(self.moves[1][:, None, None], n, self.scale).addcmul_(self.n, self.moves[0][:, None, None])

    def pull(self, g, weights):
        w, move = self.own[0], self.moves[0]
        p, q, turned = self.dot(g, self.n), g.sum((2, 3)), self.dot(self.g, self.n1)
        if weights:
            self.found = (p + turned).sum(0), q.sum(0)
        share = self.by_group(p * w + self.p * move + turned * w)
        out = g * (self.r * self.scale)
        out.addcmul_(self.g, self.r * move[:, None, None]).addcmul_(self.n1, -self.r * self.share).addcmul_(
            self.n, -self.r * share
        )
        return out.addcmul_(self.out, -self.falling).sub_(self.r * self.by_group(q * w + self.q * move))


class Fixed:
    """A layer without parameters that is linear between kinks: values and tangents go one way, gradients the other."""

    parameters = 0

    def __init__(self, module):
        self.module = module

    def value(self, h):
        self.shape = h.shape
        return self.forth(h)

    def tangent(self, h):
        return h if h is None else self.forth(h)

    def back(self, g, inner, weights):
        return self.fro(g)

    def pull(self, g, weights):
        return self.fro(g)


class Rectifier(Fixed):
    def value(self, h):
        self.h = h.clamp_min_(0)
        return self.h

    def forth(self, h):
        return torch.ops.aten.threshold_backward(h, self.h, 0)

    fro = forth


class Pool(Fixed):
    def forth(self, h):
        return self.module(h)

    def fro(self, g):
        return spread(g, self.shape)


class BatchLast(Fixed):
    def forth(self, h):
        return h.movedim(0, -1)

    def fro(self, g):
        return g.movedim(-1, 0)


class Flatten(Fixed):
    """(K, H, W, B) -> (F, B)."""

    def forth(self, h):
        return h.flatten(0, -2)

    def fro(self, g):
        return g.view(self.shape)


class Columns(Fixed):
    """(B, K, H, W) -> (F, B)."""

    def forth(self, h):
        return h.flatten(1).T.contiguous()

    def fro(self, g):
        return g.T.reshape(self.shape)


LAYERS = {
    nn.Linear: Dense,
    PooledConv: DensePatches,
    nn.Conv2d: Conv,
    nn.GroupNorm: Norm,
    nn.ReLU: Rectifier,
    AveragePool: Pool,
}


def tape_of(flat, compiled="none"):
    """The Tape of an unroll.Flat network; None where one of its layers is of another kind. compiled: a mode of torch.compile, or 'none'."""
    if not isinstance(flat.net.body, nn.Sequential):
        return None
    modules = [module for module in (*flat.net.body, flat.net.head) if type(module) not in (nn.Flatten, nn.Identity)]
    plain = all(type(m) is not nn.Conv2d or m.stride == m.dilation == (1, 1) and m.groups == 1 for m in modules)
    if not plain or any(type(m) not in LAYERS for m in modules):
        return None
    plan = [(LAYERS[type(module)], module) for module in modules]
    dense = next(i for i, (kind, _) in enumerate(plan) if kind is Dense)
    if any(kind is Conv for kind, _ in plan):
        plan.insert(dense, (Columns, None))
    else:
        plan = [(BatchLast, None), *plan[:dense], (Flatten, None), *plan[dense:]]
    return Tape(plan, list(flat.shapes.values()), compiled)


class Record:
    """What a gradient leaves: the layers with their values, the probabilities (C, B) and the labels."""

    def __init__(self, layers, p, y):
        self.layers, self.p, self.y = layers, p, y

    def nbytes(self):
        """Bytes of the tensors in it, each memory once."""
        tensors = [t for layer in self.layers for t in vars(layer).values() if isinstance(t, torch.Tensor)]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class Tape:
    """The derivatives of a network's mean cross-entropy on images x (B, K, H, W) with labels y (B, C), C above 1, as they are.

    plan: pairs of a layer's kind and its module; shapes: of the parameters, in their order; compiled: how `first` and `anew` run.
    """

    def __init__(self, plan, shapes, compiled="none"):
        self.plan, self.shapes = plan, shapes
        self.sizes = [shape.numel() for shape in shapes]
        self.keeps = compiled == "none"  # records: from compiled code they would be costlier than what they save
        if not self.keeps:
            self.first, self.anew = (
                torch.compile(run, mode=compiled, dynamic=False) for run in (self.first, self.anew)
            )

    def _views(self, theta, layers):
        """Each layer's part of a flat vector (P,)."""
        views = iter([piece.view(shape) for piece, shape in zip(theta.split(self.sizes), self.shapes)])
        return [[next(views) for _ in range(layer.parameters)] for layer in layers]

    @staticmethod
    def _found(layers):
        return torch.cat([part.reshape(-1) for layer in layers if layer.parameters for part in layer.found])

    def gradient(self, theta, x, y, weights=True):
        """By the weights theta (P,) -> (P,), the logits (B, C) and the Record. weights False: the record alone is wanted, no gradient."""
        layers, h = [kind(module) for kind, module in self.plan], x
        for layer, own in zip(layers, self._views(theta, layers)):
            layer.own = own
            h = layer.value(h)
        logits, y = h, y.T
        p = logits.softmax(0)
        g = (y.sum(0) * p - y).div_(y.shape[1])
        first = next(i for i, layer in enumerate(layers) if layer.parameters)
        for index in reversed(range(first, len(layers))):
            g = layers[index].back(g, index > first, weights)
        return self._found(layers) if weights else None, logits.T, Record(layers, p, y)

    def along(self, record, direction, weights=True):
        """The gradient's derivative along `direction` (P,): (the loss's own slope (), by the weights (P,) or None, by the images, by the labels)."""
        layers, p, y, h = record.layers, record.p, record.y, None
        for layer, moves in zip(layers, self._views(direction, layers)):
            layer.moves = moves
            h = layer.tangent(h)
        slopes = h - (p * h).sum(0)  # of the log-probabilities
        total, n = y.sum(0), y.shape[1]
        slope = ((total * p - y) * h).sum() / n
        g = (total * p * slopes).div_(n)
        for layer in reversed(layers):
            g = layer.pull(g, weights)
        return slope, self._found(layers) if weights else None, g, -slopes.T / n

    def first(self, theta, x, y):
        """The gradient alone."""
        return self.gradient(theta, x, y)[0]

    def anew(self, theta, x, y, direction, weights=True):
        """`along` without a record."""
        return self.along(self.gradient(theta, x, y, weights=False)[2], direction, weights)


class Descent:
    """Gradient descent of one network's weights (1, P) at the rates (T,), on what `batch(t, x, y)` makes of the set: a step for `unroll`.

    frozen: as if each step's weights were constants (TESLA's approximation: no Hessian products).
    """

    def __init__(self, tape, batch, frozen=False):
        self.tape, self.batch, self.frozen, self.kept, self.left = tape, batch, frozen, {}, RECORDS

    def __call__(self, t, state, rates, x, y):
        if self.tape.keeps:
            found, _, record = self.tape.gradient(state[0][0], *self.batch(t, x, y))
            if (size := record.nbytes()) <= self.left:
                self.kept[t], self.left = record, self.left - size
        else:
            found = self.tape.first(state[0][0], *self.batch(t, x, y))
        return (torch.sub(state[0], found * rates[t]),)

    def pullback(self, t, state, inputs, adjoint, totals):
        rates, *own = (tensor.detach() for tensor in inputs)
        with torch.enable_grad():
            leaves = [tensor.requires_grad_(total is not None) for tensor, total in zip(own, totals[1:])]
            images, labels = self.batch(t, *leaves)
        if record := self.kept.pop(t, None):
            parts = self.tape.along(record, adjoint[0][0], not self.frozen)
        else:
            parts = self.tape.anew(state[0][0], images.detach(), labels.detach(), adjoint[0][0], not self.frozen)
        slope, by_weight, by_image, by_label = parts
        if totals[0] is not None:
            totals[0][t] -= slope
        learned = [(leaf, total) for leaf, total in zip(leaves, totals[1:]) if total is not None]
        results = [
            (made, by * -rates[t]) for made, by in ((images, by_image), (labels, by_label)) if made.requires_grad
        ]
        found = torch.autograd.grad(
            [made for made, _ in results], [leaf for leaf, _ in learned], [by for _, by in results]
        )
        for (_, total), part in zip(learned, found):
            total += part
        return adjoint if self.frozen else (adjoint[0] - by_weight * rates[t],)
