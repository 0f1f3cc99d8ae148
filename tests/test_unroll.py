"""The exact adjoint of training, against full autograd, differences and closed forms: sheets of DD (14) and MTT (6)."""

import pytest
import torch
import torch.nn.functional as F

from lib.autodiff.unroll import Flat, gradient, unroll
from lib.networks import build
from lib.rng import generator
from lib.training.losses import cross_entropy


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def plainly(step, steps, state, *inputs):
    """The whole graph at once."""
    for t in range(steps):
        state = step(t, state, *inputs)
    return state


def descent(loss, frozen=False):
    """A step of gradient descent on loss(t, theta, x, y) at the rates eta."""

    def step(t, state, eta, x, y):
        return (state[0] - eta[t] * gradient(lambda theta: loss(t, theta, x, y), state[0], frozen),)

    return step


def momentum(loss, decay=0.9):
    """A step whose state is the weights and their velocity."""

    def step(t, state, eta, x, y):
        theta, velocity = state
        velocity = decay * velocity + gradient(lambda theta: loss(t, theta, x, y), theta)
        return theta - eta[t] * velocity, velocity

    return step


def problem(steps, net="dense2-w8", minibatches=2, seed=0):
    """A network, its loss on the minibatches in turn, start and inputs (eta, x, y), all leaves, a real batch's loss."""
    gen = generator(seed, "unroll")
    flat = Flat(build(net, (1, 4, 4), 3))
    theta = flat.weights(gen)[None].requires_grad_()
    x, y = (
        torch.randn(4 * minibatches, 1, 4, 4, generator=gen),
        torch.randn(4 * minibatches, 3, generator=gen).softmax(1),
    )
    real_x, real_y = torch.randn(16, 1, 4, 4, generator=gen), F.one_hot(torch.arange(16) % 3, 3).double()

    def loss(t, theta, x, y):
        own = slice(4 * (t % minibatches), 4 * (t % minibatches) + 4)
        return cross_entropy(flat(theta, x[own]), y[own]).sum()

    inputs = [t.requires_grad_() for t in (0.05 + 0.1 * torch.rand(max(steps, 1), generator=gen), x, y)]
    return loss, theta, inputs, lambda theta: cross_entropy(flat(theta, real_x), real_y).mean()


def gradients(run, step, steps, theta, inputs, outer, velocity=()):
    final = run(step, steps, (theta, *velocity), *inputs)
    return torch.autograd.grad(outer(final[0]), [theta, *inputs], allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("make", [descent, momentum])
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_adjoint_equals_the_full_graph(make, steps):
    loss, theta, inputs, outer = problem(steps)
    velocity = (torch.zeros_like(theta),) if make is momentum else ()
    exact = gradients(plainly, make(loss), steps, theta, inputs, outer, velocity)
    for ours, theirs in zip(gradients(unroll, make(loss), steps, theta, inputs, outer, velocity), exact):
        assert (ours - theirs).norm() <= 1e-9 * theirs.norm() and theirs.norm() > 0


def test_adjoint_equals_the_recurrence_written_by_hand():
    """The original scheme: one vector-Jacobian product on the graph of each step's update, the rate folded into it."""
    steps = 6
    loss, theta, (eta, x, y), outer = problem(steps)
    thetas, updates = [theta], []
    for t in range(steps):
        at = thetas[-1].detach().requires_grad_()
        thetas[-1] = at
        updates.append(eta[t] * torch.autograd.grad(loss(t, at, x, y), at, create_graph=True)[0])
        thetas.append(at - updates[-1])
    last = thetas[-1].detach().requires_grad_()
    a, total = torch.autograd.grad(outer(last), last)[0], [torch.zeros_like(v) for v in (eta, x, y)]
    for t in reversed(range(steps)):
        *extra, along = torch.autograd.grad(updates[t], (eta, x, y, thetas[t]), -a, retain_graph=True)
        total, a = [s + e for s, e in zip(total, extra)], a + along
    for ours, theirs in zip(gradients(unroll, descent(loss), steps, theta, [eta, x, y], outer), [a, *total]):
        assert (ours - theirs).norm() <= 1e-9 * theirs.norm()


def test_adjoint_equals_central_differences():
    loss, theta, inputs, outer = problem(8)
    exact, rng = gradients(unroll, descent(loss), 8, theta, inputs, outer), generator(1, "differences")
    for which, tensor in enumerate([theta, *inputs]):
        for i in torch.randint(tensor.numel(), (4,), generator=rng).tolist():
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    moved = [t.clone() for t in (theta, *inputs)]
                    moved[which].view(-1)[i] += sign * 1e-5
                    values.append(outer(unroll(descent(loss), 8, (moved[0],), *moved[1:])[0]))
            assert (values[0] - values[1]).item() / 2e-5 == pytest.approx(
                exact[which].flatten()[i].item(), rel=1e-5, abs=1e-8
            )


def test_two_networks_at_once_are_two_alone():
    loss, theta, inputs, outer = problem(5)
    both = torch.cat([theta.detach(), 1.5 * theta.detach()]).requires_grad_()
    together = gradients(unroll, descent(loss), 5, both, inputs, outer)
    alone = [gradients(unroll, descent(loss), 5, one[None].detach().requires_grad_(), inputs, outer) for one in both]
    for ours, first, second in zip(together[1:], alone[0][1:], alone[1][1:]):
        assert torch.allclose(ours, (first + second) / 2, rtol=1e-9, atol=1e-12)


def test_frozen_weights_drop_the_curvature_alone():
    """TESLA's approximation: exact for one step, otherwise each step's contribution with the last adjoint."""
    loss, theta, inputs, outer = problem(1)
    frozen, exact = (gradients(unroll, descent(loss, frozen=still), 1, theta, inputs, outer) for still in (True, False))
    for ours, theirs in zip(frozen[1:], exact[1:]):
        assert torch.allclose(ours, theirs, rtol=1e-12)
    steps = 20
    loss, theta, (eta, x, y), outer = problem(steps)
    with torch.no_grad():
        thetas = [theta]
        for t in range(steps):
            thetas.append(
                unroll(descent(lambda _, *args, t=t: loss(t, *args)), 1, (thetas[-1],), eta[t : t + 1], x, y)[0]
            )
    last = thetas[-1].detach().requires_grad_()
    (adjoint,) = torch.autograd.grad(outer(last), last)
    bracket = sum(
        (adjoint * -eta[t] * gradient(lambda at, t=t: loss(t, at, x, y), thetas[t].detach(), True)).sum()
        for t in range(steps)
    )
    (expected,) = torch.autograd.grad(bracket, x)
    frozen = gradients(unroll, descent(loss, frozen=True), steps, theta, [eta, x, y], outer)
    exact = gradients(unroll, descent(loss), steps, theta, [eta, x, y], outer)
    assert torch.allclose(frozen[2], expected, rtol=1e-9) and torch.equal(frozen[0], adjoint)
    assert (frozen[2] - exact[2]).norm() > 0.05 * exact[2].norm(), "for many steps the curvature matters"


def test_limits():
    loss, theta, (eta, x, y), outer = problem(3)
    _, *none = gradients(unroll, descent(loss), 0, theta, [eta, x, y], outer)
    assert all((g == 0).all() for g in none), "no step, no gradient"
    still = torch.zeros(3).requires_grad_()
    at_start, by_rate, by_image, by_label = gradients(unroll, descent(loss), 3, theta, [still, x, y], outer)
    assert (by_image == 0).all() and (by_label == 0).all()
    for t in range(3):
        assert by_rate[t].item() == pytest.approx(
            -(gradient(lambda at, t=t: loss(t, at, x, y), theta) * at_start).sum().item(), rel=1e-9
        )


@pytest.mark.parametrize("start, final, loss, by", [
    (0.0, 0.5, 0.474077, (-0.094385, -0.377541, -0.377541, -0.188770)),
    (0.3, 0.654344, 0.418568, (-0.037121, -0.342011, -0.242379, -0.185518)),
])  # fmt: skip
def test_scalar_closed_form(start, final, loss, by):
    """One step of logistic regression on one number, to the sheet's digits; one output is the logit of class 1."""
    w, x, y, eta = (torch.tensor(v, requires_grad=True) for v in (start, 2.0, 1.0, 0.5))

    def step(t, state, eta, x, y):
        return (state[0] - eta * gradient(lambda w: cross_entropy((w * x).view(1, 1), y.view(1, 1)), state[0]),)

    (trained,) = unroll(step, 1, (w,), eta, x, y)
    outer = cross_entropy(trained.view(1, 1), torch.ones(1, 1))
    assert trained.item() == pytest.approx(final, abs=1e-6) and outer.item() == pytest.approx(loss, abs=1e-6)
    assert [g.item() for g in torch.autograd.grad(outer, (x, y, eta, w))] == pytest.approx(by, abs=1e-6)


@pytest.mark.parametrize("points, rank", [(5, 0), (3, 2)])
def test_linear_regression_closed_form(points, rank):
    """As many orthogonal points as dimensions reach the optimum from anywhere in one step; fewer project the rest."""
    gen = generator(0, "linear")
    q, _ = torch.linalg.qr(torch.randn(5, 5, generator=gen))
    eta, optimum = torch.tensor(0.7), torch.randn(5, generator=gen)
    x = (points / eta).sqrt() * q[:points]

    def step(t, state, eta, x, y):
        return (state[0] - eta * gradient(lambda theta: (x @ theta - y).square().sum() / (2 * points), state[0]),)

    left = torch.stack([unroll(step, 1, (optimum + e,), eta, x, x @ optimum)[0] - optimum for e in torch.eye(5)])
    assert torch.linalg.matrix_rank(left, tol=1e-12) == rank
    assert torch.allclose(left @ left, left, atol=1e-14), "a projector"


def test_weights_of_the_module_stay():
    flat = Flat(build("lenet_dd", (1, 28, 28), 10))
    theta = flat.weights(generator(0, "weights"))
    before = [p.detach().clone() for p in flat.net.parameters()]
    x = torch.randn(2, 1, 28, 28).requires_grad_()
    (trained,) = unroll(
        descent(lambda t, theta, x, y: flat(theta, x).square().sum()),
        2,
        (theta[None],),
        torch.full((2,), 1e-3),
        x,
        torch.zeros(2),
    )
    trained.sum().backward()
    assert x.grad.norm() > 0 and all(torch.equal(p, q) for p, q in zip(flat.net.parameters(), before))
    assert torch.equal(torch.cat([p.flatten() for p in before]), theta)
