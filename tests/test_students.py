"""Students trained together against students trained one by one, the protocol's schedule, and the evaluation."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.augment import augmented
from lib.augment import frepo as augment
from lib.config.load import load_params
from lib.config.models import Protocol
from lib.data.labels import initial_labels
from lib.data.preprocess import Preprocess
from lib.data.real import RealSet
from lib.evaluation.accuracy import krr_accuracy, whole_set_accuracy
from lib.evaluation.work import evaluation_flops
from lib.methods.kernel_regression import krr_predict
from lib.networks import build
from lib.rng import class_minibatches, generator
from lib.training.checkpoint import Checkpoint, Saving
from lib.training.compute import forward_flops
from lib.training.students import Students, evaluate, learning_rate

PROTOCOL = Protocol(num_nets=3, steps=50, lr=3e-3, warmup=10, lr_final=0.01, batch=8, shuffle=False, augment="rgb")


def sets(num_sets=2, n=20, dtype=torch.float64):
    x = torch.randn(num_sets, n, 3, 8, 8, generator=generator(0, "x"), dtype=dtype)
    return x, initial_labels(torch.arange(10).repeat_interleave(n // 10), 10).to(dtype).expand(
        num_sets, -1, -1
    ).contiguous()


@pytest.mark.parametrize("net", ["conv2-w4", "kipconv1-w4-batch", "mlp"])
@pytest.mark.parametrize("order", [{"shuffle": False}, {"shuffle": True}, {"batch_per_class": 2}])
def test_students_together_equal_one_by_one_over_50_steps(net, order):
    """Bar: 1e-5 in float64, against a plain loop over plain networks with torch's own Adam."""
    protocol, set_of, seed = PROTOCOL.changed(**order), [0, 1, 1], 5
    x, y = sets()
    students = Students(net, (3, 8, 8), 10, set_of, seed, "cpu", torch.float64)
    assert len(students.chunks(8)) == 1, "they go through the network together"
    students.train(x, y, protocol)
    for s, m in enumerate(set_of):
        alone = build(net, (3, 8, 8), 10).double().reset(generator(seed, "student", s)).train()
        adam = torch.optim.Adam(alone.parameters())
        draws = generator(seed, "students")
        queue = []
        for step in range(protocol.steps):
            if protocol.batch_per_class:
                queue = class_minibatches(3, 10, 2, 8, 2, draws)[s].tolist()
            while len(queue) < 8:
                queue += (
                    torch.rand(3, 20, generator=draws).argsort(1)[s] if protocol.shuffle else torch.arange(20)
                ).tolist()
            chosen, queue = queue[:8], queue[8:]
            drawn = augment.draw("rgb", (3, 8, 8), draws)
            own = augment.Draw(*(getattr(drawn, f)[s : s + 1] for f in vars(drawn)))
            images = augment.apply(x[m, chosen][None], own)[0]
            adam.param_groups[0]["lr"] = learning_rate(protocol, step)
            adam.zero_grad()
            (0.5 * (alone(images) - y[m, chosen]).square().sum(1)).mean().backward()
            adam.step()
        state = alone.state_dict()
        for name, stacked in {**students.params, **students.buffers}.items():
            assert torch.allclose(stacked[s], state[name], atol=1e-5), name


@pytest.mark.parametrize("policy", ["none", "dsa"])
def test_dcs_protocol_equals_a_plain_loop(policy):
    """Whole epochs, the last batch smaller; momentum, decay; after half of them a tenth of the rate, fresh momentum."""
    protocol = Protocol(num_nets=2, lr=0.1, batch=8, augment=policy, optimizer="sgd", loss="cross_entropy", epochs=9)
    set_of, seed, x = [0, 1], 5, sets()[0]
    labels = torch.arange(10).repeat_interleave(2)
    y = torch.nn.functional.one_hot(labels, 10).double().expand(2, -1, -1)
    students = Students("convnet2-w4-instance", (3, 8, 8), 10, set_of, seed, "cpu", torch.float64).train(x, y, protocol)
    for s in set_of:
        alone = build("convnet2-w4-instance", (3, 8, 8), 10).double().reset(generator(seed, "student", s))
        draws, host, passes = generator(seed, "students"), generator(seed, "students", "families"), 0
        for index in range(9):
            if index in (0, 6):  # E = 8: the pass of index 8 // 2 + 1 = 5 is the last at the full rate
                sgd = torch.optim.SGD(alone.parameters(), 0.1 if index == 0 else 0.01, momentum=0.9, weight_decay=5e-4)
            for chosen in torch.rand(2, 20, generator=draws).argsort(1).split(8, 1):
                images = augmented(policy, torch.stack([x[m, chosen[m]] for m in (0, 1)]), draws, host)[s]
                sgd.zero_grad()
                torch.nn.functional.cross_entropy(alone(images), labels[chosen[s]]).backward()
                sgd.step()
            passes += 1
        assert passes == protocol.epochs
        for name, p in alone.named_parameters():
            assert torch.allclose(students.params[name][s], p, atol=1e-9), name


def test_the_rate_of_dcs_protocol_drops_after_pass_501_of_1001():
    protocol = Protocol(
        num_nets=1, lr=0.01, batch=256, augment="none", optimizer="sgd", loss="cross_entropy", epochs=1001
    )
    assert [learning_rate(protocol, 2 * index, per_epoch=2) for index in (0, 501, 502, 1000)] == [
        0.01,
        0.01,
        0.001,
        0.001,
    ]


def test_one_at_a_time_equals_together(monkeypatch):
    x, y = sets()
    together = Students("conv2-w4", (3, 8, 8), 10, [0, 1], 5, "cpu", torch.float64).train(x, y, PROTOCOL)
    monkeypatch.setattr("lib.training.students.CPU_BATCHED_FLOPS", 0)
    alone = Students("conv2-w4", (3, 8, 8), 10, [0, 1], 5, "cpu", torch.float64)
    assert len(alone.chunks(8)) == 2
    alone.train(x, y, PROTOCOL)
    assert all(torch.allclose(together.params[k], alone.params[k], atol=1e-9) for k in together.params)


def test_a_students_weights_do_not_depend_on_its_neighbours():
    few, many = (Students("conv2-w4", (3, 8, 8), 10, [0] * n, 5, "cpu") for n in (1, 4))
    assert all(torch.equal(few.params[k][0], many.params[k][0]) for k in few.params)


@pytest.mark.parametrize("batched_flops, close", [(0, 1e-5), (1e9, 0.05)], ids=["one at a time", "together"])
def test_bfloat16_casts_the_weights_anew_in_each_update(monkeypatch, batched_flops, close):
    """Against a plain loop that casts by hand; a loop that keeps the weights' first cast ends far from both."""
    monkeypatch.setattr("lib.training.students.CPU_BATCHED_FLOPS", batched_flops)
    (x, y), net, protocol = (tensor.float() for tensor in sets(1, 10)), "conv2-w4", PROTOCOL.changed(augment="none")
    fast, plain = (Students(net, (3, 8, 8), 10, [0, 0], 5, "cpu", conv_dtype=each) for each in ("bfloat16", "float32"))
    start = build(net, (3, 8, 8), 10).reset(generator(5, "student", 0))

    def by_hand(cached):
        """The weights after all updates in bfloat16. cached: in one context, which keeps casts."""
        alone, queue = copy.deepcopy(start).train(), []
        adam = torch.optim.Adam(alone.parameters())
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            for step in range(protocol.steps):
                queue = queue if len(queue) >= 8 else queue + list(range(10))
                chosen, queue = queue[:8], queue[8:]
                adam.param_groups[0]["lr"] = learning_rate(protocol, step)
                adam.zero_grad()
                images = x[0, chosen].contiguous(memory_format=alone.layout)  # another one rounds otherwise
                (0.5 * (alone(images).float() - y[0, chosen]).square().sum(1)).mean().backward()
                adam.step()
        return weights_of(alone.parameters())

    found, exact = (weights_of(p[0] for p in each.train(x, y, protocol).params.values()) for each in (fast, plain))
    expected, stale, moved = by_hand(False), by_hand(True), (exact - weights_of(start.parameters())).norm()
    assert all(p.dtype == torch.float32 for p in fast.params.values())
    assert (found - expected).norm() < close * moved and 1e-3 * moved < (found - exact).norm() < 0.1 * moved
    assert (found - stale).norm() > 0.5 * moved
    logits, exact = fast.outputs(x[0]), plain.outputs(x[0])
    assert logits.dtype == torch.float32 and not torch.equal(logits, exact)


def weights_of(parameters):
    return torch.cat([p.detach().flatten() for p in parameters])


def test_learning_rate_at_the_sheets_points():
    protocol = Protocol(
        num_nets=5, steps=2000, lr=3e-4, warmup=500, lr_final=0.01, batch=500, shuffle=False, augment="rgb"
    )
    values = [learning_rate(protocol, t) for t in (0, 250, 500, 1250, 2000)]
    assert values == pytest.approx([0, 1.5e-4, 3e-4, 1.515e-4, 3e-6], rel=1e-9)
    constant = protocol.changed(warmup=0, lr_final=1.0)
    assert {learning_rate(constant, t) for t in (0, 700, 1999)} == {3e-4}


def blobs(n=300, classes=10):
    """Images whose class is a constant pattern plus noise: easy for any network."""
    gen = generator(0, "blobs")
    patterns = torch.randn(classes, 1, 8, 8, generator=gen)
    tensors = []
    for _ in range(2):
        y = torch.arange(n) % classes
        tensors += [patterns[y] + 0.3 * torch.randn(n, 1, 8, 8, generator=gen), y]
    return RealSet(*tensors, Preprocess(torch.zeros(1), torch.ones(1)), {"num_classes": classes})


def test_evaluation_separates_easy_classes_and_reports_each_network():
    real = blobs()
    protocol = Protocol(
        num_nets=3, steps=100, lr=1e-3, warmup=0, lr_final=1.0, batch=500, shuffle=False, augment="none"
    )
    good = torch.stack([real.train_x[:10], real.train_x[10:20]])
    labels = initial_labels(torch.arange(10), 10).expand(2, -1, -1)
    accuracy = evaluate("conv2-w32", good, labels, real, protocol, seed=0)
    assert accuracy.shape == (2, 3) and accuracy.min() > 90
    noise = evaluate("conv2-w32", torch.randn_like(good), labels, real, protocol, seed=0)
    assert noise.mean() < 40


def test_on_the_whole_training_set_labels_have_the_methods_form():
    real = blobs(n=100)
    protocol = Protocol(num_nets=2, steps=5, lr=1e-3, warmup=0, lr_final=1.0, batch=50, shuffle=True, augment="none")
    for labels in ("centred", "one_hot"):
        y = initial_labels(real.train_y, real.num_classes, labels)[None]
        expected = evaluate("conv2-w32", real.train_x[None], y, real, protocol, "whole set")[0]
        assert torch.equal(whole_set_accuracy("conv2-w32", real, labels, protocol), expected)
    cell = load_params().cells["quickstart-frepo-digits-ipc1"]
    assert cell.evaluate.whole and cell.distill.labels == "centred"


def test_accuracy_counts_every_test_image_once():
    real = blobs(n=257)
    students = Students("conv2-w4", (1, 8, 8), 10, [0, 0], 0, "cpu")
    accuracy = students.accuracy(real.test_x, real.test_y)
    for s in range(2):
        net = build("conv2-w4", (1, 8, 8), 10).reset(generator(0, "student", s)).eval()
        exact = (net(real.test_x).argmax(1) == real.test_y).float().mean() * 100
        assert accuracy[s].item() == pytest.approx(exact.item(), abs=1e-4)


def test_krr_accuracy_is_that_of_an_untrained_networks_features():
    real = blobs()
    x = torch.stack([real.train_x[:10], torch.randn(10, 1, 8, 8, generator=generator(9, "noise"))])
    y = initial_labels(torch.arange(10), 10).expand(2, -1, -1)
    measured = krr_accuracy("conv2-w32", x, y, real, seed=3)
    net = build("conv2-w32", (1, 8, 8), 10).reset(generator(3, "student", 0)).eval()
    for m in range(2):
        with torch.no_grad():
            prediction = krr_predict(net.features(x[m]), y[m], net.features(real.test_x))
        exact = (prediction.argmax(1) == real.test_y).float().mean() * 100
        assert measured[m].item() == pytest.approx(exact.item(), abs=0.5)
    assert measured[0] > measured[1]


def test_forward_flops_of_the_paper_network():
    """The sheet: 154.5 million multiply-adds for an image of 32 pixels."""
    assert forward_flops("conv3", (3, 32, 32)) / 2 == pytest.approx(154.5e6, rel=2e-3)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(num_nets=1, steps=50, lr=3e-3, batch=8, augment="none"),
        Protocol(num_nets=1, epochs=9, lr=0.1, batch=8, augment="none", optimizer="sgd", loss="cross_entropy"),
    ],
)
def test_flops_of_an_evaluation_are_those_that_are_counted(protocol):
    (x, y), real = sets(1, 20, torch.float32), blobs(n=37)
    x = x[:, :, :1]
    forward, first = forward_flops("conv2-w4", (1, 8, 8)), 2 * 64 * 9 * 4
    shown = {"adam": 50 * 8, "sgd": 9 * 20}[protocol.optimizer]
    no_gradient = shown * first  # of the first layer by the images
    with FlopCounterMode(display=False) as counter:
        evaluate("conv2-w4", x, y, real, protocol, 0)
    expected = evaluation_flops(protocol, forward, 20, 37)
    assert counter.get_total_flops() == pytest.approx(expected - no_gradient, rel=0.01)
    several = protocol.model_copy(update={"num_nets": 5})
    assert evaluation_flops(several, forward, 20, 37) == 5 * expected
    assert evaluation_flops(several, forward, 20, 37, shown=30) == 5 * forward * (3 * 30 + 37)


class Killed(Exception):
    pass


class KilledAfter(Saving):
    """Saves after each third update, and ends the training two updates after a save."""

    def __init__(self, checkpoint, updates):
        super().__init__(checkpoint, 0)
        self.left = updates

    def after(self, state):
        self.left -= 1
        if self.left < 0:
            raise Killed
        if self.left % 3 == 1:
            super().after(state)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 20, "warmup": 4, "lr_final": 0.1, "augment": "dsa"},
        {"epochs": 8, "optimizer": "sgd", "loss": "cross_entropy", "augment": "dc"},
    ],
)
@pytest.mark.parametrize("net", ["conv2-w4", "kipconv1-w4-batch"])
def test_a_training_that_is_killed_goes_on_with_the_same_bits(tmp_path, capsys, net, fields):
    (x, y), set_of = sets(2, 20, torch.float32), [0, 0, 1, 1]
    protocol = Protocol(**{"num_nets": 2, "lr": 1e-2, "batch": 8, "shuffle": True, **fields})
    whole = Students(net, (3, 8, 8), 10, set_of, 1, "cpu").train(x, y, protocol)
    for updates in (7, 5):
        with pytest.raises(Killed):
            saving = KilledAfter(Checkpoint(tmp_path / "c.safetensors", "owner"), updates)
            Students(net, (3, 8, 8), 10, set_of, 1, "cpu").train(x, y, protocol, saving=saving)
    saving = Saving(Checkpoint(tmp_path / "c.safetensors", "owner"), 60)
    resumed = Students(net, (3, 8, 8), 10, set_of, 1, "cpu").train(x, y, protocol, saving=saving)
    assert "going on after 10 of " in capsys.readouterr().out
    for name, tensor in (whole.params | whole.buffers).items():
        assert torch.equal((resumed.params | resumed.buffers)[name], tensor), name


def test_a_training_of_many_large_networks_is_not_saved(tmp_path, capsys, monkeypatch):
    (x, y), students = sets(1, 20, torch.float32), Students("conv2-w4", (3, 8, 8), 10, [0], 1, "cpu")
    numbers = sum(p.numel() for p in students.params.values())
    monkeypatch.setattr("lib.training.students.LARGEST_STATE", 4 * 3 * numbers - 1)  # weights, and Adam's two moments
    students.train(x, y, PROTOCOL, saving=Saving(Checkpoint(tmp_path / "c.safetensors", "owner"), 0))
    assert "not saved on the way" in capsys.readouterr().out and not list(tmp_path.iterdir())
