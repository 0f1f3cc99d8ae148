"""What a step takes of a GPU, counted on the meta device: closed forms, and what a pretended device launches."""

import pytest
import torch

from lib.autodiff import captured
from lib.config.load import load_params
from lib.config.settings import Settings
from lib.methods.example import work_of_step
from lib.training.work import H100, H100_BYTES, LAUNCH, Work
from stages.work import step_on_gpu
from tests.golden import data, traces
from tests.golden.data import SHAPE
from tests.golden.settings import BASES, DISTILL

from .pretended import Pretended


def test_a_matrix_product_by_hand():
    with Work() as work:
        x, w = torch.empty(30, 20, device="meta"), torch.empty(20, 50, device="meta")
        y = x @ w
        z = y.T[:10].relu()
        assert (work.kernels, work.bytes) == (2, 4 * (600 + 1000 + 1500) + 4 * (300 + 300))
        assert work.in_use == work.peak == 4 * (600 + 1000 + 1500 + 300)
        del y, x
        assert (work.in_use, work.peak) == (4 * (1000 + 300), 4 * 3400)
        assert work.restart().peak == 4 * 1300
        z.add_(1)
    assert (work.kernels, work.bytes) == (1, 4 * 600)


def test_numbers_that_are_one_in_memory_are_read_once():
    with Work() as work:
        torch.empty(1, device="meta").expand(1000).clone()
    assert work.bytes == 4 + 4000


def test_what_binds_is_the_longest_time():
    work = Work()
    work.kernels, work.launches, work.bytes, work.peak = 5000, 1000, 10**9, 2 * 10**9
    assert LAUNCH * 1000 > 10**9 / H100_BYTES
    text = work.describe(10**9, "float32")
    assert "1000 launches of 5000 kernels 5 ms" in text
    assert text.endswith("at least 5 ms, bound by launches; 2 GB in use")
    assert f"at least {10**15 / H100['float32']:.3g} ms, bound by arithmetic" in work.describe(10**12, "float32")
    work.bytes = 10**12
    assert f"at least {10**15 / H100_BYTES:.3g} ms, bound by memory" in work.describe(10**9, "float32")


@pytest.mark.parametrize("name, more", [("dc", 0), ("dm", 0), ("mtt", 0), ("datm", 0), ("rat", 5), ("dd", 12)])
def test_kernels_are_those_that_a_device_launches(name, more, monkeypatch):
    """more: those that form the batch, and Adam's, whose step a GPU takes for all tensors at once."""
    fields = {"augment": "none", "batch_syn": 4, "place": "late", "threshold": 9.0}
    fields = {key: value for key, value in fields.items() if key in {**DISTILL, **BASES[name]}}
    monkeypatch.setattr(data, "DEVICE", torch.device("cuda"))
    with Pretended() as machine, traces.float64():
        captured.GRAPHS.clear()
        _, method, batches, _ = traces.prepared_run(name, fields)
        taken = [traces.wide(batches.next()) for _ in range(2)]
        method.step(0, *taken[0])
        machine.kernels.clear()
        method.step(1, *taken[1])
    cfg = Settings(**{**DISTILL, **BASES[name], **fields})
    work = work_of_step(name, cfg, SHAPE, 3, 48, graphs=False)
    assert work.kernels == work.launches == len(machine.kernels) + more
    replayed = work_of_step(name, cfg, SHAPE, 3, 48)
    assert (replayed.launches < work.launches / 2) == (name not in ("dc", "dm")), "bound by memory and arithmetic"


def test_imagenet_64_fits_an_h100():
    params = load_params()
    cell, counted = params.cells["frepo-frepo-imagenet64-ipc1"], {}
    text = step_on_gpu(params, "frepo-frepo-imagenet64-ipc1", counted)
    (work,) = counted.values()
    images = 1281167 * 3 * 64 * 64
    assert cell.distill.net and images < work.peak < 60e9 and work.in_use < 24e9
    assert text.endswith(f"{work.peak / 1e9:.3g} GB in use")


def test_a_folder_of_pictures_is_not_known_before_it_is_counted():
    params = load_params()
    dataset = params.datasets["mnist"].changed(folder="pictures")
    params = params.changed(datasets={**params.datasets, "mnist": dataset})
    assert step_on_gpu(params, "matching-dm-mnist-ipc1", {}) is None
