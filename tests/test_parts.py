"""A row's work in parts: together they do all of it, once, and give the bits of the whole."""

import argparse
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lib.config.load import load_params
from stages.fanout import commands
from stages.parts import part, share, with_parts

from .toy import ENV, MEMBERSHIP, copied, stages


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_the_parts_of_a_row_are_all_of_it(count):
    units = list(range(5))
    shares = [share(units, (number, count)) for number in range(1, count + 1)]
    assert sorted(unit for each in shares for unit in each) == units == share(units, None)
    assert max(map(len, shares)) == -(-5 // count)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "/", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}'; a part is one of several, as 2/4"):
        part(text)
    assert part("2/4") == (2, 4)


def test_rows_have_parts_where_more_stages_could_run_than_there_are():
    cell = SimpleNamespace(distill=SimpleNamespace(seeds=[0, 1, 2]))
    params = SimpleNamespace(cells={"a": cell, "b": cell}, experts={"row": SimpleNamespace(count=100, together=8)})
    waits = {"experts@row": ["whiten@x"], "distill@a": ["experts@row"], "distill@b": [], "evaluate@a": ["distill@a"]}
    assert with_parts(params, waits, 1) == waits
    split = with_parts(params, waits, 4)
    assert split.pop("experts@row") == ["whiten@x", *(f"experts@row {i}/4" for i in (1, 2, 3, 4))]
    assert split["experts@row 3/4"] == ["whiten@x"] and split["evaluate@a"] == ["distill@a"]
    assert split["distill@b"] == ["distill@b 1/2", "distill@b 2/2"] and split["distill@a 1/2"] == ["experts@row"]
    many = with_parts(params, waits, 64)
    assert len(many["distill@b"]) == 3 and len(many["experts@row"]) == 1 + 13, "no more than seeds, or groups"
    assert list(many).index("distill@a 1/3") < list(many).index("distill@a"), "a task is there before what waits for it"


def test_what_a_worker_runs():
    assert commands("distill@a", ["experts@x"], pull=False) == [
        ["dvc", "--wait-for-lock", "repro", "--single-item", "distill@a"]
    ]
    assert commands("distill@a 1/2", ["experts@x"], pull=False) == [["stages", "distill", "a", "--part", "1/2"]]
    fetch, inputs, work = commands("distill@a 1/2", ["experts@x", "whiten@y"], pull=True)
    assert inputs == ["dvc", "--wait-for-lock", "repro", "--pull", "experts@x", "whiten@y"] and work[0] == "stages"
    assert [words[1] for words in (fetch, *commands("distill@a", [], pull=True))][0] == "fetch"


@pytest.mark.long
def test_seeds_side_by_side_give_the_sets_of_one_stage(finished, tmp_path):
    """Two processes at once, a seed each; the stage then computes nothing, and its sets have the same bits."""
    folder = copied(finished[0], tmp_path / "p")
    suite = load_params(folder / "params.yaml").cells[MEMBERSHIP].suite
    out = folder / "build/distill" / suite / MEMBERSHIP
    before = {path.name: path.read_bytes() for path in out.glob("seed*.safetensors")}
    assert len(before) == 2
    for path in (folder / ".checkpoints" / MEMBERSHIP, out):
        shutil.rmtree(path)
    command = [sys.executable, "-m", "stages", "distill", MEMBERSHIP, "--part"]
    pipe = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    runs = [subprocess.Popen([*command, each], cwd=folder, env=ENV, **pipe) for each in ("1/2", "2/2")]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert "to distil: [0]" in said[0] and "to distil: [1]" in said[1] and not out.exists()
    assert "to distil: []" in stages(folder, "distill", MEMBERSHIP)
    assert {path.name: path.read_bytes() for path in out.glob("seed*.safetensors")} == before
