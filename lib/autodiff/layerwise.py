"""First and second derivatives of a network's loss by hand, layer by layer, without a graph of a graph.

The adjoint of a step of gradient descent needs the derivative of the loss's gradient along a direction of the weights
(Pearlmutter's R-operator; forward over reverse: reference sheet of dataset distillation, section 2.2, variant E). Most
layers are linear in their input, or bilinear in input and weights: tangents go through the same products as values. The
result is exact, unless SmoothedReLUs are asked for. A gradient leaves a record of its values; its directional
derivative reuses them and adds the tangents.

A layer has four methods, called in this order: forward(h), backward(g), forward_tangent(h), backward_tangent(g). h is
the layer's input or its tangent, which is None for the images. g is the loss's gradient by the layer's output or its
tangent. The two backward methods leave the gradients of the parameters, or their tangents, in `grads`.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ..networks.layers import AveragePool, PooledConv, average_pool_adjoint
from ..tensors import memory_of
from .captured import Captured

RECORD_BYTES = 2**28  # of a CPU's memory, for the records of an unroll's steps; of a GPU's a quarter
LARGE_RECORD = 2**27  # bytes; to move it and what it is made of takes a GPU as long as some 400 launches
FEW_CHANNELS = 8  # below it a matrix product is quicker than the library's transposed convolution


class Bilinear:
    """A layer of weights and a bias: pool(product(weight_matrix(w), unfold(h), b)).

    A subclass has product and its adjoints input_grad, weight_grad and bias_grad; the other maps are the identity here.
    """

    num_params = 2

    def forward(self, h):
        self.matrix = self.weight_matrix(self.params[0])
        self.input = self.unfold(h)
        return self.pool(self.product(self.matrix, self.input, self.params[1]))

    def backward(self, g, need_input, need_weights):
        self.g = g = self.pool_adjoint(g)
        if need_weights:
            self.grads = self.weight_matrix_adjoint(self.weight_grad(g, self.input)), self.bias_grad(g)
        return self.fold(self.input_grad(self.matrix, g)) if need_input else None

    def forward_tangent(self, h):
        self.matrix_tangent = self.weight_matrix(self.param_tangents[0])
        self.input_tangent = None if h is None else self.unfold(h)
        z = self.product(self.matrix_tangent, self.input, self.param_tangents[1])
        if h is not None:
            z += self.product(self.matrix, self.input_tangent, None)
        return self.pool_tangent(z)

    def backward_tangent(self, g, need_weights):
        g = self.pool_adjoint(g)
        if need_weights:
            weight_grad = self.weight_grad(g, self.input)
            if self.input_tangent is not None:
                weight_grad += self.weight_grad(self.g, self.input_tangent)
            self.grads = self.weight_matrix_adjoint(weight_grad), self.bias_grad(g)
        return self.fold(self.input_grad(self.matrix, g).add_(self.input_grad(self.matrix_tangent, self.g)))

    def _identity(self, tensor):
        return tensor

    weight_matrix = weight_matrix_adjoint = unfold = fold = pool = pool_tangent = pool_adjoint = _identity


class Conv(Bilinear):
    """A convolution of stride 1, batch first (B, K, H, W)."""

    def __init__(self, module):
        self.padding = list(module.padding)

    def product(self, w, x, b):
        return F.conv2d(x, w, b, padding=self.padding)

    def _backward(self, g, x, w, mask):
        return torch.ops.aten.convolution_backward(g, x, w, None, [1, 1], self.padding, [1, 1], False, [0, 0], 1, mask)

    def input_grad(self, w, g):
        if self.input.shape[1] < FEW_CHANNELS:
            return F.fold(w.flatten(1).T @ g.flatten(2), self.input.shape[2:], w.shape[2:], padding=self.padding)
        return self._backward(g, self.input, w, [True, False, False])[0]

    def weight_grad(self, g, x):
        return self._backward(g, x, self.matrix, [False, True, False])[1]

    def bias_grad(self, g):
        return g.sum((0, 2, 3))


class Dense(Bilinear):
    """A matrix times the input, batch last (F, B)."""

    def __init__(self, module):
        pass

    def product(self, w, x, b):
        return w @ x if b is None else torch.addmm(b[:, None], w, x)

    def input_grad(self, w, g):
        return w.T @ g

    def weight_grad(self, g, x):
        return g @ x.T

    def bias_grad(self, g):
        return g.sum(1)


class Im2colPooledConv(Dense):
    """A PooledConv, its maximum included, batch last (K, H, W, B): a matrix times the input's patches (im2col)."""

    def __init__(self, module):
        self.padding, self.kernel, self.places = module.padding[0], module.kernel_size[0] + 1, module.places

    def weight_matrix(self, w):
        self.filters = w.shape
        return (w.flatten(2) @ self.places).unflatten(2, (4, -1)).transpose(1, 2).reshape(4 * len(w), -1)

    def weight_matrix_adjoint(self, matrix):
        out, channels = self.filters[:2]
        return matrix.view(out, 4, channels, -1).transpose(1, 2).reshape(out, channels, -1) @ self.places.T

    def product(self, w, x, b):
        return super().product(w, x, None if b is None else b.repeat_interleave(4))

    def bias_grad(self, g):
        return g.view(len(g) // 4, -1).sum(1)

    def unfold(self, h):
        h = F.pad(h, (0, 0, *[self.padding] * 4)).contiguous()
        self.padded, k = h.shape, self.kernel
        channels, height, width, batch = h.shape
        self.size = (channels, k, k, (height - k) // 2 + 1, (width - k) // 2 + 1, batch)
        c, i, j, b = h.stride()
        return h.as_strided(self.size, (c, i, j, 2 * i, 2 * j, b)).reshape(channels * k * k, -1)

    def fold(self, columns):
        """The adjoint of unfold (col2im): along the width, then along the height."""
        patches, (height, width, batch) = columns.view(self.size), self.size[3:]
        rows = patches.new_zeros(*self.size[:2], height, self.padded[2], batch)
        for j in range(self.kernel):
            rows[..., j : j + 2 * width : 2, :] += patches[:, :, j]
        h = patches.new_zeros(self.padded)
        for i in range(self.kernel):
            h[:, i : i + 2 * height : 2] += rows[:, i]
        inside = slice(self.padding, -self.padding or None)
        return h[:, inside, inside]

    def pool(self, z):  # (4 O, n) -> (O, h, w, B)
        z = z.view(-1, 2, 2, *self.size[3:])  # two rows of two places
        self.right = z[:, :, 1] > z[:, :, 0]
        rows = torch.maximum(z[:, :, 0], z[:, :, 1])
        self.below = rows[:, 1] > rows[:, 0]
        return torch.maximum(rows[:, 0], rows[:, 1])

    def pool_tangent(self, z):
        z = z.view(-1, 2, 2, *self.size[3:])
        rows = torch.where(self.right, z[:, :, 1], z[:, :, 0])
        return torch.where(self.below, rows[:, 1], rows[:, 0])

    def pool_adjoint(self, g):
        """The gradient goes to the place of the maximum, to the first one if several are equal."""
        rows = torch.stack((g * ~self.below, g * self.below), 1)
        right = rows * self.right
        return torch.stack((rows - right, right), 2).view(4 * len(g), -1)


class GroupNorm:
    """A group norm, batch first: z = w n + b, where n = r (h - mean h) and r is 1 over the standard deviation.

    Means are over a group's numbers; ' marks a tangent.
    forward_tangent: n' = r (h' - mean h' - n mean(n h')), r' = -r r mean(n h'), z' = w n' + w' n + b'.
    backward: out = r (a - mean a - n mean(n a)) with a = w g. backward_tangent: with a' = w g' + w' g,
    out' = r (a' - mean a' - n' mean(n a) - n (mean(n' a) + mean(n a'))) + r' / r out.
    weight_grads and bias_grads (B, C) are the sums of g n and of g over a channel's positions; mean_na is mean(n a).
    """

    num_params = 2

    def __init__(self, module):
        self.groups, self.eps = module.num_groups, module.eps

    def group_mean(self, sums):
        """Sums (B, C) over a channel's positions -> means over its group's numbers (B, C, 1, 1)."""
        b, channels = sums.shape
        mean = sums.view(b, self.groups, -1).mean(2, keepdim=True) / self.area
        return mean.expand(-1, -1, channels // self.groups).reshape(b, channels, 1, 1)

    @staticmethod
    def dot(a, b):
        return torch.linalg.vecdot(a.flatten(2), b.flatten(2))

    def forward(self, h):
        b, channels, height, width = h.shape
        self.area = height * width
        sizes = (b, channels, self.area, self.groups)
        self.n, _, r = torch.native_group_norm(h.contiguous(), None, None, *sizes, self.eps)
        self.r = r.repeat_interleave(channels // self.groups, 1)[:, :, None, None]
        self.w = self.params[0][:, None, None]
        return torch.addcmul(self.params[1][:, None, None], self.n, self.w)

    def backward(self, g, need_input, need_weights):
        self.g, self.weight_grads, self.bias_grads = g, self.dot(g, self.n), g.sum((2, 3))
        if need_weights:
            self.grads = self.weight_grads.sum(0), self.bias_grads.sum(0)
        self.mean_na = self.group_mean(self.weight_grads * self.params[0])
        out = g * (self.r * self.w)
        out.addcmul_(self.n, -self.r * self.mean_na)
        self.out = out.sub_(self.r * self.group_mean(self.bias_grads * self.params[0]))
        return out

    def forward_tangent(self, h):
        self.neg_dlog_r = self.r * self.group_mean(self.dot(self.n, h))  # -r' / r
        n = h * self.r
        n.addcmul_(self.n, -self.neg_dlog_r)
        self.n_tangent = n.sub_(self.r * self.group_mean(h.sum((2, 3))))
        w, b = (tangent[:, None, None] for tangent in self.param_tangents)
        return torch.addcmul(b, n, self.w).addcmul_(self.n, w)

    def backward_tangent(self, g, need_weights):
        w, w_tangent = self.params[0], self.param_tangents[0]
        weight_grads, bias_grads, turned = self.dot(g, self.n), g.sum((2, 3)), self.dot(self.g, self.n_tangent)
        if need_weights:
            self.grads = (weight_grads + turned).sum(0), bias_grads.sum(0)
        mean_na = self.group_mean(weight_grads * w + self.weight_grads * w_tangent + turned * w)
        out = g * (self.r * self.w)
        out.addcmul_(self.g, self.r * w_tangent[:, None, None])
        out.addcmul_(self.n_tangent, -self.r * self.mean_na).addcmul_(self.n, -self.r * mean_na)
        bias_term = self.r * self.group_mean(bias_grads * w + self.bias_grads * w_tangent)
        return out.addcmul_(self.out, -self.neg_dlog_r).sub_(bias_term)


class PiecewiseLinear:
    """A layer without parameters, linear between kinks: jvp maps values and tangents, its adjoint vjp gradients."""

    num_params = 0

    def __init__(self, module):
        self.module = module

    def forward(self, h):
        self.shape = h.shape
        return self.jvp(h)

    def forward_tangent(self, h):
        return h if h is None else self.jvp(h)

    def backward(self, g, *needs):
        return self.vjp(g)

    backward_tangent = backward


class ReLU(PiecewiseLinear):
    def forward(self, h):
        self.h = h.clamp_min_(0)
        return self.h

    def jvp(self, h):
        return torch.ops.aten.threshold_backward(h, self.h, 0)

    vjp = jvp


class SmoothedReLU(ReLU):
    """A ReLU whose slope, which jumps at 0, has a derivative: a bump of `width` standard deviations of the input.

    The plain ReLU's is a spike at 0, which no derivative at a point sees, though a small move of the images takes units
    over it. Values and gradients are the ReLU's; the bump is the derivative of sigmoid(h / (width * deviation)).
    """

    def __init__(self, module, width):
        super().__init__(module)
        self.width = width

    def forward(self, h):
        scale = self.width * h.std()
        share = torch.sigmoid(h / scale)
        self.bump = torch.where(scale > 0, share * (1 - share) / scale, 0)  # none where all inputs are equal
        return super().forward(h)

    def forward_tangent(self, h):
        self.tangent = h
        return super().forward_tangent(h)

    def backward(self, g, *needs):
        self.g = g
        return super().backward(g, *needs)

    def backward_tangent(self, g, *needs):
        return self.vjp(g) + self.g * self.bump * self.tangent


class Pool(PiecewiseLinear):
    def jvp(self, h):
        return self.module(h)

    def vjp(self, g):
        return average_pool_adjoint(g, self.shape)


class BatchLast(PiecewiseLinear):
    def jvp(self, h):
        return h.movedim(0, -1)

    def vjp(self, g):
        return g.movedim(-1, 0)


class Flatten(PiecewiseLinear):
    """(K, H, W, B) -> (F, B)."""

    def jvp(self, h):
        return h.flatten(0, -2)

    def vjp(self, g):
        return g.view(self.shape)


class FlattenBatchLast(PiecewiseLinear):
    """(B, K, H, W) -> (F, B)."""

    def jvp(self, h):
        return h.flatten(1).T.contiguous()

    def vjp(self, g):
        return g.T.reshape(self.shape)


LAYERS = {nn.Linear: Dense, PooledConv: Im2colPooledConv, nn.Conv2d: Conv, nn.GroupNorm: GroupNorm}
LAYERS |= {nn.ReLU: ReLU, AveragePool: Pool}


def layerwise_derivatives(flat, relu_width=None):
    """The LayerwiseDerivatives of an unroll.Flat network, or None if it has a layer of another kind.

    relu_width: of its SmoothedReLUs, in place of ReLUs.
    """
    kinds = LAYERS | ({nn.ReLU: partial(SmoothedReLU, width=relu_width)} if relu_width else {})
    if not isinstance(flat.net.body, nn.Sequential):
        return None
    modules = [module for module in (*flat.net.body, flat.net.head) if type(module) not in (nn.Flatten, nn.Identity)]
    plain = all(type(m) is not nn.Conv2d or m.stride == m.dilation == (1, 1) and m.groups == 1 for m in modules)
    if not plain or any(type(m) not in kinds for m in modules):
        return None
    plan = [(kinds[type(module)], module) for module in modules]
    dense = next(i for i, (kind, _) in enumerate(plan) if kind is Dense)
    if any(kind is Conv for kind, _ in plan):
        plan.insert(dense, (FlattenBatchLast, None))
    else:
        plan = [(BatchLast, None), *plan[:dense], (Flatten, None), *plan[dense:]]
    return LayerwiseDerivatives(plan, list(flat.shapes.values()))


class Record:
    """What a gradient leaves: the layers with their values, the probabilities p (C, B) and the labels y (C, B)."""

    def __init__(self, layers, p, y):
        self.layers, self.p, self.y = layers, p, y

    def nbytes(self):
        """Bytes of its tensors, each storage once."""
        tensors = [t for layer in self.layers for t in vars(layer).values() if isinstance(t, torch.Tensor)]
        return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


class LayerwiseDerivatives:
    """Derivatives of a network's mean cross-entropy on images x (B, K, H, W) with labels y (B, C), C > 1, of any sum.

    plan: pairs of a layer's kind and its module; shapes: of the parameters, in their order. A GPU replays
    `gradient_only` and `directional_derivative_at` as CUDA graphs.
    """

    def __init__(self, plan, shapes):
        self.plan, self.shapes = plan, shapes
        self.sizes = [shape.numel() for shape in shapes]
        self.large = {}  # whether a record is large, by the images' shape
        self.gradient_only = Captured(self.gradient_only)
        self.directional_derivative_at = Captured(self.directional_derivative_at)

    def keeps_records(self, x):
        """Whether a gradient's values are kept for its derivatives on images x: a graph's next replay changes them.

        A GPU keeps those of large minibatches, which are bound by memory: to compute them again takes it longer than
        the launches that a graph saves. What is large the first record shows (`large`).
        """
        return not self.gradient_only.on_device(x.device) or self.large.get(x.shape, True)

    def _views(self, theta, layers):
        """Each layer's tensors of a flat vector (P,)."""
        views = iter([piece.view(shape) for piece, shape in zip(theta.split(self.sizes), self.shapes)])
        return [[next(views) for _ in range(layer.num_params)] for layer in layers]

    @staticmethod
    def _flat_grads(layers):
        return torch.cat([grad.reshape(-1) for layer in layers if layer.num_params for grad in layer.grads])

    def gradient(self, theta, x, y, need_weights=True):
        """The gradient (P,) by the weights theta (P,), or None without need_weights; the logits (B, C); the Record."""
        layers, h = [kind(module) for kind, module in self.plan], x
        for layer, params in zip(layers, self._views(theta, layers)):
            layer.params = params
            h = layer.forward(h)
        logits, y = h, y.T
        p = logits.softmax(0)
        g = (y.sum(0) * p - y).div_(y.shape[1])
        first = next(i for i, layer in enumerate(layers) if layer.num_params)
        for index in reversed(range(first, len(layers))):
            g = layers[index].backward(g, index > first, need_weights)
        return self._flat_grads(layers) if need_weights else None, logits.T, Record(layers, p, y)

    def directional_derivative(self, record, direction, need_weights=True):
        """Derivatives along `direction` (P,) of the weights, at a record's values: of the loss, and of its gradients.

        Returns the loss's slope (), the Hessian-vector product (P,), None without need_weights, and the derivatives of
        the gradients by the images (B, K, H, W) and by the labels (B, C).
        """
        layers, p, y, h = record.layers, record.p, record.y, None
        for layer, tangents in zip(layers, self._views(direction, layers)):
            layer.param_tangents = tangents
            h = layer.forward_tangent(h)
        log_p_tangent = h - (p * h).sum(0)
        total, n = y.sum(0), y.shape[1]
        slope = ((total * p - y) * h).sum() / n
        g = (total * p * log_p_tangent).div_(n)
        for layer in reversed(layers):
            g = layer.backward_tangent(g, need_weights)
        return slope, self._flat_grads(layers) if need_weights else None, g, -log_p_tangent.T / n

    def gradient_only(self, theta, x, y):
        """The gradient (P,), without a record."""
        return self.gradient(theta, x, y)[0]

    def directional_derivative_at(self, theta, x, y, direction, need_weights=True):
        """`directional_derivative` without a record: the values are computed again."""
        return self.directional_derivative(self.gradient(theta, x, y, need_weights=False)[2], direction, need_weights)


class GradientDescent:
    """A step for `unroll`: one network's weights (1, P) descend at the rates (T,) on the set's `minibatch(t, x, y)`.

    frozen: as if each step's weights were constants (TESLA's approximation: no Hessian-vector products).
    """

    def __init__(self, derivatives, minibatch, frozen=False):
        self.derivatives, self.minibatch, self.frozen = derivatives, minibatch, frozen
        self.records, self.bytes_left = {}, None

    def __call__(self, t, state, rates, x, y):
        device = state[0].device
        if self.bytes_left is None:
            self.bytes_left = RECORD_BYTES if device.type == "cpu" else memory_of(device) // 4
        x, y = self.minibatch(t, x, y)
        if self.derivatives.keeps_records(x):
            grad, _, record = self.derivatives.gradient(state[0][0], x, y)
            size = record.nbytes()
            self.derivatives.large[x.shape] = size > LARGE_RECORD
            if size <= self.bytes_left:
                self.records[t], self.bytes_left = record, self.bytes_left - size
        else:
            grad = self.derivatives.gradient_only(state[0][0], x, y)
        return (torch.sub(state[0], grad * rates[t]),)

    def pullback(self, t, state, inputs, adjoint, totals):
        """The adjoint before step t; adds the step's gradients by its inputs to `totals`, None where none is needed."""
        rates, *leaves = (tensor.detach() for tensor in inputs)
        with torch.enable_grad():
            leaves = [leaf.requires_grad_(total is not None) for leaf, total in zip(leaves, totals[1:])]
            minibatch = self.minibatch(t, *leaves)
        request = adjoint[0][0], not self.frozen
        if record := self.records.pop(t, None):
            slope, hvp, *mixed = self.derivatives.directional_derivative(record, *request)
        else:
            values = state[0][0], *(tensor.detach() for tensor in minibatch)
            slope, hvp, *mixed = self.derivatives.directional_derivative_at(*values, *request)
        if totals[0] is not None:
            totals[0][t] -= slope
        outputs = [tensor for tensor in minibatch if tensor.requires_grad]
        output_grads = [grad * -rates[t] for grad, tensor in zip(mixed, minibatch) if tensor.requires_grad]
        grads = torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf.requires_grad], output_grads)
        for total, grad in zip((total for total in totals[1:] if total is not None), grads):
            total += grad
        return adjoint if self.frozen else (adjoint[0] - hvp * rates[t],)
