"""Class-incremental learning: class orders, memories, accuracies after each step, and what is derived from them."""

import pytest
import torch

from lib.config.load import load_params
from lib.config.models import Protocol
from lib.data.preprocess import Preprocess
from lib.data.real import RealSet, class_groups, part_of
from lib.evaluation.continual import accuracies, curve, forgetting, herd, herded_memory
from lib.rng import generator
from lib.synthetic.initial import initial_set, real_subsets
from lib.training.students import Students, evaluate

PROTOCOL = Protocol(num_nets=2, steps=60, lr=3e-3, warmup=0, lr_final=1.0, batch=64, shuffle=True, augment="none")
CFG = load_params().cells["digits-frepo-digits-ipc1-steps5"].distill.changed(class_steps=2, seeds=(0, 1))


def patterns(n=240, classes=6, noise=0.5):
    gen = generator(0, "patterns")
    shapes = torch.randn(classes, 1, 8, 8, generator=gen)
    tensors = []
    for _ in range(2):
        y = torch.arange(n) % classes
        tensors += [shapes[y] + noise * torch.randn(n, 1, 8, 8, generator=gen), y]
    return RealSet(*tensors, Preprocess(torch.zeros(1), torch.ones(1)), {"num_classes": classes})


@pytest.mark.parametrize(
    "seed, first",
    [
        (0, [26, 86, 2, 55, 75, 93, 16, 73, 54, 95]),
        (1, [80, 84, 33, 81, 93, 17, 36, 82, 69, 65]),
        (2, [83, 30, 56, 24, 16, 23, 2, 27, 28, 13]),
        (3, [93, 67, 6, 64, 96, 83, 98, 42, 25, 15]),
        (4, [20, 10, 96, 16, 63, 24, 53, 97, 41, 47]),
    ],
)
def test_class_orders_of_the_sheets(seed, first):
    groups = class_groups(100, 10, seed)
    assert groups[0] == first and sorted(c for group in groups for c in group) == list(range(100))
    assert sum(class_groups(100, 5, seed)[:1], []) == groups[0] + groups[1]


def test_the_last_classes_of_order_four():
    assert class_groups(100, 5, 4)[-1][-5:] == [87, 1, 69, 55, 46]


def test_a_step_sees_its_classes_alone_and_a_chunk_its_images():
    real = patterns()
    for seed in (0, 1):
        seen = []
        for step, group in enumerate(class_groups(6, 2, seed)):
            part = part_of(real, CFG, seed, step)
            assert set(part.train_y.tolist()) == set(part.test_y.tolist()) == set(group) and part.classes == group
            assert (
                torch.equal(part.train_x, real.train_x[torch.isin(real.train_y, torch.tensor(group))])
                and part.num_classes == 6
            )
            x, y = initial_set(part, CFG.changed(ipc=3), seed)
            assert y.argmax(1).tolist() == [c for c in group for _ in range(3)] and y.shape == (9, 6)
            seen += group
        assert sorted(seen) == list(range(6))
    chunked = CFG.changed(class_steps=1, chunk=50)
    assert (
        torch.equal(part_of(real, chunked, 3).train_x, real.train_x[150:200])
        and len(part_of(real, chunked, 3).test_y) == 240
    )


def test_the_starts_of_all_steps_are_the_cells_start():
    real = patterns()
    x, y = real_subsets(real, CFG.changed(ipc=2), 1)
    assert y.argmax(1).tolist() == [c for group in class_groups(6, 2, 1) for c in group for _ in range(2)]
    whole = real_subsets(real, CFG.changed(class_steps=1), 1)
    assert all(torch.equal(a, b) for a, b in zip(whole, initial_set(real, CFG, 1)))


def test_herding_follows_the_mean_greedily():
    phi = torch.nn.functional.normalize(torch.randn(30, 5, generator=generator(0, "phi"), dtype=torch.float64), dim=1)
    chosen = herd(7 * phi, 6).tolist()
    assert len(set(chosen)) == 6
    for k in range(6):
        distances = {
            i: (phi.mean(0) - phi[[*chosen[:k], i]].mean(0)).norm().item() for i in range(30) if i not in chosen[:k]
        }
        assert min(distances, key=distances.get) == chosen[k]
    assert sorted(herd(phi, 30).tolist()) == list(range(30))


def test_herded_memory_has_the_distilled_ones_shape_and_real_images():
    real = patterns()
    x, y = herded_memory("conv2-w8", real, CFG.changed(ipc=2), 0, PROTOCOL.changed(steps=5))
    assert y.argmax(1).tolist() == [c for group in class_groups(6, 2, 0) for c in group for _ in range(2)]
    assert all((image == real.train_x).flatten(1).all(1).any() for image in x)


def test_after_each_step_the_accuracy_is_that_of_networks_on_the_memory_so_far():
    real = patterns()
    cfg = CFG.changed(ipc=4)
    x, y = (torch.stack(tensors) for tensors in zip(*(real_subsets(real, cfg, s) for s in (0, 1))))
    table = accuracies("conv2-w8", x, y, real, cfg, (0, 1), PROTOCOL, seed=0)
    assert table.shape == (2, 2, 2, 2) and table[:, :, 0, 1].isnan().all()
    for t in range(2):
        students = Students("conv2-w8", (1, 8, 8), 6, [0, 0, 1, 1], f"0.{t}", "cpu").train(
            x[:, : 12 * (t + 1)], y[:, : 12 * (t + 1)], PROTOCOL
        )
        for m in range(2):
            for k in range(t + 1):
                part = part_of(real, cfg, m, k)
                exact = students.accuracy(part.test_x, part.test_y).view(2, 2)[m]
                assert torch.allclose(table[m, :, t, k], exact, atol=1e-3)


def test_curve_and_forgetting_of_a_worked_example():
    nan = torch.nan
    table = torch.tensor([[90.0, nan, nan], [60.0, 80.0, nan], [50.0, 85.0, 70.0]])
    assert curve(table, torch.tensor([10, 30, 60])).tolist() == pytest.approx(
        [90, (600 + 2400) / 40, (500 + 2550 + 4200) / 100]
    )
    assert forgetting(table).item() == pytest.approx(((90 - 50) + (80 - 85)) / 2)
    assert forgetting(table[:2, :2]).item() == pytest.approx(30)


def test_the_whole_memory_at_the_last_step_is_an_ordinary_evaluation():
    real = patterns()
    cfg = CFG.changed(ipc=4)
    x, y = (t[None] for t in real_subsets(real, cfg, 0))
    table = accuracies("conv2-w8", x, y, real, cfg, (0,), PROTOCOL, seed="a")
    whole = evaluate("conv2-w8", x, y, real, PROTOCOL, "a.1")
    assert torch.allclose(curve(table, torch.tensor([120, 120]))[0, :, -1], whole[0], atol=1e-3)
