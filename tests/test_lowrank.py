"""Low-rank images: budget, starts, gradients, and the reduction to pixels, step for step, for every method."""

import pytest
import torch

from lib.config.load import load_params
from lib.data.labels import initial_labels
from lib.data.preprocess import Preprocess
from lib.data.real import RealSet
from lib.data.sources import in_shape
from lib.methods import METHODS
from lib.rng import generator
from lib.synthetic.initial import initial_set
from lib.synthetic.lowrank import images_per_class, noise_factors, stored_numbers, svd_factors
from lib.synthetic.set import SyntheticSet

from .test_matching import BATCH, CLASSES, SHAPE, made, settings

CELLS = load_params().cells


@pytest.mark.parametrize(
    "side, rank, ipc, expected",
    [(28, 2, 1, 7), (28, 2, 50, 350), (28, 4, 1, 3), (28, 4, 10, 35), (28, 4, 50, 175), (28, 8, 1, 1), (28, 8, 10, 17),
     (28, 8, 50, 87), (28, 16, 1, 0), (32, 2, 10, 80), (32, 4, 1, 4), (32, 8, 10, 20), (32, 16, 1, 1), (64, 2, 1, 16),
     (64, 4, 10, 80), (128, 16, 1, 4)],
)  # fmt: skip
def test_budget_table(side, rank, ipc, expected):
    cfg = CELLS["lowrank-dm-cifar10-ipc1"].distill.changed(rank=rank, ipc=ipc)
    assert images_per_class(cfg, (3, side, side)) == expected
    assert stored_numbers(cfg, (3, side, side)) <= ipc * 3 * side * side


def test_every_low_rank_cell_fits_its_baselines_memory_but_those_printed_over_it():
    params, over = load_params(), set()
    for key, cell in params.cells.items():
        if cell.distill.rank:
            channels, height, width = shape = in_shape(params.datasets[cell.dataset])
            if stored_numbers(cell.distill, shape) > cell.distill.ipc * channels * height * width:
                over.add(key)
    assert over == {"lowrank-dc-mnist-ipc1", "lowrank-dc-mnist-ipc50", "lowrank-dm-mnist-ipc50"}


def test_product_and_gradients_of_the_sheet():
    a, b = torch.tensor([[1.0, 0], [2, 1]]).view(1, 1, 2, 2), torch.tensor([[1.0, 2], [0, 1]]).view(1, 1, 2, 2)
    syn = SyntheticSet((a, b), torch.ones(1, 1))
    x = syn.x
    assert x.flatten().tolist() == [1, 2, 2, 5]
    loss = x.square().sum() / 2
    loss.backward()
    assert loss.item() == 17
    assert syn.images[0].grad.flatten().tolist() == [5, 2, 12, 5] and syn.images[1].grad.flatten().tolist() == [
        5,
        12,
        2,
        5,
    ]
    (a, b), (da, db) = syn.images, (t.grad for t in syn.images)
    assert torch.equal(a.mT @ da - db @ b.mT, torch.zeros(1, 1, 2, 2)), "conserved under gradient flow"


@pytest.mark.parametrize("rank", [2, 4])
def test_noise_start_has_variance_r_heavy_tails_and_rank_r(rank):
    a, b = (t.double() for t in noise_factors(4000, (1, 16, 16), rank, generator(0, "noise")))
    x = a @ b
    assert x.mean().abs() < 0.01 and x.var().item() == pytest.approx(rank, rel=0.02)
    assert (x**4).mean().item() / x.var().item() ** 2 == pytest.approx(3 + 6 / rank, rel=0.06)
    assert set(torch.linalg.matrix_rank(x[:50]).flatten().tolist()) == {rank}
    isotropic = torch.randn_like(x)
    decrease = (isotropic @ b.mT).square().sum() + (a.mT @ isotropic).square().sum()
    assert (decrease / isotropic.square().sum()).item() == pytest.approx(2 * 16 * rank / 16, rel=0.05)


def test_svd_start_is_the_best_balanced_fit():
    x = torch.randn(5, 3, 12, 12, generator=generator(0, "x"), dtype=torch.float64)
    for rank in (1, 4, 12):
        a, b = svd_factors(x, rank)
        error = (a @ b - x).square().sum((-2, -1))
        assert torch.allclose(error, torch.linalg.svdvals(x)[..., rank:].square().sum(-1), atol=1e-12)
        assert torch.allclose(a.mT @ a, b @ b.mT, atol=1e-12)


@pytest.mark.parametrize("frozen", ["a", "b"])
@pytest.mark.parametrize("method", ["dc", "dsa", "dm"])
def test_an_identity_factor_held_fixed_is_pixels_step_for_step(method, frozen):
    pixels, real_x, chosen = made(method, settings(method))
    x, eye = pixels.syn.x.detach().clone(), torch.eye(8, dtype=torch.float64).expand(len(pixels.syn), 1, 8, 8)
    lowrank, _, _ = made(method, settings(method), images=(x, eye) if frozen == "b" else (eye, x))
    held = lowrank.syn.images[1 if frozen == "b" else 0]
    lowrank.optimizer.param_groups[0]["params"] = [t for t in lowrank.syn.images if t is not held]
    for step in range(4):
        pixels.step(step, real_x, chosen)
        lowrank.step(step, real_x, chosen)
    assert torch.allclose(lowrank.syn.x, pixels.syn.x, atol=1e-12) and torch.equal(held, eye)


@pytest.mark.parametrize("method", ["frepo", "isa", "dc", "dsa", "dm"])
def test_rank_stays_and_both_factors_move_in_every_method(method):
    if method in ("frepo", "isa"):
        cell = CELLS[f"digits-{method}-digits-ipc1"].distill
        cfg = cell.changed(net="conv2-w8-batch", ipc=1, init="svd", rank=2, pool_size=2)
    else:
        cfg = settings(method, init="noise", rank=2, ipc=2)
    gen = generator(0, "set")
    count = images_per_class(cfg, SHAPE) * CLASSES
    factors = noise_factors(count, SHAPE, 2, gen)
    labels = torch.arange(CLASSES).repeat_interleave(count // CLASSES)
    syn = SyntheticSet(factors, initial_labels(labels, CLASSES, cfg.labels))
    run = METHODS[method](cfg, syn, 0)
    x = torch.randn(64, *SHAPE, generator=gen)
    for step in range(3):
        if cfg.batches == "by_class":
            run.step(step, x, torch.stack([torch.randperm(64, generator=gen)[:BATCH] for _ in range(CLASSES)]))
        else:
            run.step(step, x, torch.randn(64, CLASSES, generator=gen))
    assert all(not torch.equal(before, after) for before, after in zip(factors, syn.images))
    assert set(torch.linalg.matrix_rank(syn.x.detach()).flatten().tolist()) == {2}


def test_equal_images_of_a_class_stay_equal_in_lodm():
    a, b = (t[:1].expand(8, -1, -1, -1).double() for t in noise_factors(1, SHAPE, 2, generator(0, "one")))
    method, real_x, chosen = made("dm", settings("dm"), images=(a, b))
    method.step(0, real_x, chosen)
    first, second = method.syn.x.detach().unflatten(0, (CLASSES, 2)).unbind(1)
    assert torch.allclose(first, second, atol=1e-13)


@pytest.mark.parametrize("init, rank", [("real", 0), ("noise", 0), ("noise", 2), ("svd", 2), ("svd", 8)])
def test_starts(init, rank):
    x, y = torch.randn(60, *SHAPE, generator=generator(0, "x")), torch.arange(60) % 3
    real = RealSet(x, y, x, y, Preprocess(None, None), {"num_classes": 3})
    cfg = settings("dm", init=init, rank=rank, ipc=4)
    images, labels = initial_set(real, cfg, 7)
    syn = SyntheticSet(images, labels)
    count = images_per_class(cfg, SHAPE)
    assert torch.equal(labels.argmax(1), torch.arange(3).repeat_interleave(count)) and torch.equal(
        labels.sum(1), torch.ones(3 * count)
    )
    is_real = [
        any(torch.allclose(image, other, atol=1e-5) for other in x[y == label])
        for image, label in zip(syn.x.detach(), labels.argmax(1))
    ]
    assert set(is_real) == {init == "real" or rank == 8}
