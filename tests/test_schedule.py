"""The least time that stages take side by side: closed forms, and Graham's bounds on drawn graphs."""

import random
from types import SimpleNamespace

import pytest

from lib.config.load import load_params
from lib.training.compute import forward_flops
from lib.training.loop import evaluation_steps
from lib.training.work import H100
from stages.schedule import cost_of_stages, divided, flops_of, makespan
from stages.work import work_of_evaluations


def test_closed_forms():
    many = {f"s{i}": [] for i in range(10)}
    assert makespan({}, {}, 4) == 0
    assert makespan(many, dict.fromkeys(many, 3.0), 1) == 30
    assert makespan(many, dict.fromkeys(many, 3.0), 4) == 9, "four, four, two"
    chain = {f"s{i}": [f"s{i - 1}"] for i in range(5)}  # what the first one needs is there
    assert makespan(chain, dict.fromkeys(chain, 2.0), 8) == 10
    joined = {"a": [], "b": [], "c": ["a", "b"]}
    assert makespan(joined, {"a": 1.0, "b": 5.0, "c": 2.0}, 2) == 7


@pytest.mark.parametrize("seed", range(20))
def test_between_grahams_bounds(seed):
    draw = random.Random(seed)
    waits, seconds, path = {}, {}, {}
    for i in range(40):
        waits[i] = draw.sample(range(i), min(i, draw.randrange(3)))
        seconds[i] = draw.choice([0, 1, 5, 20]) * draw.random()
        path[i] = seconds[i] + max((path[each] for each in waits[i]), default=0)
    for slots in (1, 3, 7):
        share, longest = sum(seconds.values()) / slots, max(path.values())
        least = makespan(waits, seconds, slots)
        assert max(share, longest) - 1e-9 <= least <= share + longest + 1e-9


def test_parts_share_the_time_of_their_stage():
    waits = {
        "distill@a 1/2": [],
        "distill@a 2/2": [],
        "distill@a": ["distill@a 1/2", "distill@a 2/2"],
        "evaluate@a": [],
    }
    _, times = divided(waits, {"distill@a": 10.0})
    assert times == {"distill@a 1/2": 5.0, "distill@a 2/2": 5.0, "distill@a": 0, "evaluate@a": 0}
    assert makespan(waits, times, 2) == 5 and makespan(waits, times, 1) == 10


def test_the_work_of_the_grid():
    params = load_params()
    name, experts = "distill@mtt-mtt-cifar10-ipc1", "experts@cifar10-zca"
    assert experts.partition("@")[2] in params.experts
    waits = {experts: [], name: [experts], "evaluate@mtt-mtt-cifar10-ipc1": [name]}
    works = [work for each in waits for work in flops_of(params, each)]
    assert [dtype for _, dtype in works] == ["float32"] * 4, "experts; the runs and their evaluations; the sets'"
    hours = sum(flops / H100[dtype] for flops, dtype in works) / 3600
    text = cost_of_stages(params, waits)
    assert f"work: {sum(flops for flops, _ in works) / 1e15:.3g} PFLOP" in text and "time:" not in text
    assert f"on 1, 8, 64 H100s at the peak of their data sheet: at least {hours:.3g}, " in text
    assert cost_of_stages(SimpleNamespace(), {"prepare@a": []}).startswith("work: 0 PFLOP")


def test_the_work_of_evaluations():
    params = load_params()
    forward = forward_flops("conv3", (3, 32, 32))
    (during, plain), (of_sets, chosen) = work_of_evaluations(params, "fast-frepo-cifar10-ipc10")
    assert (plain, chosen) == ("float32", "fast"), "those during the run are in float32"
    cfg = params.cells["fast-frepo-cifar10-ipc10"].distill
    assert cfg.select == "last" and evaluation_steps(cfg) == {400, 1000, 2000, 2500}
    assert during == 4 * forward * (3 * 300 * 100 + 10000), "four times one network, 300 updates of 100 images"
    assert of_sets == 2 * 5 * forward * (3 * 2000 * 100 + 10000), "five networks each on the set and on real images"
    forward = forward_flops("lenet_dd", (1, 28, 28))
    (during, plain), (of_sets, chosen) = work_of_evaluations(params, "dd-sldd-mnist-ipc1-images5-fixed-rate02")
    assert (plain, chosen) == ("float32", "float32")
    assert of_sets == 3 * 2 * forward * (3 * 3 * 5 + 10000), "three seeds; three steps of five images"
    assert during == 3 * 35 * forward * (3 * 3 * 5 + 10000)
