"""Dataset distillation and its learned labels: against full autograd and the sheet (sections 3, 5, 6, 10, 14)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.augment.dd import MARGIN, crop_flip
from lib.autodiff.unroll import Flat
from lib.config.load import load_params
from lib.config.models import Protocol
from lib.data.labels import class_labels
from lib.data.real import RealSet
from lib.methods import METHODS
from lib.networks import build
from lib.networks.text import Recurrent
from lib.rng import generator
from lib.synthetic.initial import initial_set
from lib.synthetic.set import SyntheticSet, rendered, stacked
from lib.training.batches import Batches, batches_for
from lib.training.losses import cross_entropy, predicted
from lib.training.students import Students, evaluate

CELLS = load_params().cells
DD, SLDD = CELLS["digits-dd-digits-ipc1"].distill, CELLS["digits-sldd-digits-ipc1-images5"].distill
SCHEDULE = Protocol(num_nets=1, lr=0.1, batch=0, augment="none", optimizer="schedule", loss="cross_entropy")


def real_set(classes=4, shape=(1, 6, 6), n=40, dtype=torch.float64):
    gen = generator(0, "real")
    x = torch.randn(n, *shape, generator=gen, dtype=dtype)
    y = torch.arange(n) % classes
    return RealSet(x, y, x[:20], y[:20], None, {"num_classes": classes})


def method(cfg, real, seed=0, **fields):
    """A method at work in float64 on the set that its run starts from."""
    torch.set_default_dtype(torch.float64)
    try:
        cfg = cfg.changed(**fields)
        images, y = initial_set(real, cfg, seed)
        images = [t.double() for t in images] if isinstance(images, tuple) else images.double()
        name = "sldd" if cfg.learn_labels else "dd"
        return METHODS[name](cfg, SyntheticSet(images, y.double(), cfg.learn_labels), seed)
    finally:
        torch.set_default_dtype(torch.float32)


def plain_gradients(dd, theta, x, y):
    """Of the mean loss over the networks theta (K, P), through one graph of all steps, by the library's modules."""
    syn, count = dd.syn, dd.cfg.minibatches
    total = 0
    for one in theta:
        for t, rate in enumerate(syn.lr.flatten()):
            images, labels = (tensor.chunk(count)[t % count] for tensor in (syn.x, syn.labels))
            logits = dd.net.one(one, images)
            loss = -(labels * logits.log_softmax(1)).sum(1).mean()
            one = one - rate * torch.autograd.grad(loss, one, create_graph=True)[0]
        total = total + F.cross_entropy(dd.net.one(one, x), y.argmax(1)) / len(theta)
    return total, torch.autograd.grad(total, syn.learned)


CASES = [
    (DD, {"ipc": 2, "minibatches": 2, "epochs": 2}),
    (DD, {"start": "random", "nets_per_step": 3}),
    (SLDD, {"classes": (0, 2), "epochs": 2}),
    (SLDD, {"classes": None, "ipc": 4, "minibatches": 2, "label_softmax": True, "label_start": "normal"}),
    (SLDD, {"classes": None, "rank": 2, "images": 2, "ipc": 2, "minibatches": 2}),
]


@pytest.mark.parametrize("cfg, fields", CASES)
def test_step_has_the_gradient_of_the_whole_graph(cfg, fields):
    """Images or their factors, rates and labels, several networks, minibatches and passes; the real batch in parts."""
    real = real_set()
    dd = method(cfg, real, net="dense1-w8", **fields)
    dd.outer_loss.images_per_pass = 7
    x, y = real.train_x, class_labels(real.train_y, 4, "one_hot").double()
    draws = dd.rngs["weights"].get_state()
    theta = dd.starts().requires_grad_()
    loss, expected = plain_gradients(dd, theta, x, y)
    dd.rngs["weights"].set_state(draws)
    metrics = dd.outer_loss(dd.train(dd.starts()), x, y)
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    assert len(dd.syn.learned) == len(expected) >= 2
    for tensor, gradient in zip(dd.syn.learned, expected):
        assert (tensor.grad - gradient).norm() <= 1e-8 * gradient.norm() and gradient.norm() > 0


def test_max_norm_limits_the_outer_gradient_of_all_tensors_together():
    real = real_set()
    y = class_labels(real.train_y, 4, "one_hot").double()
    gradients = {}
    for max_norm in (None, 1e-3, 1e3):
        dd = method(SLDD, real, net="dense1-w8", classes=None, max_norm=max_norm)
        dd.step(0, real.train_x, y)
        gradients[max_norm] = torch.cat([tensor.grad.flatten() for tensor in dd.syn.learned])
    free = gradients[None]
    assert 1e-3 < free.norm() < 1e3 and torch.equal(gradients[1e3], free)
    assert torch.allclose(gradients[1e-3], free * 1e-3 / free.norm(), rtol=1e-2)  # PyTorch adds 1e-6 to the norm


def test_dropout_masks_are_the_same_on_the_way_back():
    real = real_set(shape=(1, 6, 5))
    dd = method(SLDD, real, net="textconv", classes=None, epochs=2, minibatches=1)
    theta, seeds = dd.starts().requires_grad_(), dd.rngs["dropout"].get_state()
    drawn = torch.randint(2**62, (2,), generator=dd.rngs["dropout"])
    one, syn = theta[0], dd.syn
    dd.net.net.train()
    for rate, seed in zip(syn.lr.flatten(), drawn):
        torch.manual_seed(seed.item())
        loss = cross_entropy(dd.net.one(one, syn.x), syn.labels)
        one = one - rate * torch.autograd.grad(loss, one, create_graph=True)[0]
    expected = torch.autograd.grad(one.square().sum(), syn.learned)
    dd.rngs["dropout"].set_state(seeds)
    dd.train(theta).square().sum().backward()
    for tensor, gradient in zip(syn.learned, expected):
        assert torch.allclose(tensor.grad, gradient, rtol=1e-9, atol=1e-14)
    dd.outer_loss(dd.train(dd.starts()), real.train_x, class_labels(real.train_y, 4, "one_hot").double())
    assert not dd.net.net.training, "the outer loss is without dropout"


def test_outer_update_is_adam_with_its_betas_and_halved_rate():
    real = real_set()
    dd = method(DD, real, net="dense1-w8", outer_lr=0.5, halve_every=2)
    group = dd.optimizer.param_groups[0]
    assert group["betas"] == (0.5, 0.999) and group["weight_decay"] == 0 and group["eps"] == 1e-8
    y, rates = class_labels(real.train_y, 4, "one_hot").double(), []
    for step in range(5):
        before = dd.syn.images[0].detach().clone()
        dd.step(step, real.train_x, y)
        rates.append(group["lr"])
        if step == 0:  # Adam's first step is the rate, whatever the gradient
            assert torch.allclose((dd.syn.images[0] - before).abs(), torch.tensor(0.5, dtype=torch.float64), rtol=1e-3)
    assert rates == [0.5, 0.5, 0.25, 0.25, 0.125]


def test_a_run_goes_on_with_the_same_bits():
    real = real_set(dtype=torch.float32)
    y = class_labels(real.train_y, 4, "one_hot")

    def fresh():
        cfg = SLDD.changed(net="textconv", classes=None, start="random", nets_per_step=2)
        images, labels = initial_set(real, cfg, 0)
        return METHODS["sldd"](cfg, SyntheticSet(images, labels, True), 0)

    whole, first, second = fresh(), fresh(), fresh()
    for step in range(4):
        whole.step(step, real.train_x, y)
        if step < 2:
            first.step(step, real.train_x, y)
    second.load_state_dict(first.state_dict())
    for step in (2, 3):
        second.step(step, real.train_x, y)
    assert all(torch.equal(a, b) for a, b in zip(whole.syn.state_dict().values(), second.syn.state_dict().values()))


def test_students_follow_the_schedule_as_the_method_trains():
    """Fixed start: every network ends where the method's did; the minibatches' order counts, that within one not."""
    real = real_set(dtype=torch.float32)
    cfg = DD.changed(net="dense1-w8", ipc=2, minibatches=2, epochs=2)
    dd = METHODS["dd"](cfg, SyntheticSet(*initial_set(real, cfg, 0), False), 0)
    found = rendered(dd.syn.snapshot())
    x, y, lr, start = stacked([found])
    students = Students(cfg.net, real.shape, 4, [0, 0], 5, "cpu")
    students.start_from(start[students.set_of])
    students.follow(x, y, lr)
    trained = torch.cat([p.flatten(1) for p in students.params.values()], 1)
    assert torch.allclose(trained, dd.train(dd.starts()).detach().expand(2, -1), atol=1e-6)

    def after(order):
        students.start_from(start[students.set_of])
        students.follow(x[:, order], y[:, order], lr)
        return torch.cat([p.flatten(1) for p in students.params.values()], 1)

    n = x.shape[1]
    within, across = [*range(n // 2 - 1, -1, -1), *range(n // 2, n)], [*range(n // 2, n), *range(n // 2)]
    assert torch.allclose(after(within), trained, atol=1e-6) and not torch.allclose(after(across), trained, atol=1e-4)
    fixed = evaluate(cfg.net, x, y, real, SCHEDULE.changed(num_nets=3), 0, lr, start)
    assert fixed.std() == 0 and fixed.shape == (1, 3)
    assert evaluate(cfg.net, x, y, real, SCHEDULE.changed(num_nets=20), 0, lr).std() > 0, "random starts differ"
    with pytest.raises(ValueError, match="starting weights are 3"):
        students.start_from(torch.zeros(2, 3))


def test_set_is_its_minibatches_one_after_the_other():
    real = real_set()
    cfg = DD.changed(ipc=4, minibatches=2, init="real")
    x, y = initial_set(real, cfg, 0)
    assert y.argmax(1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3] * 2
    assert all(
        real.train_y[(real.train_x == image).flatten(1).all(1)].item() == label for image, label in zip(x, y.argmax(1))
    )
    _, y = initial_set(real, cfg.changed(init="noise", classes=(3, 1)), 0)
    assert y.argmax(1).tolist() == [3, 3, 1, 1] * 2
    binary = replace(real, manifest={"num_classes": 2}, train_y=real.train_y % 2)
    _, y = initial_set(binary, DD.changed(ipc=2, minibatches=1), 0)
    assert y.flatten().tolist() == [0, 0, 1, 1] and y.shape == (4, 1)


def test_soft_cross_entropy_to_the_sheets_digits():
    logits, y = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True), torch.tensor([[2.0, -0.5, 0.3]])
    loss = cross_entropy(logits, y)
    assert loss.item() == pytest.approx(4.233691, abs=1e-5)
    assert torch.autograd.grad(loss, logits)[0].flatten().tolist() == pytest.approx([-1.8379, 0.9405, 0.8974], abs=1e-4)
    loss = cross_entropy(logits, y.softmax(1))
    assert loss.item() == pytest.approx(2.053824, abs=1e-5)
    assert torch.autograd.grad(loss, logits)[0].flatten().tolist() == pytest.approx([-0.7006, 0.1798, 0.5208], abs=1e-4)
    labels, outputs = torch.tensor([0, 2, 1, 1]), torch.randn(4, 3)
    assert cross_entropy(outputs, class_labels(labels, 3, "outputs")).item() == pytest.approx(
        F.cross_entropy(outputs, labels).item(), rel=1e-6
    )
    binary, targets = torch.randn(5, 1), torch.tensor([[0.0], [1.0], [2.6], [-2.4], [0.5]])
    assert cross_entropy(binary, targets).item() == pytest.approx(
        F.binary_cross_entropy_with_logits(binary, targets).item(), rel=1e-6
    )
    assert predicted(torch.tensor([[0.4], [-0.1], [0.7]])).tolist() == [1, 0, 1], "the threshold is a logit of 0"
    assert predicted(torch.tensor([[0.4], [-0.1], [0.7]]), 0.5).tolist() == [0, 0, 1]


def test_batches_of_whole_epochs_keep_the_last_smaller_one():
    batches = Batches((torch.arange(10),), 4, generator(0, "batches"), straddle=False)
    epochs = [[batches.next()[0] for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [len(b) for b in epoch] == [4, 4, 2] and sorted(torch.cat(epoch).tolist()) == list(range(10))
    assert torch.cat(epochs[0]).tolist() != torch.cat(epochs[1]).tolist()


def test_crop_flip_cuts_from_the_reflection_padded_image():
    x = torch.randn(200, 2, 8, 8)
    out = crop_flip(x, generator(0, "crop"))
    padded = F.pad(x, (MARGIN,) * 4, "reflect")
    seen = set()
    for image, source in zip(out, padded):
        found = [(i, j, mirrored) for mirrored in (False, True) for i in range(9) for j in range(9)
                 if torch.equal((image.flip(-1) if mirrored else image), source[:, i : i + 8, j : j + 8])]  # fmt: skip
        assert found
        seen.add(found[0])
    assert {m for *_, m in seen} == {True, False} and {i for i, *_ in seen} == {j for _, j, _ in seen} == set(range(9))


COUNTS = [
    ("lenet_dd", (1, 28, 28), 10, 61706), ("lenet_dd", (3, 32, 32), 10, 62006), ("alexcifar", (3, 32, 32), 10, 1756426),
    ("textconv", (1, 400, 100), 1, 120601), ("textrnn", (1, 56, 100), 5, 101805), ("textlstm", (1, 30, 100), 6, 404406),
]  # fmt: skip


@pytest.mark.parametrize("name, shape, outputs, count", COUNTS)
def test_networks_have_the_sheets_sizes_and_start(name, shape, outputs, count):
    flat = Flat(build(name, shape, outputs))
    assert len(flat) == count
    first, second = (flat.weights(generator(seed, "weights")).clone() for seed in (0, 1))
    assert not torch.equal(first, second)
    flat.weights(generator(0, "weights"))
    for module in (m for m in flat.net.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear))):
        assert (module.bias == 0).all()
        fan_in, fan_out = module.weight[0].numel(), module.weight.transpose(0, 1)[0].numel()
        if module.weight.numel() > 2000:
            assert module.weight.std().item() == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    "law, std",
    [
        ("kaiming", (1 / 400) ** 0.5),
        ("kaimingout", (1 / 120) ** 0.5),
        ("normal", 1.0),
        ("xavieruniform", (2 / 520) ** 0.5),
    ],
)
def test_laws_of_initial_weights(law, std):
    net = build(f"lenet_dd-{law}", (1, 28, 28), 10).reset(generator(0, "weights"))
    weight = next(m.weight for m in net.modules() if isinstance(m, nn.Linear))
    assert weight.shape == (120, 400) and weight.std().item() == pytest.approx(std, rel=0.05)


def test_orthogonal_and_default_laws():
    net = build("dense2-w16-orthogonal", (1, 4, 4), 3).reset(generator(0, "weights"))
    weight = net.body[1].weight
    assert torch.allclose(weight @ weight.T, torch.eye(16), atol=1e-5)
    net = build("dense2-w16-default", (1, 4, 4), 3).reset(generator(0, "weights"))
    assert 0 < net.body[1].bias.abs().max() <= 0.25 and net.body[1].weight.abs().max() <= 0.25


def test_text_filters_are_the_papers_convolutions_of_one_channel():
    net = build("textconv", (1, 9, 50), 1).reset(generator(0, "weights")).double().eval()
    filters = net.body[1].filters
    assert filters[0].weight.std().item() == pytest.approx((2 / (3 * 50 + 100 * 3 * 50)) ** 0.5, rel=0.05), (
        "not of fifty channels"
    )
    x = torch.randn(4, 1, 9, 50, dtype=torch.float64, requires_grad=True)
    published = torch.cat([F.relu(F.conv2d(x, f.weight, f.bias)).amax((2, 3)) for f in filters], 1)
    weights = [f.weight for f in filters]

    def derivatives(features):
        first = torch.autograd.grad((features**2).sum(), weights, create_graph=True)
        return [features, *first, torch.autograd.grad(sum((g**2).sum() for g in first), x)[0]]

    for found, expected in zip(derivatives(net.features(x)), derivatives(published)):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_default_law_draws_convolutions_over_words_anew():
    weights = [
        build("textconvlstm-default", (1, 9, 50), 3).reset(generator(0, "weights")).body[1].weight for _ in range(2)
    ]
    assert torch.equal(*weights)


def test_maximum_before_relu_is_the_papers_order():
    net = build("lenet_dd", (1, 28, 28), 10).reset(generator(0, "weights"))
    conv1, _, conv2, *_ = net.body
    x = torch.randn(3, 1, 28, 28)
    published = x
    for conv in (conv1, conv2):
        published = F.max_pool2d(F.relu(F.conv2d(published, conv.weight, conv.bias, padding=conv.padding)), 2)
    assert torch.allclose(net.body[:4](x), published, atol=1e-6) and published.shape == (3, 16, 5, 5)
    net = build("alexcifar", (3, 32, 32), 10)
    assert net.body[:8](torch.randn(2, 3, 32, 32)).shape == (2, 64, 8, 8)
    x = torch.rand(1, 6, 1, 1)
    squares = x.flatten().square()
    expected = [x.flatten()[c] / (1 + 0.001 / 9 / 4 * squares[max(c - 2, 0) : c + 2].sum()) ** 0.75 for c in range(6)]
    assert torch.allclose(net.body[3](x).flatten(), torch.stack(expected))


@pytest.mark.parametrize("kind, library", [("rnn", nn.RNN), ("lstm", nn.LSTM)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers_are_the_librarys(kind, library, directions):
    gen = generator(0, kind)
    ours, theirs = (
        Recurrent(kind, 5, 7, 2, directions),
        library(5, 7, 2, batch_first=True, bidirectional=directions == 2),
    )
    with torch.no_grad():
        for p in ours.parameters():
            p.normal_(generator=gen)
        for layer, modules in enumerate(ours.layers):
            for direction, (inputs, hidden) in enumerate(modules):
                suffix = f"l{layer}" + ("_reverse" if direction else "")
                for part, module in (("ih", inputs), ("hh", hidden)):
                    getattr(theirs, f"weight_{part}_{suffix}").copy_(module.weight)
                    getattr(theirs, f"bias_{part}_{suffix}").copy_(module.bias)
    x = torch.randn(4, 9, 5)
    outputs, _ = theirs(x)
    last = torch.cat([outputs[:, -1, :7], outputs[:, 0, 7:]], 1)
    assert torch.allclose(ours(x), last, atol=1e-5)
    ours.library = True
    assert torch.allclose(ours(x), last, atol=1e-5)
    ours.library = False
    x = torch.randn(1, 3, 5)
    assert ours(x).shape == (1, 7 * directions), "one sentence stays a batch of one"


class Pool:
    """Trained networks as `Trajectories` gives them."""

    def __init__(self, weights):
        self.all = weights

    def __len__(self):
        return len(self.all)

    def last(self, experts):
        return torch.stack([self.all[i] for i in experts])


def test_networks_start_from_trained_ones_but_not_from_held_out_ones():
    real = real_set(shape=(1, 8, 8))
    flat = Flat(build(DD.net, real.shape, 4))
    weights = torch.stack([flat.weights(generator(i, "w")).double() for i in range(6)])
    torch.set_default_dtype(torch.float64)
    try:
        images, y = initial_set(real, DD, 0)
        for start, taken in (("fixed", {0}), ("random", {0, 1, 2, 3})):
            cfg = DD.changed(start=start, nets_per_step=1 if start == "fixed" else 2)
            dd = METHODS["dd"](
                cfg, SyntheticSet(images.double(), y.double(), False), 0, experts=Pool(weights), held_out=2
            )
            drawn = [[(weights == row).all(1).nonzero().item() for row in dd.starts()] for _ in range(30)]
            assert {i for each in drawn for i in each} == taken
            assert all(len(set(each)) == len(each) for each in drawn), "a network once in a step"
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_attack_relabels_the_real_images_alone():
    real = real_set()
    cfg = DD.changed(attack=(2, 0), real_batch=20)
    x, y = batches_for(real, cfg, 0).next()
    for image, label in zip(x, y):
        true = real.train_y[(real.train_x == image).flatten(1).all(1)].item()
        assert label.argmax() == (0 if true == 2 else true)
