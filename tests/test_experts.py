"""Experts: training against plain loops, files, what cells take of them (sheets of MTT, 2, 11; of EDF, 4, 5.1, 11)."""

from threading import Event

import pytest
import torch
import torch.nn.functional as F

from lib.config.load import load_params
from lib.config.models import Experts
from lib.config.settings import Settings
from lib.data.real import RealSet
from lib.files import FileError
from lib.networks import build
from lib.rng import generator
from lib.training.checkpoint import Checkpoint
from lib.training.ends import Stopped
from lib.training.experts import Group, epochs_kept, gsam, labelled_images, train
from lib.training.trajectories import Segments, Trajectories, expert_name, network_with, save_expert, save_index
from stages.checkpoints import Workplace

CFG = Experts(
    dataset="d",
    preprocessing="d",
    net="dense1-w8",
    count=3,
    epochs=3,
    keep=1,
    optimizer="sgd",
    lr=0.1,
    batch=16,
    augment="none",
    together=2,
)
RECIPE, NAMES = Settings(key="row", experts=Settings(**CFG.model_dump())), [expert_name(0), expert_name(1)]


@pytest.fixture(scope="module")
def real():
    """Three classes of 4x4 images, apart from each other."""
    gen = torch.Generator().manual_seed(0)
    y = torch.arange(150) % 3
    x = 1.5 * F.one_hot(y, 16).float().view(-1, 1, 4, 4) + 0.5 * torch.randn(150, 1, 4, 4, generator=gen)
    return RealSet(x[:100], y[:100], x[100:], y[100:], None, {"num_classes": 3})


def plainly(cfg, real, expert, group):
    """One expert of a group by PyTorch's own optimisers, on the group's own orders -> its weights after each epoch."""
    net = build(cfg.net, real.shape, 3)
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(group.weights()[expert], net.parameters())
    kind = torch.optim.Adam if cfg.optimizer == "adam" else torch.optim.SGD
    optimizer = kind(net.parameters(), cfg.lr, **({"betas": (0.5, 0.999)} if cfg.optimizer == "adam" else {}))
    gen, found = generator(f"experts {cfg.seed} 0", "order"), []
    for epoch in range(cfg.epochs):
        order = torch.rand(len(group.students), len(real.train_y), generator=gen).argsort(1)[expert]
        optimizer.param_groups[0]["lr"] = cfg.lr * 0.5 ** (epoch // cfg.halve_every if cfg.halve_every else 0)
        for chosen in order.split(cfg.batch):
            optimizer.zero_grad()
            F.cross_entropy(net(real.train_x[chosen]), real.train_y[chosen]).backward()
            optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    return found


@pytest.mark.parametrize(
    "fields", [{}, {"optimizer": "adam", "lr": 0.01, "halve_every": 2}, {"net": "convnet1-w4-instance"}]
)
def test_a_group_trains_each_expert_as_if_alone(real, fields):
    cfg = CFG.changed(**fields)
    group = Group(cfg, 0, 2, real)
    wanted = [plainly(cfg, real, expert, group) for expert in range(2)]
    for epoch in range(cfg.epochs):
        _, test = group.epoch()
        for expert in range(2):
            assert torch.allclose(group.weights()[expert], wanted[expert][epoch], atol=1e-5)
    assert not torch.allclose(wanted[0][-1], wanted[1][-1], atol=1e-2), "each its own weights and order"
    assert min(test) > 100 / 3


def test_gsam_takes_the_sheets_step():
    w = [torch.tensor([[1.0, 2.0]], dtype=torch.float64)]

    def slope(at):  # of (w1^2 + 3 w2^2) / 2
        return [at[0] * torch.tensor([1.0, 3.0], dtype=torch.float64)]

    (direction,) = gsam(w, slope(w), slope, rho=0.01, alpha=0.3)
    assert torch.allclose(direction, torch.tensor([[0.998189, 6.060229]], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(w[0] - 0.01 * direction, torch.tensor([[0.990018, 1.939398]], dtype=torch.float64), atol=1e-6)
    (plain,) = gsam(w, slope(w), slope, rho=1e-14, alpha=0.3)
    assert torch.allclose(plain, slope(w)[0], atol=1e-10), "without a push it is gradient descent"
    both = [torch.tensor([[1.0, 2.0], [0.5, -3.0]], dtype=torch.float64)]
    assert torch.allclose(gsam(both, slope(both), slope, 0.01, 0.3)[0][0], direction[0]), "each network for itself"


def test_gsam_trains(real):
    group = Group(CFG.changed(optimizer="gsam", rho=0.05), 0, 2, real)
    before = group.weights().clone()
    for _ in range(3):
        _, test = group.epoch()
    assert min(test) > 60 and not torch.allclose(before, group.weights())


def trained(cfg, real, folder, first=0, **kwargs):
    group = Group(cfg, first, 2, real)
    checkpoint = Checkpoint(folder / "checkpoint", "x")
    return train("x", group, checkpoint, lambda *a: None, kwargs.get("minutes", 5.0), kwargs.get("stop", Event()))


def test_snapshots_are_of_their_epochs_and_a_stopped_group_goes_on(real, tmp_path):
    snapshots, curves = trained(CFG, real, tmp_path)
    assert len(snapshots) == len(epochs_kept(CFG)) == 3 and epochs_kept(CFG) == [0, 1, 3]
    assert not torch.equal(snapshots[0], snapshots[1]), "snapshots are copies"
    assert [len(curve) for curve in curves.values()] == [3, 3]
    stop = Event()
    stop.set()
    for _ in range(CFG.epochs):
        with pytest.raises(Stopped):
            trained(CFG, real, tmp_path, stop=stop)
    again, found = trained(CFG, real, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(snapshots, again)) and found == curves


MADE = {"device": "CPU", "commit": "abc", "torch": "2", "date": "today"}


@pytest.fixture
def work(real, tmp_path, monkeypatch):
    """The workplace of a row of which two experts are finished."""
    monkeypatch.setattr("stages.checkpoints.CHECKPOINTS", tmp_path / "checkpoints")
    (tmp_path / "data").write_text("some")
    work, (snapshots, curves) = Workplace(RECIPE, [tmp_path / "data"]), trained(CFG, real, tmp_path)
    for i, name in enumerate(NAMES):
        path = save_expert(work.done, i, torch.stack([s[i] for s in snapshots]))
        record = {split: [percents[i] for percents in curve] for split, curve in curves.items()}
        work.finish(name, record | MADE, [path])
    return work


@pytest.fixture
def folder(work, tmp_path):
    """Two experts on disk."""
    out, meta = tmp_path / "out", {"net": CFG.net, "shape": [1, 4, 4], "num_classes": 3, "epochs": epochs_kept(CFG)}
    save_index(out, work.deliver(NAMES, out), identity=work.identity, **meta)
    return out


def test_files_give_back_what_was_trained_and_refuse_what_was_not(real, folder, tmp_path):
    snapshots, _ = trained(CFG, real, tmp_path / "again")
    experts = Trajectories(folder)
    assert len(experts) == 2
    for row, epoch in enumerate(epochs_kept(CFG)):
        assert torch.equal(experts.weights(1, epoch), snapshots[row][1])
    assert torch.equal(experts.last([1, 0])[0], snapshots[-1][1])
    net = network_with(experts.index, experts.weights(0, -1))
    assert (net(real.test_x).argmax(1) == real.test_y).float().mean() > 0.6
    path = folder / "expert0001.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(FileError, match="expert0001.*train it again"):
        Trajectories(folder).weights(1, 0)


def test_experts_stay_while_what_made_them_does(work, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    (work.done / "stray").write_text("")
    again = Workplace(RECIPE, [data])
    assert len(again.deliver(NAMES, out)) == 2 and {path.stem for path in out.iterdir()} == {*NAMES}
    assert not again.finished(expert_name(2)), "one more is asked for"
    others = [Workplace(RECIPE.changed(experts=RECIPE.experts.changed(lr=0.2)), [data])]
    data.write_text("other")
    others.append(Workplace(RECIPE, [data]))
    assert not any(other.finished(name) for other in others for name in NAMES), "other settings, other data"
    (work.done / f"{NAMES[0]}.safetensors").write_bytes(b"damaged")
    assert not again.finished(NAMES[0]) and again.finished(NAMES[1])


def test_segments_take_every_expert_and_stay_below_the_bound(folder):
    cfg = (
        load_params()
        .cells["digits-mtt-digits-ipc1"]
        .distill.changed(
            expert_epochs=1,
            max_start=1,
            max_start_first=0,
            expand_steps=0,
        )
    )
    experts = Trajectories(folder)
    segments = Segments(experts, cfg, generator(0, "s"))
    for _ in range(4):
        pairs = [segments.next() for _ in range(2)]
        assert {start[0].item() for start, _ in pairs} == {experts.weights(i, 0)[0].item() for i in range(2)}, (
            "every expert once"
        )
        assert all(any(torch.equal(end, experts.weights(i, 1)) for i in range(2)) for _, end in pairs)
    saved = segments.state_dict()
    first = [segments.next() for _ in range(3)]
    other = Segments(experts, cfg, generator(9, "s"))
    other.load_state_dict(saved)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, [other.next() for _ in range(3)]))


def test_the_bound_grows_as_the_sheet_says():
    cfg = (
        load_params()
        .cells["digits-mtt-digits-ipc1"]
        .distill.changed(
            max_start_first=5,
            max_start=10,
            expand_steps=1000,
        )
    )
    segments = Segments(None, cfg, generator(0, "s"))
    for drawn, bound in ((0, 5), (199, 5), (200, 6), (500, 7), (999, 9), (1000, 10), (5000, 10)):
        segments.drawn = drawn
        assert segments.upper() == bound
    segments.cfg, segments.drawn = cfg.changed(expand_steps=0), 0
    assert segments.upper() == 10


def test_images_that_experts_agree_on_and_their_logits(real, folder):
    experts = Trajectories(folder)
    nets = [network_with(experts.index, experts.weights(i, -1)) for i in range(2)]
    x, y = labelled_images(real, CFG.net, experts, 4, generator(0, "init"), agreed=True)
    assert y.argmax(1).tolist() == [0] * 4 + [1] * 4 + [2] * 4, "class-major, and every label is of its class"
    for image, label, wanted in zip(x, y, [0] * 4 + [1] * 4 + [2] * 4):
        logits = [net(image[None])[0] for net in nets]
        own = [each for each in logits if each.argmax() == wanted]
        assert torch.allclose(label, torch.stack(own).mean(0), atol=1e-5)
    x, y = labelled_images(real, CFG.net, experts, 2, generator(0, "init"), agreed=False)
    assert torch.allclose(y, nets[0](x), atol=1e-5)
    with pytest.raises(FileError, match="right, 40 are asked for"):
        labelled_images(real, CFG.net, experts, 40, generator(0, "init"), agreed=True)
