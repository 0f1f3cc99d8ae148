"""MTT, TESLA's way, DATM, EDF: against full graphs and figures of the sheets (MTT's 3, 6, 11; EDF's 5, 6, 11)."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from lib.augment import dsa
from lib.autodiff.unroll import gradient, unroll
from lib.config.load import load_params
from lib.methods import METHODS
from lib.methods.class_maps import MAPS, activations, class_maps, complexity, emphasis
from lib.networks import build
from lib.rng import generator
from lib.synthetic.set import SyntheticSet
from lib.training.losses import cross_entropy

CELLS = load_params().cells
NET, SHAPE, C = "convnet1-w4-instance", (1, 8, 8), 3
MTT = CELLS["digits-mtt-digits-ipc1"].distill.changed(net=NET, lr_start=0.1, lr_img=0.5, lr_lr=1e-3)
EDF = CELLS["digits-edf-digits-ipc1"].distill.changed(net=NET, lr_start=0.1, lr_img=0.5, lr_lr=1e-3, threshold=9.0)


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def method(cfg, name="mtt", seed=0, ipc=2, **fields):
    cfg, gen = cfg.changed(ipc=ipc, **fields), generator(seed, "set")
    x = torch.randn(ipc * C, *SHAPE, generator=gen)
    images = torch.linalg.svd(x, full_matrices=False) if cfg.rank else None
    images = (images[0][..., : cfg.rank], images[2][..., : cfg.rank, :]) if cfg.rank else x
    y = F.one_hot(torch.arange(C).repeat_interleave(ipc), C).double()
    judge = (
        {"judge": (build(NET, SHAPE, C).reset(generator(5, "judge")).eval(), torch.arange(C))} if name == "edf" else {}
    )
    return METHODS[name](cfg, SyntheticSet(images, y * 3 if cfg.learn_labels else y, cfg.learn_labels), seed, **judge)


def segment(m, seed=1):
    gen = generator(seed, "segment")
    return m.net.weights(gen), m.net.weights(gen)


def whole_graph(m, start, target):
    """The loss through one graph of all inner steps, on the method's own draws, by the library's modules."""
    chosen, syn, theta = m.minibatches(), m.syn, start.clone().requires_grad_()
    draws = (
        [dsa.draw(m.cfg.augment, 1, len(b), m.rngs["augment"], m.rngs["family"]) for b in chosen]
        if m.cfg.augment != "none"
        else None
    )
    for t, own in enumerate(chosen):
        x = syn.x[own] if draws is None else dsa.apply(syn.x[own][None], draws[t])[0]
        loss = -(syn.labels[own] * m.net.one(theta, x).log_softmax(1)).sum(1).mean()
        theta = theta - syn.rates[0, 0] * torch.autograd.grad(loss, theta, create_graph=True)[0]
    return m.distance(theta, start, target)


@pytest.mark.parametrize("steps", [1, 5, 40])
@pytest.mark.parametrize(
    "fields",
    [{"augment": "none"}, {"augment": "dsa"}, {"augment": "dsa", "batch_syn": 4}, {"augment": "none", "rank": 2}],
)
def test_gradients_are_the_whole_graphs(steps, fields):
    m, other = (method(MTT, inner_steps=steps, **fields) for _ in range(2))
    start, target = segment(m)
    loss = m.distance(m.train(start), start, target)
    expected = whole_graph(other, start, target)
    assert torch.allclose(loss, expected, rtol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, m.syn.learned), torch.autograd.grad(expected, other.syn.learned)):
        assert (ours - theirs).norm() <= 1e-9 * theirs.norm()


@pytest.mark.parametrize("name, drop", [("datm", 0.0), ("edf", 0.25)])
def test_gradients_with_learned_labels_and_dropped_weights(name, drop):
    m, other = (
        method(
            EDF if name == "edf" else CELLS["digits-datm-digits-ipc1"].distill.changed(net=NET, lr_start=0.1),
            name,
            inner_steps=5,
            drop=drop,
        )
        for _ in range(2)
    )
    start, target = segment(m)
    loss, expected = m.distance(m.train(start), start, target), whole_graph(other, start, target)
    ours, theirs = torch.autograd.grad(loss, m.syn.learned), torch.autograd.grad(expected, other.syn.learned)
    assert len(ours) == 3 and all((a - b).norm() <= 1e-9 * b.norm() for a, b in zip(ours, theirs))


def test_tesla_drops_the_hessian_products():
    """The sheet's scalar: inner loss (theta - x)^2 / 2, start 0, target 1, x 1, rate 0.5, two steps."""
    for frozen, by_x, by_rate in ((False, -0.375, -0.5), (True, -0.5, -0.75)):
        x, rate = torch.tensor(1.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)

        def step(t, state, x, rate, frozen=frozen):
            return (state[0] - rate * gradient(lambda at: ((at - x) ** 2 / 2).sum(), state[0], frozen),)

        (end,) = unroll(step, 2, (torch.zeros(1),), x, rate)
        loss = ((end - 1) ** 2).sum()
        assert torch.allclose(loss, torch.tensor(0.0625))
        assert torch.allclose(torch.stack(torch.autograd.grad(loss, (x, rate))), torch.tensor([by_x, by_rate]))


def test_tesla_is_exact_for_one_step_and_the_sheets_two_passes_for_more():
    for steps in (1, 6):
        exact, tesla = (method(MTT, inner_steps=steps, augment="none", gradient=kind) for kind in ("exact", "tesla"))
        start, target = segment(exact)
        ends = [m.train(start) for m in (exact, tesla)]
        assert torch.allclose(*ends, rtol=1e-12), "the same student"
        by_exact, by_tesla = (
            torch.autograd.grad(m.distance(end, start, target), m.syn.learned) for m, end in zip((exact, tesla), ends)
        )
        m, beta, theta, parts = tesla, tesla.syn.rates[0, 0].detach(), start.clone(), []
        for own in method(MTT, inner_steps=steps, augment="none").minibatches():
            parts.append((theta.clone().requires_grad_(), own))
            theta = (
                theta
                - beta
                * torch.autograd.grad(cross_entropy(m.net.one(parts[-1][0], m.syn.x[own]), m.syn.y[own]), parts[-1][0])[
                    0
                ].detach()
            )
        total, scale = (start - theta) / beta, (start - target).square().sum()
        bracket = beta * (target - start) + beta**2 * total
        assert torch.allclose(bracket, -beta * (theta - target), atol=1e-12)
        by_x = 0
        for at, own in parts:
            x = m.syn.x.detach().requires_grad_()
            g = torch.autograd.grad(cross_entropy(m.net.one(at, x[own]), m.syn.y[own]), at, create_graph=True)[0]
            by_x = by_x + 2 / scale * torch.autograd.grad((bracket * g).sum(), x)[0]
        assert torch.allclose(by_tesla[0], by_x, rtol=1e-9, atol=1e-14)
        assert torch.allclose(by_tesla[1].sum(), -2 / scale * (total * (theta - target)).sum(), rtol=1e-9)
        off = ((by_tesla[0] - by_exact[0]).norm() / by_exact[0].norm()).item()
        assert off < 1e-12 if steps == 1 else off > 0.01


def test_the_loss_is_one_without_a_move_and_nothing_at_the_target():
    m = method(MTT, inner_steps=0)
    start, target = segment(m)
    assert m.distance(m.train(start), start, target) == 1 and m.distance(target, start, target) == 0
    end = start + 0.3 * (target - start)
    assert torch.allclose(m.distance(end, start, target), torch.tensor(0.49))
    order = torch.randperm(len(start))
    assert torch.allclose(m.distance(*(7 * t[order] for t in (end, start, target))), torch.tensor(0.49)), (
        "scale and order do not matter"
    )


def test_an_expert_of_the_set_itself_is_matched_exactly():
    """Descent at the learned rate on the set in the student's own order: the distance is nothing."""
    m, twin = (method(MTT, inner_steps=6, batch_syn=2, augment="dsa") for _ in range(2))
    start, _ = segment(m)
    target = twin.train(start).detach()
    assert m.distance(m.train(start), start, target) < 1e-24


def test_minibatches_come_from_the_permutations_end_the_smaller_first():
    m = method(MTT, ipc=3, batch_syn=4, inner_steps=5)
    parts = m.minibatches()
    assert [len(p) for p in parts] == [1, 4, 4, 1, 4]
    assert torch.cat(parts[:3]).sort().values.tolist() == list(range(9)) and not torch.equal(parts[1], parts[4])


def test_a_step_moves_images_and_rate_by_momentum_descent():
    m, other = (method(MTT, inner_steps=3, augment="none") for _ in range(2))
    moved = [t.detach().clone() for t in other.syn.learned]
    velocity = [0, 0]
    for step in range(3):
        start, target = segment(m, step)
        metrics = m.step(step, start, target)
        loss = whole_graph(other, start, target)
        grads = torch.autograd.grad(loss, other.syn.learned)
        assert torch.allclose(metrics["loss"], loss.detach())
        with torch.no_grad():
            for i, (p, g, lr) in enumerate(zip(other.syn.learned, grads, (MTT.lr_img, MTT.lr_lr))):
                velocity[i] = 0.5 * velocity[i] + g
                p -= lr * velocity[i]
    for ours, theirs, first in zip(m.syn.learned, other.syn.learned, moved):
        assert torch.allclose(ours, theirs, atol=1e-9) and not torch.allclose(ours, first)


def test_a_loss_above_the_threshold_changes_nothing():
    fields = {"inner_steps": 3, "augment": "none", "drop": 0.0}
    for threshold, moves in ((1e-9, False), (9.0, True)):
        m = method(EDF, "edf", threshold=threshold, **fields)
        before = [t.detach().clone() for t in m.syn.learned]
        m.step(0, *segment(m))
        assert [not torch.equal(a, b) for a, b in zip(before, m.syn.learned)] == [moves] * 3


def test_dropping_common_patterns_gives_the_sheets_figures():
    start, target = torch.tensor([4.0, 2.0, 3.0, 1.0]), torch.zeros(4)
    end = torch.tensor([4.0, 1.0, 9.0, 0.25]).sqrt()
    for drop, wanted in ((0.0, 14.25 / 30), (0.25, 14 / 29), (0.5, 13 / 25)):
        m = method(EDF, "edf", drop=drop)
        at = end.clone().requires_grad_()
        loss = m.distance(at, start, target)
        assert torch.allclose(loss, torch.tensor(wanted))
        (grad,) = torch.autograd.grad(loss, at)
        assert (grad == 0).sum() == int(4 * drop)
        assert torch.allclose(m.distance(start, start, target), torch.tensor(1.0)), (
            "one without a move, whatever is dropped"
        )


def test_pixels_are_weighed_before_momentum_and_maps_are_kept_between():
    fields = {"inner_steps": 2, "augment": "none", "map_every": 2}
    m, plain = method(EDF, "edf", **fields), method(EDF, "edf", **fields)
    x, pair = m.syn.x.detach().clone(), segment(m)
    m.step(0, *pair)
    assert (
        {round(v, 6) for v in m.weights[m.weights < 1.0].tolist()} == set()
        and m.weights.max() <= 2
        and (m.weights > 1).any()
    )
    kept = m.weights.clone()
    loss = plain.distance(plain.train(pair[0]), *pair)
    (by_x,) = torch.autograd.grad(loss, plain.syn.images)
    assert torch.allclose(m.syn.x.detach(), x - EDF.lr_img * by_x * kept, atol=1e-12)
    m.step(1, *segment(m, 2))
    assert torch.equal(m.weights, kept)
    m.step(2, *segment(m, 3))
    assert not torch.equal(m.weights, kept)


def test_state_restores_a_run_exactly():
    m, other = method(EDF, "edf", inner_steps=2), method(EDF, "edf", seed=7, inner_steps=2)
    m.step(0, *segment(m))
    other.load_state_dict(deepcopy(m.state_dict()))
    for step in (1, 2):
        assert torch.equal(m.step(step, *segment(m, step))["loss"], other.step(step, *segment(m, step))["loss"])
    assert all(torch.equal(a, b) for a, b in zip(m.syn.learned, other.syn.learned))


def test_emphasis_has_the_sheets_weights():
    maps = torch.tensor([[0.0, 0.2], [0.6, 1.0]])[None, None]
    for beta, wanted in ((1.0, [[1, 1], [1.6, 2]]), (2.0, [[1, 1], [2.6, 3]])):
        assert torch.allclose(emphasis(maps, beta)[0, 0], torch.tensor(wanted, dtype=torch.float64))
    assert torch.equal(emphasis(torch.zeros(1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 2.0)), (
        "a map of nothing weighs all alike"
    )


@pytest.mark.parametrize("kind", MAPS)
def test_maps_run_from_nothing_to_one_for_the_class_asked_for(kind):
    net = build("convnet2-w8-instance", SHAPE, C).reset(generator(0, "net")).eval()
    x = torch.randn(4, *SHAPE, generator=generator(0, "x"))
    maps = MAPS[kind](net, x, torch.tensor([0, 1, 2, 0]), generator(0, "noise"))
    assert maps.shape == (4, 4, 4) and (maps >= 0).all()
    whole = class_maps(kind, net, x, torch.tensor([0, 1, 2, 0]), generator(0, "noise"))
    assert whole.shape == (4, 1, 8, 8) and whole.min() >= 0 and whole.max() <= 1
    other = class_maps(kind, net, x, torch.tensor([1, 1, 2, 0]), generator(0, "noise"))
    assert not torch.allclose(other[0], whole[0]) and torch.allclose(other[1:], whole[1:]), (
        "images do not see each other"
    )


def test_smooth_gradcam_pp_of_an_averaging_head_has_the_sheets_closed_form():
    """After a global average and a linear head the gradient is F / (h w), and the weights need no pass backwards."""

    class Averaging(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.fc = torch.nn.Conv2d(1, 5, 3, padding=1), torch.nn.ReLU(), torch.nn.Linear(5, C)

        def forward(self, x):
            return self.fc(self.relu(self.conv(x)).mean((2, 3)))

    torch.manual_seed(0)
    net, x, classes = Averaging().eval(), torch.randn(2, *SHAPE), torch.tensor([0, 2])
    found = MAPS["smooth_gradcam_pp"](net, x, classes, generator(3, "noise"))
    gen = generator(3, "noise")
    noisy = [x + 0.3 * torch.randn(x.shape, generator=gen) for _ in range(4)][-1]
    clean, _ = activations(net, x, classes)
    last, _ = activations(net, noisy, classes)
    slope = net.fc.weight[classes].detach() / 64
    share = slope**2 / (2 * slope**2 + slope**3 * clean.sum((2, 3)) + 1e-8)
    expected = ((64 * share * slope.relu())[:, :, None, None] * last).sum(1).relu()
    assert torch.allclose(found, expected, atol=1e-10)
    maps = MAPS["smooth_gradcam_pp"](net, x, net(x).argmax(1), generator(3, "noise"))
    middle = (maps.amin((1, 2)) + maps.amax((1, 2))) / 2
    below = complexity(net, x, generator(3, "noise"))
    assert (
        below.tolist() == [(m <= half).double().mean().item() for m, half in zip(maps, middle)] and 0 < below.min() < 1
    )
