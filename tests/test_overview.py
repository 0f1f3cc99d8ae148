"""`list`, `show` and the help: what a clone without results of its own says of the shipped rows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib.config.settings import ParamsError
from lib.files import read_json
from stages.commands import STAGES
from stages.list import stage as list_cells
from stages.show import stage as show_cell

from .toy import listed, stages

ROOT = Path(__file__).parent.parent
PARAMS = yaml.load(Path("params.yaml").read_text(), yaml.CSafeLoader)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """command(stage, **arguments) -> what it prints in a folder as a fresh clone, without build/."""
    for name in ("params.yaml", "reports", "dvc.lock"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.states.CHECKPOINTS", tmp_path / ".checkpoints")

    def printed(stage, **arguments):
        stage(**arguments)
        return capsys.readouterr().out

    return printed


def test_a_row_that_was_measured_elsewhere_counts_as_evaluated(command):
    rows = [row for path in ROOT.glob("reports/*/results.json") for row in read_json(path)["rows"]]
    measured, found = {row["cell"] for row in rows}, listed(command(list_cells))
    assert found.keys() == PARAMS["cells"].keys() and len(measured) > 10
    assert {key for key, state in found.items() if state == "evaluated: in reports/"} == measured & found.keys()
    assert {state for key, state in found.items() if key not in measured} == {"not-run"}
    assert not Path("build").exists(), "it only looks"


def test_filters_combine(command):
    cells = PARAMS["cells"].items()
    wanted = {k for k, c in cells if (c["suite"], c["dataset"], c["method"]) == ("matching", "cifar10", "dsa")}
    found = listed(command(list_cells, suite="matching", dataset="cifar10", method="dsa", state=None))
    assert found.keys() == wanted and len(wanted) > 3
    assert command(list_cells, suite="frepo", state="distilled").endswith("\n0 cells\n")


def test_an_unknown_value_of_a_filter_is_answered_by_the_allowed_ones():
    answer = stages(ROOT, "list", "--suite", "nothing")
    assert answer == f"error: --suite: found 'nothing'; must be one of {', '.join(PARAMS['suites'])}\n"
    for name, allowed in (("method", "dd, sldd"), ("dataset", "digits, mnist"), ("state", "not-run, partly")):
        with pytest.raises(ParamsError, match=f"--{name}: found 'nothing'; must be one of {allowed}"):
            list_cells(**{name: "nothing"})


def test_published_figures_stand_beside_with_what_forbids_to_compare(command):
    printed = command(list_cells, suite="reduced")
    assert re.search(r"reduced-frepo-cifar10-ipc1 .* 46\.8 ± 0\.7 \(full budget\)\n", printed)
    assert re.search(r"reduced-frepo-mnist-ipc1 .* 93\.0 ± 0\.4 \(unverified, full budget\)\n", printed)


def test_show_prints_settings_cost_figures_and_commands_of_a_cell_that_was_never_run(command):
    printed = command(show_cell, key="frepo-frepo-cifar10-ipc1")
    settings = yaml.safe_load(printed[: printed.index("\ncost:")])
    cell, defaults = settings["cells"]["frepo-frepo-cifar10-ipc1"], PARAMS["methods"]["frepo"]
    given = PARAMS["cells"]["frepo-frepo-cifar10-ipc1"]["distill"]
    assert {name: cell["distill"][name] for name in {**defaults, **given}} == {**defaults, **given}
    assert cell["evaluate"]["protocol"] in settings["protocols"] and settings["datasets"].keys() == {"cifar10"}
    assert "state: not-run\n" in printed and "measured" not in printed
    assert "published: conv3 46.8 ± 0.7 %; FRePo (NeurIPS 2022), as DATM and PAD quote its table\n" in printed
    assert printed.endswith("run: dvc repro evaluate@frepo-frepo-cifar10-ipc1\n")
    with pytest.raises(ParamsError, match="cells: found 'frepo-frepo-cifar10-ipc2'; must be one of .*cifar10-ipc1,"):
        show_cell("frepo-frepo-cifar10-ipc2")


def test_the_help_of_every_command_has_an_example_with_a_key_that_is_there():
    for name, row in STAGES.items():
        command = [sys.executable, "-m", "stages", name, "--help"]
        helped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"example: python -m stages {name}" in helped.stdout
        if row and row[0] != "external":  # a table for rows of the user's own
            assert row[1] in PARAMS[row[0]], name
