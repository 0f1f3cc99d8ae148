"""RaT-BPTT: the window's gradient against one graph of all steps, its parts against sheet (12, 14) and library."""

import pytest
import torch
import torch.nn.functional as F

from lib.augment.dsa import apply
from lib.config.load import load_params
from lib.data.labels import class_labels
from lib.data.real import RealSet
from lib.methods.rat import Clip, RaT, adam, adam_rate
from lib.rng import class_minibatches, generator
from lib.synthetic.initial import initial_set
from lib.synthetic.set import SyntheticSet

CFG = load_params().cells["digits-rat-digits-ipc1"].distill
CFG = CFG.changed(net="dense1-w8", inner_steps=6, window=3, real_batch=20, steps=4)


def real_set(dtype=torch.float64):
    x, y = torch.randn(40, 1, 6, 6, generator=generator(0, "real"), dtype=dtype), torch.arange(40) % 4
    return RealSet(x, y, x[:20], y[:20], None, {"num_classes": 4})


def method(seed=0, dtype=torch.float64, **fields):
    torch.set_default_dtype(dtype)
    try:
        cfg = CFG.changed(**fields)
        images, y = initial_set(real_set(dtype), cfg, seed)
        return RaT(cfg, SyntheticSet(images, y.to(dtype), cfg.learn_labels), seed)
    finally:
        torch.set_default_dtype(torch.float32)


def batch(dtype=torch.float64):
    real = real_set(dtype)
    return real.train_x, class_labels(real.train_y, 4, "one_hot").to(dtype)


MINIBATCHES = {"ipc": 3, "inner_batch": 4, "batch_per_class": 2, "learn_labels": True, "augment": "flip-rotate"}


@pytest.mark.parametrize(
    "before, window, fields",
    [
        (0, 6, {}),
        (3, 3, {"learn_labels": True}),
        (2, 4, {"learn_labels": True, "augment": "flip-rotate"}),
        (2, 4, MINIBATCHES),
    ],
)
def test_gradient_is_that_of_one_graph_of_the_windows_steps(before, window, fields):
    rat, (x, y) = method(window=window, **fields), batch()
    syn, theta = rat.syn, rat.net.weights(rat.rngs["weights"])
    states = {name: gen.get_state() for name, gen in rat.rngs.items()}
    indices = rat.minibatches(before + window)
    draws = [rat.draw(rat.cfg.inner_batch or len(syn)) for _ in range(before + window)]
    one, first, second = theta.clone().requires_grad_(), 0, 0
    for t, drawn in enumerate(draws):
        if t == before:
            one, first, second = (
                s.detach().requires_grad_() if torch.is_tensor(s) else s for s in (one, first, second)
            )
        loss = F.cross_entropy(rat.net.one(one, apply(syn.x[indices[t]][None], drawn)[0]), syn.y[indices[t]])
        g = torch.autograd.grad(loss, one, create_graph=True)[0]
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        root = torch.where(second > 0, second, torch.ones_like(second)).sqrt() * (second > 0)
        one = one - CFG.lr_net * (first / (1 - 0.9 ** (t + 1))) * (1 - 0.999 ** (t + 1)) ** 0.5 / (root + 1e-8)
    expected = torch.autograd.grad(F.cross_entropy(rat.net.one(one, x), y.argmax(1)), syn.learned)
    for name, gen in rat.rngs.items():
        gen.set_state(states[name])
    rat.outer_loss(rat.train(theta[None], before), x, y)
    assert len(syn.learned) == len(expected) == (2 if fields else 1)
    for tensor, gradient in zip(syn.learned, expected):
        assert (tensor.grad - gradient).norm() <= 1e-9 * gradient.norm() and gradient.norm() > 0


def test_minibatches_are_distinct_images_of_distinct_classes_each_as_likely():
    found = class_minibatches(6000, 5, 4, 6, 2, generator(0, "minibatches"))
    classes = (found // 4).view(6000, 3, 2)
    assert (classes[..., 0] == classes[..., 1]).all() and all(len(set(row)) == 3 for row in classes[..., 0].tolist())
    assert all(len(set(row)) == 6 for row in found.tolist())
    assert (found.flatten().bincount(minlength=20) / 6000 - 0.3).abs().max() < 0.03
    whole = class_minibatches(2, 5, 4, 20, 4, generator(0, "minibatches"))
    assert (whole.sort().values == torch.arange(20)).all()


def test_inner_update_is_the_librarys_adam_and_finite_where_nothing_moves():
    draws = generator(
        0, "adam"
    )  # the library scales epsilon with the count, which shows where a gradient is next to nothing
    weights = torch.randn(5, dtype=torch.float64, generator=draws).requires_grad_()
    theirs = torch.optim.Adam([weights], 0.01)
    state = weights.detach().clone(), torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for count in range(1, 4):
        weights.grad = torch.randn(5, dtype=torch.float64, generator=draws)
        state = adam(state, weights.grad, adam_rate(count, 0.01))
        theirs.step()
    assert torch.allclose(state[0], weights, rtol=0, atol=1e-7)
    still = torch.zeros(3, requires_grad=True)
    moved, *_ = adam((torch.ones(3), torch.zeros(3), torch.zeros(3)), still, adam_rate(1, 0.01))
    (slope,) = torch.autograd.grad(moved.sum(), still)
    assert slope.isfinite().all() and (moved == 1).all()


def test_clip_follows_the_sheets_norms():
    clip, sizes, found = Clip("cpu"), [], []
    for norm in (1.0, 3.0, 0.5):
        tensor = torch.zeros(2)
        tensor.grad = torch.tensor([norm, 0.0])
        assert clip([tensor]).item() == norm
        sizes.append(clip.mean.item())
        found.append(tensor.grad[0].item() / norm)
    assert sizes == pytest.approx([1, 1.2, 1.13]) and found == pytest.approx([1, 0.8, 1])


def test_windows_stay_for_a_while_and_reach_every_place():
    rat = method(redraw_every=5)
    places = [rat.window_start(step) for step in range(200)]
    assert all(len(set(places[i : i + 5])) == 1 for i in range(0, 200, 5)) and set(places) == {0, 1, 2, 3}
    assert {method(place="late").window_start(step) for step in range(20)} == {3}


def test_images_start_with_norm_one_and_labels_stay_above_zero():
    rat = method(learn_labels=True, outer_lr=0.5)
    assert torch.allclose(rat.syn.x.flatten(1).norm(dim=1), torch.ones(4, dtype=torch.float64))
    for step in range(3):
        metrics = rat.step(step, *batch())
        assert metrics["gradient_norm"] > 0
    assert rat.syn.y.min() == 0 and (rat.syn.y != 0).any()


def test_a_run_goes_on_with_the_same_bits():
    fields = {**MINIBATCHES, "dtype": torch.float32}
    whole, first, second = (method(**fields) for _ in range(3))
    for step in range(4):
        whole.step(step, *batch(torch.float32))
        if step < 2:
            first.step(step, *batch(torch.float32))
    second.load_state_dict(first.state_dict())
    for step in (2, 3):
        second.step(step, *batch(torch.float32))
    assert torch.equal(whole.syn.x, second.syn.x) and torch.equal(whole.clip.mean, second.clip.mean)
