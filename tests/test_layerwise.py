"""Derivatives of networks' losses by hand, against autograd through the network's own modules, in float64."""

import pytest
import torch

from lib.autodiff import layerwise
from lib.autodiff.layerwise import GradientDescent, layerwise_derivatives
from lib.autodiff.unroll import Flat, gradient, unroll
from lib.networks import build
from lib.rng import generator
from lib.training.losses import cross_entropy

NETS = [("lenet_dd", (1, 28, 28)), ("lenet_dd", (3, 32, 32)), ("dense2-w8", (1, 6, 6)), ("dense1-w4", (3, 4, 4))]
NETS += [
    ("convnet2-w8-instance", (1, 8, 8)),
    ("convnet1-w8", (3, 9, 9)),
    ("convnet3-w8-group", (1, 28, 28)),
    ("convnet2-w6-group1", (3, 8, 8)),
]


def problem(name, shape):
    gen = generator(0, name)
    flat = Flat(build(name, shape, 4).double())
    theta = flat.weights(gen) + 0.1 * torch.randn(len(flat), generator=gen, dtype=torch.float64)  # biases too
    x, y = (
        torch.randn(6, *shape, generator=gen, dtype=torch.float64),
        torch.randn(6, 4, generator=gen, dtype=torch.float64),
    )
    return flat, theta, x, y, torch.randn(len(flat), generator=gen, dtype=torch.float64)


@pytest.mark.parametrize("name, shape", NETS)
def test_gradient_and_its_derivative_equal_autograd(name, shape):
    flat, theta, x, y, direction = problem(name, shape)
    leaves = [t.clone().requires_grad_() for t in (theta, x, y)]
    loss = cross_entropy(flat.one(leaves[0], leaves[1]), leaves[2])
    (expected,) = torch.autograd.grad(loss, leaves[0], create_graph=True)
    derivatives = layerwise_derivatives(flat)
    grad, logits, record = derivatives.gradient(theta, x, y)
    assert torch.allclose(grad, expected, rtol=1e-10, atol=1e-13)
    assert torch.allclose(logits, flat.one(theta, x), rtol=1e-12)
    slope, *second = derivatives.directional_derivative(record, direction)
    assert slope.item() == pytest.approx((expected * direction).sum().item(), rel=1e-10)
    for ours, exact in zip(second, torch.autograd.grad(expected, leaves, direction)):
        assert ours.shape == exact.shape and (ours - exact).norm() <= 1e-10 * exact.norm()


class Smoothed(torch.autograd.Function):
    """A ReLU for autograd: the derivative of its slope is that of sigmoid(h / (width * deviation of h))."""

    @staticmethod
    def forward(ctx, h, width):
        ctx.save_for_backward(h)
        ctx.width = width
        return h.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        (h,) = ctx.saved_tensors
        bump = torch.sigmoid(h / (ctx.width * h.std().detach()))
        return g * ((h > 0) + bump - bump.detach()), None


class SmoothedModule(torch.nn.Module):
    def forward(self, h):
        return Smoothed.apply(h, 0.3)


@pytest.mark.parametrize("name, shape", NETS)
def test_smoothed_relus_have_a_second_derivative_and_the_same_first(name, shape):
    flat, theta, x, y, direction = problem(name, shape)
    derivatives, exact = layerwise_derivatives(flat, relu_width=0.3), layerwise_derivatives(flat)
    for index, module in enumerate(flat.net.body):
        if type(module) is torch.nn.ReLU:
            flat.net.body[index] = SmoothedModule()
    leaves = [t.clone().requires_grad_() for t in (theta, x, y)]
    (expected,) = torch.autograd.grad(
        cross_entropy(flat.one(leaves[0], leaves[1]), leaves[2]), leaves[0], create_graph=True
    )
    grad, logits, record = derivatives.gradient(theta, x, y)
    plain, plain_logits, plain_record = exact.gradient(theta, x, y)
    assert torch.equal(grad, plain) and torch.equal(logits, plain_logits)
    slope, *second = derivatives.directional_derivative(record, direction)
    assert slope.item() == pytest.approx((plain * direction).sum().item(), rel=1e-10)
    plain_second = exact.directional_derivative(plain_record, direction)[1:]
    for ours, smooth in zip(second, torch.autograd.grad(expected, leaves, direction)):
        assert (ours - smooth).norm() <= 1e-10 * smooth.norm()
    assert (second[0] - plain_second[0]).norm() > 1e-2 * plain_second[0].norm()


def test_smoothed_relus_are_plain_ones_where_all_inputs_are_equal():
    flat, theta, x, y, direction = problem("lenet_dd", (1, 28, 28))
    smooth, plain = (
        derivatives.directional_derivative(derivatives.gradient(0 * theta, x, y)[2], direction)
        for derivatives in (layerwise_derivatives(flat, relu_width=0.3), layerwise_derivatives(flat))
    )
    assert all(torch.equal(ours, exact) for ours, exact in zip(smooth, plain))


def halves(t, x, y):
    half = slice(t % 2 * 3, t % 2 * 3 + 3)
    return x[half].tanh(), y[half]


def unrolled(step, theta, rates, x, y, direction):
    """Four steps -> the weights, and the gradients of a linear function of them by all that they come from."""
    leaves = [t.clone().requires_grad_() for t in (theta[None], rates, x, y)]
    (trained,) = unroll(step, 4, (leaves[0],), *leaves[1:])
    return trained.detach(), *torch.autograd.grad((trained * direction).sum(), leaves)


RATES = torch.tensor([0.1, 0.02, 0.05, 0.03], dtype=torch.float64)


@pytest.mark.parametrize("name, shape", [NETS[1], NETS[2], NETS[4]])
@pytest.mark.parametrize("records", [0, 40000, layerwise.RECORD_BYTES])
def test_descent_is_the_general_unroll(name, shape, records, monkeypatch):
    """With no step's record kept, with some, with all."""
    monkeypatch.setattr(layerwise, "RECORD_BYTES", records)
    flat, theta, x, y, direction = problem(name, shape)
    y = y.softmax(1)

    def step(t, state, rates, x, y):
        x, y = halves(t, x, y)
        return (state[0] - rates[t] * gradient(lambda w: cross_entropy(flat(w, x), y).sum(), state[0]),)

    problem_inputs = theta, RATES, x, y, direction
    descent = GradientDescent(layerwise_derivatives(flat), halves)
    whole, by_hand = unrolled(step, *problem_inputs), unrolled(descent, *problem_inputs)
    assert torch.allclose(whole[0], by_hand[0], rtol=1e-12)
    for exact, ours in zip(whole[1:], by_hand[1:]):
        assert (ours - exact).norm() <= 1e-9 * exact.norm()
    labels = y.clone()
    descent = GradientDescent(layerwise_derivatives(flat), halves)
    (trained,) = unroll(descent, 4, (theta[None],), RATES, x.requires_grad_(), labels)
    trained.sum().backward()
    assert x.grad.norm() > 0 and labels.grad is None


@pytest.mark.parametrize(
    "name", ["alexcifar", "conv2-w8-batch", "convnet2-w8-batch", "convnet2-w8-instance-swish", "conv2-w8"]
)
def test_networks_of_other_layers_go_the_general_way(name):
    assert layerwise_derivatives(Flat(build(name, (3, 32, 32), 4))) is None
