"""The traces of toy-sized runs are the stored ones: no change of the code changed a number (tests/golden)."""

import pytest

from lib.augment import POLICIES
from lib.methods import METHODS
from lib.networks import ARCHITECTURES, OWN, parse
from tests.golden import traces
from tests.golden.__main__ import main
from tests.golden.settings import NETWORKS, RUNS

STORED = traces.stored_traces()


@pytest.mark.parametrize("name", sorted({*traces.CASES, *STORED}))
def test_trace_is_the_stored_one(name):
    found = traces.trace(name) if name in traces.CASES else None
    assert not traces.differences(name, STORED.get(name), found)


def test_everything_that_has_a_name_has_a_trace():
    assert set(RUNS) == set(METHODS)
    assert {parse(name)[0] for names in NETWORKS.values() for name in names.split()} == set(ARCHITECTURES) - {OWN}
    assert {f"protocol: augment {policy}" for policy in POLICIES} <= set(traces.CASES)


def test_a_number_that_changed_by_a_millionth_is_reported(tmp_path, monkeypatch, capsys):
    name = "dm: plain"
    monkeypatch.setattr(traces, "STORED", tmp_path / "traces.json")
    assert main(["--only", name, "--write"]) == 0 and main(["--only", name]) == 0
    stored = traces.stored_traces()[name]
    for i in range(len(stored)):
        changed = [*stored[:i], stored[i] * (1 + 1e-6), *stored[i + 1 :]]
        traces.store({name: changed})
        capsys.readouterr()
        assert main(["--only", name]) == 1
        assert capsys.readouterr().out == f"{name}: index {i}: stored {changed[i]!r}, found {stored[i]!r}\n"


def test_a_case_that_is_only_stored_or_only_in_the_code_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(traces, "STORED", tmp_path / "traces.json")
    traces.store({"dm: gone": [1.0]})
    assert main(["--only", "dm: "]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "dm: gone: stored, not in the code; remove it with `python -m tests.golden --write`" in lines
    assert "dm: plain: in the code, not stored; store it with `python -m tests.golden --write`" in lines
