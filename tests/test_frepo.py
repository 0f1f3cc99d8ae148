"""FRePo's loss, optimiser, pool and schedules against the reference sheet's closed forms (section 15) and limits."""

import math
from functools import partial

import pytest
import torch

from lib.augment.frepo import apply, draw
from lib.config.load import load_params
from lib.data.labels import centred_one_hot, initial_labels
from lib.methods.frepo import FRePo, cosine_lr, label_margin, meta_loss
from lib.methods.kernel_regression import RIDGE, krr_coefficients, krr_predict
from lib.methods.lamb import Lamb
from lib.networks import build
from lib.rng import generator
from lib.synthetic.set import SyntheticSet
from lib.training.compute import CPU_NUMBERS, forward_flops, widest_layer
from lib.training.losses import squared_error
from lib.training.optimizers import state_of


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def cfg():
    """The quickstart's cell with a pool that a test can follow."""
    cell = load_params().cells["digits-frepo-digits-ipc1"].distill
    return cell.changed(pool_size=2, reset_after=4, steps=50)


def method(cfg, shape=(1, 8, 8), classes=10, seed=0):
    gen = generator(7, "images")
    labels = initial_labels(torch.arange(classes).repeat_interleave(cfg.ipc), classes)
    syn = SyntheticSet(torch.randn(classes * cfg.ipc, *shape, generator=gen), labels, cfg.learn_labels)
    return FRePo(cfg, syn, seed)


def real_batch(n=64, classes=10):
    gen = generator(8, "real")
    return torch.randn(n, 1, 8, 8, generator=gen), centred_one_hot(torch.randint(classes, (n,), generator=gen), classes)


# Kernel ridge regression


def test_krr_tiny_example():
    phi_syn, y = tensor([1, 0], [0, 2]), tensor([0.5, -0.5], [-0.5, 0.5])
    phi_real = tensor([1, 1], [2, 0])
    alpha = krr_coefficients(phi_syn, y)
    assert torch.allclose(alpha, tensor([0.49999875, -0.49999875], [-0.12499992, 0.12499992]), atol=5e-9)
    prediction = krr_predict(phi_syn, y, phi_real)
    assert torch.allclose(prediction, tensor([0.24999891, -0.24999891], [0.9999975, -0.9999975]), atol=5e-9)
    per_sample = 0.5 * (prediction - y).square().sum(1)
    assert torch.allclose(per_sample, tensor(0.0625006, 2.2499925), atol=5e-7)
    assert squared_error(prediction, y).item() == pytest.approx(1.1562465, abs=5e-8)


def features(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_krr_interpolates_its_own_support_as_the_ridge_vanishes():
    phi, y = features(6, 20), features(6, 3, 1)
    errors = [squared_error(krr_predict(phi, y, phi, ridge), y).item() for ridge in (1e-2, 1e-4, 1e-6)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-9


def test_krr_is_invariant_to_scale_and_order_and_linear_in_labels():
    phi, y, z, query = features(6, 20), features(6, 3, 1), features(6, 3, 2), features(9, 20, 3)
    base = krr_predict(phi, y, query)
    assert torch.allclose(krr_predict(7 * phi, y, 7 * query), base, rtol=1e-9)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.allclose(krr_predict(phi[order], y[order], query), base, rtol=1e-9)
    assert torch.allclose(krr_predict(phi, 2 * y - z, query), 2 * base - krr_predict(phi, z, query), atol=1e-9)


def test_krr_dual_equals_primal():
    phi, y, query = features(6, 20), features(6, 3, 1), features(9, 20, 3)
    penalty = RIDGE * (phi @ phi.T).trace() / len(phi)
    primal = query @ torch.linalg.solve(phi.T @ phi + penalty * torch.eye(20, dtype=phi.dtype), phi.T @ y)
    assert torch.allclose(krr_predict(phi, y, query), primal, atol=1e-7)


def test_krr_with_a_huge_ridge_predicts_zero():
    assert krr_predict(features(6, 20), features(6, 3, 1), features(9, 20, 3), 1e12).abs().max() < 1e-9


def test_flip_doubling_of_symmetric_images_changes_nothing_but_the_ridge():
    x = features(4, 24).view(4, 1, 4, 6)
    x = x + x.flip(-1)
    y, phi_real, targets = features(4, 3, 1), features(9, 24, 2), features(9, 3, 3)
    plain, _ = meta_loss(lambda x: x.flatten(1), x, y, phi_real, targets, flip=False)
    doubled, _ = meta_loss(lambda x: x.flatten(1), x, y, phi_real, targets, flip=True)
    assert doubled.isfinite() and doubled.item() == pytest.approx(plain.item(), rel=1e-3)


def test_singular_kernel_gives_nan_not_an_exception():
    assert krr_coefficients(torch.zeros(3, 2), torch.ones(3, 2)).isnan().all()


# The objective


@pytest.mark.parametrize("classes", [10, 100])
def test_margin_term_at_the_start_is_its_cap_with_zero_gradient(classes):
    y = initial_labels(torch.arange(classes).repeat_interleave(2), classes).double().requires_grad_()
    loss = label_margin(y)
    assert loss.item() == pytest.approx(-1 / classes, rel=1e-6)
    loss.backward()
    assert y.grad.abs().max() == 0


def test_margin_term_pushes_the_two_largest_labels_apart():
    y = tensor([0.30, 0.28, -0.5]).view(1, 3).requires_grad_()
    loss = label_margin(y)
    assert loss.item() == pytest.approx(-0.02)
    loss.backward()
    assert torch.equal(y.grad, tensor([-1.0, 1.0, 0.0]).view(1, 3))


@pytest.mark.parametrize(
    "classes, high, low",
    [(10, 0.9, -0.1), (100, 0.313065, -0.0031623), (200, 0.222489, -0.0011180), (1000, 0.0999, -0.0001)],
)
def test_initial_labels(classes, high, low):
    y = initial_labels(torch.arange(classes), classes)
    assert y[0, 0].item() == pytest.approx(high, abs=1e-6) and y[0, 1].item() == pytest.approx(low, abs=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_gradient_of_the_objective_equals_central_differences(flip):
    net = build("conv1-w4-batch", (1, 4, 4), 2).double().reset(generator(0, "net")).eval()
    x = torch.randn(4, 1, 4, 4, dtype=torch.float64, generator=generator(1, "x"), requires_grad=True)
    y = (0.1 * torch.randn(4, 2, dtype=torch.float64, generator=generator(2, "y"))).requires_grad_()
    with torch.no_grad():
        phi_real = net.features(torch.randn(8, 1, 4, 4, dtype=torch.float64, generator=generator(3, "real")))
    targets = centred_one_hot(torch.arange(8) % 2, 2, torch.float64)

    def loss(x, y):
        return meta_loss(net.features, x, y, phi_real, targets, flip)[0]

    exact = torch.autograd.grad(loss(x, y), (x, y))
    for tensor_, gradient in zip((x, y), exact):
        flat, step = tensor_.detach().view(-1), 1e-5
        numeric = torch.empty_like(flat)
        with torch.no_grad():
            for i in range(len(flat)):
                keep = flat[i].item()
                flat[i] = keep + step
                up = loss(x, y)
                flat[i] = keep - step
                down = loss(x, y)
                flat[i] = keep
                numeric[i] = (up - down) / (2 * step)
        assert (numeric - gradient.flatten()).norm() / gradient.norm() < 1e-6


# The optimiser and the schedules


def test_lamb_reproduces_the_sheets_three_steps():
    p = tensor(3.0, 4.0).requires_grad_()
    optimizer = Lamb([p], 3e-4)
    expected = [(-0.00106066, 0.00106066), (-0.00144975, -0.00038524), (0.00114658, -0.00096668)]
    for gradient, change in zip(([0.1, -0.2], [0.05, 0.3], [-0.4, 0.1]), expected):
        before = p.detach().clone()
        p.grad = tensor(*gradient)
        optimizer.step()
        assert torch.allclose(p.detach() - before, tensor(*change), atol=6e-9)
        assert (p.detach() - before).norm() / before.norm() == pytest.approx(3e-4, rel=1e-9)
    assert torch.allclose(p.detach(), tensor(2.998636, 3.999708), atol=5e-7)


@pytest.mark.parametrize("start, gradient", [(0.0, 1.0), (1.0, 0.0)])
def test_lamb_takes_a_ratio_of_one_where_a_length_is_zero(start, gradient):
    p = torch.full((4,), start, dtype=torch.float64).requires_grad_()
    p.grad = torch.full_like(p, gradient)
    Lamb([p], 0.1).step()
    assert torch.allclose(p.detach(), torch.full_like(p, start - 0.1 * gradient), atol=1e-6)


def test_every_outer_step_moves_each_tensor_by_its_learning_rate(cfg):
    frepo, (x, targets) = method(cfg), real_batch()
    for step in range(6):
        before = [t.detach().clone() for t in (frepo.syn.x, frepo.syn.y)]
        frepo.step(step, x, targets)
        lr = cosine_lr(cfg.outer_lr, cfg.outer_lr_final, step, cfg.steps)
        for old, new in zip(before, (frepo.syn.x, frepo.syn.y)):
            assert ((new.detach() - old).norm() / old.norm()).item() == pytest.approx(lr, rel=1e-4)


def test_outer_learning_rate_at_the_sheets_points():
    values = [cosine_lr(3e-4, 0.1, t, 100) for t in (0, 25, 50, 75, 100)]
    assert values == pytest.approx([3e-4, 2.604594e-4, 1.65e-4, 6.954058e-5, 3e-5], rel=1e-6)


def test_labels_that_are_not_learned_stay(cfg):
    frepo, (x, targets) = method(cfg.changed(learn_labels=False)), real_batch()
    before = frepo.syn.y.clone()
    frepo.step(0, x, targets)
    assert torch.equal(frepo.syn.y, before)


# The pool


def test_pool_counters_are_staggered_and_reset_after_the_limit():
    cfg = load_params().cells["digits-frepo-digits-ipc1"].distill.changed(pool_size=10, reset_after=100)
    assert [m.counter for m in method(cfg).pool] == [10 * i for i in range(10)]
    frepo, (x, targets) = method(cfg.changed(pool_size=1, reset_after=2)), real_batch()
    counters, weights = [], []
    for step in range(8):
        frepo.step(step, x, targets)
        counters.append(frepo.pool[0].counter)
        weights.append(frepo.pool[0].net.head.weight.detach().clone())
    # Used at counters 0..R+1; the iteration that finds more than R resets and does not train.
    assert counters == [1, 2, 3, 0, 1, 2, 3, 0]
    assert not torch.equal(weights[3], weights[7]), "each reset draws new weights"
    left = state_of(frepo.pool[0].optimizer)
    assert left and not any(tensor.any() for tensor in left), "Adam's state is reset with its network"


def test_online_step_is_one_adam_step_on_the_learned_set(cfg):
    frepo = method(cfg)
    member = frepo.pool[0]
    twin = build(cfg.net, (1, 8, 8), 10)
    twin.load_state_dict(member.net.state_dict())
    frepo.online_step(member)
    twin.train()
    loss = (0.5 * (twin(frepo.syn.x.detach()) - frepo.syn.y.detach()).square().sum(1)).mean()
    for (name, p), g in zip(twin.named_parameters(), torch.autograd.grad(loss, list(twin.parameters()))):
        step = cfg.online_lr * g / (g.abs() + 1e-8)  # Adam's first step
        assert torch.allclose(member.net.get_parameter(name), p - step, atol=3e-6), name


def test_meta_step_leaves_the_network_and_its_norms_untouched(cfg):
    frepo, (x, targets) = method(cfg), real_batch()
    net = frepo.pool[0].net
    before = {k: v.clone() for k, v in net.state_dict().items()}
    frepo.meta_step(net, x, targets, cfg.outer_lr)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_chunked_target_features_equal_the_whole_batch(cfg, monkeypatch):
    frepo, (x, _) = method(cfg), real_batch()
    whole = frepo.target_features(frepo.pool[0].net, x)
    monkeypatch.setitem(CPU_NUMBERS, "float32", 7 * widest_layer(cfg.net, (1, 8, 8)))
    assert torch.allclose(frepo.target_features(frepo.pool[0].net, x), whole, atol=1e-6)


@pytest.mark.parametrize("conv_dtype, tolerance", [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_fast_precision_follows_the_float64_loss(cfg, conv_dtype, tolerance):
    """Convolutions in the run's precision against everything in float64, same weights and images."""
    frepo, (x, targets) = method(cfg.changed(conv_dtype=conv_dtype)), real_batch()
    net = frepo.pool[0].net
    loss = frepo.meta_step(net, x, targets, 1e-9)["loss"].item()
    exact_net = build(cfg.net, (1, 8, 8), 10)
    exact_net.load_state_dict(net.state_dict())
    exact_net = exact_net.double().eval()
    with torch.no_grad():
        phi_real = exact_net.features(x.double())
        exact, _ = meta_loss(
            exact_net.features, frepo.syn.x.double(), frepo.syn.y.double(), phi_real, targets.double(), cfg.flip
        )
    assert loss == pytest.approx(exact.item(), rel=tolerance)


def test_same_seed_same_bits_and_another_seed_another_run(cfg):
    def learn(seed):
        frepo, (x, targets) = method(cfg, seed=seed), real_batch()
        for step in range(12):
            frepo.step(step, x, targets)
        return frepo.syn.x.detach()

    assert torch.equal(learn(0), learn(0))
    assert not torch.equal(learn(0), learn(1))


def test_an_augmented_copy_of_the_set_joins_the_outer_loss(cfg):
    """The gradients by the pixels and labels are those of the loss of both copies, for the same draw."""
    ours = method(cfg.changed(augment="grey", conv_dtype="float32", krr_dtype="float64"))
    gen = generator(0, "augment")
    for _ in range(3):  # among three operations there is one that moves the pixels
        net, (x_real, targets) = ours.pool[0].net, real_batch()
        x, y = (tensor.detach().clone().requires_grad_() for tensor in (ours.syn.x, ours.syn.y))
        both = torch.cat([x, apply(x[None], draw("grey", (1, 10, 8), gen))[0]])
        phi = ours.target_features(net, x_real)
        loss, _ = meta_loss(partial(ours._features, net), both, torch.cat([y, y]).double(), phi, targets, False)
        expected = torch.autograd.grad(loss, [x, y])
        metrics = ours.meta_step(net, x_real, targets, 0.1)
        assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
        for learned, exact in zip(ours.syn.learned, expected):
            assert (learned.grad - exact).norm() <= 1e-5 * exact.norm()


def test_the_pool_trains_on_the_augmented_set(cfg):
    ours, plain = method(cfg.changed(augment="grey", conv_dtype="float32")), method(cfg)
    gen, member, expected = generator(0, "augment"), ours.pool[0], plain.pool[0]
    for _ in range(3):
        ours.online_step(member)
        x = apply(plain.syn.x.detach()[None], draw("grey", (1, 10, 8), gen))[0]
        plain.update(expected, x, plain.syn.y.detach())
    assert member.counter == 3
    for changed, same in zip(member.tensors(), expected.tensors()):
        assert torch.equal(changed, same)


def test_augmentations_go_on_from_a_checkpoint(cfg):
    whole, stopped, resumed = (method(cfg.changed(augment="grey"), seed=seed) for seed in (0, 0, 1))
    for ours in (whole, stopped):
        ours.step(0, *real_batch())
    resumed.load_state_dict(stopped.state_dict())
    for ours in (whole, resumed):
        ours.step(1, *real_batch())
    assert torch.equal(whole.syn.x, resumed.syn.x) and torch.equal(whole.syn.y, resumed.syn.y)


def test_augmentation_costs_one_copy_of_the_set_in_the_outer_loss(cfg):
    shape, plain = (1, 8, 8), FRePo.step_flops(cfg, (1, 8, 8), 10)
    more = FRePo.step_flops(cfg.changed(augment="grey"), shape, 10) - plain
    assert more == 2 * 10 * (2 if cfg.flip else 1) * forward_flops(cfg.net, shape)


def test_resetting_at_every_visit_uses_untrained_networks_alone(cfg):
    """The random-feature limit: reset_after below every counter, so that no network is ever trained."""
    frepo, (x, targets) = method(cfg.changed(pool_size=1, reset_after=0)), real_batch()
    frepo.pool[0].counter = 1
    for step in range(3):
        frepo.step(step, x, targets)
        assert frepo.pool[0].net.head.bias.abs().max() == 0 and math.isclose(frepo.pool[0].counter, 0)
        frepo.pool[0].counter = 1
