"""Functions that a GPU replays as CUDA graphs, by a stand-in for a graph on the CPU: buffers, replays, undoing."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from lib.autodiff import captured
from lib.autodiff.captured import Captured
from tests.golden import traces
from tests.golden.settings import RUNS

METHODS = [(name, what) for name in RUNS for what in RUNS[name]]


class StandIn:
    """What CudaGraph does, by calls of the function: it computes on the buffers alone, and leaves `out` in place."""

    captures = 0

    def __init__(self, function, args):
        StandIn.captures += 1
        for _ in range(captured.WARM_UPS):
            out = function(*args)
        self.function, self.args, self.out = function, args, out

    def replay(self):
        for old, new in zip(tree_leaves(self.out), tree_leaves(self.function(*self.args)), strict=True):
            if old is not None:
                old.copy_(new)


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setitem(captured.GRAPHS, "cpu", StandIn)
    monkeypatch.setattr(StandIn, "captures", 0)
    return StandIn


def test_results_are_of_the_arguments_and_stay(graphs):
    double = Captured(lambda x, factor: (x * factor, None))
    first, second = double(torch.ones(3), 2), double(torch.full((3,), 5.0), 2)
    assert first[0].tolist() == [2, 2, 2] and second[0].tolist() == [10, 10, 10] and first[1] is None
    assert graphs.captures == 1
    assert double(torch.ones(3), 4)[0].tolist() == [4, 4, 4] and graphs.captures == 2, "another value"
    assert double(torch.ones(4), 2)[0].tolist() == [2, 2, 2, 2] and graphs.captures == 3, "another shape"
    assert double(torch.ones(3), 2)[0].tolist() == [2, 2, 2] and graphs.captures == 3


def test_what_a_warm_up_changes_is_undone(graphs):
    total = torch.zeros(2)
    add = Captured(lambda x: total.add_(x).sum(), changes=lambda x: [total])
    assert [add(torch.ones(2)).item() for _ in range(3)] == [2, 4, 6] and total.tolist() == [3, 3]


def test_without_a_graph_it_is_the_function():
    calls = []
    plain = Captured(lambda x: calls.append(x) or x)
    x = torch.ones(2)
    assert plain(x) is x and len(calls) == 1 and not plain.graphs
    assert not plain.on_device(torch.device("cpu")) and plain.on_device(torch.device("cuda"))
    assert not Captured(len, on=False).on_device(torch.device("cuda"))


def test_a_capture_that_fails_is_told_once_and_nothing_is_changed(monkeypatch):
    def fail(function, args):
        function(*args)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore words")

    monkeypatch.setitem(captured.GRAPHS, "cpu", fail)
    total = torch.zeros(2)

    def add(x):
        return total.add_(x).clone()

    slow = Captured(add, changes=lambda x: [total])
    with pytest.warns(UserWarning, match="add: not captured as a CUDA graph.*stream is capturing$") as told:
        assert slow(torch.ones(2)).tolist() == [1, 1] and slow(torch.ones(2)).tolist() == [2, 2]
    assert len(told) == 1


def on_copies(self, *args):
    """A call as it is, of copies: where tensors lie in memory decides the last bit of a matrix product."""
    return self.function(*(arg.detach().clone() if isinstance(arg, torch.Tensor) else arg for arg in args))


def equal(one, other):
    """Whether two nested results are equal to the bit."""
    pairs = [(a, b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True) if a is not None]
    return bool(pairs) and all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in traces.CASES if name.startswith(("protocol: ", "experts: "))])
def test_captured_updates_of_students_and_experts_are_the_eager_ones_to_the_bit(name, graphs, monkeypatch):
    with traces.float64():
        replayed = traces.CASES[name]()
    captures = graphs.captures
    assert bool(captures) == ("schedule" not in name), "a schedule has an update of its own"
    monkeypatch.setattr(Captured, "__call__", on_copies)
    with traces.float64():
        assert equal(traces.CASES[name](), replayed)
    assert graphs.captures == captures


@pytest.mark.long
@pytest.mark.parametrize("name, what", METHODS)
def test_captured_steps_are_the_eager_ones_to_the_bit(name, what, graphs, monkeypatch):
    def run():
        with traces.float64():
            return traces.distil(name, **{key: v for key, v in RUNS[name][what].items() if key != "keep_records"})

    replayed, captures = run(), graphs.captures
    monkeypatch.setattr(Captured, "__call__", on_copies)
    eager = run()
    assert graphs.captures == captures, "the second run is eager"
    assert bool(captures) == (name not in ("dc", "dsa", "dm")), "these are bound by memory and arithmetic"
    assert equal(eager, replayed)
