"""What a report keeps of cells that were computed in another clone, whose results came with git, without their data."""

from lib.config.settings import PLAN
from lib.records import SuiteResults, read_record

from .common import EVALUATED, REPORTS
from .lock import Lock

LISTS = {"rows": "evaluate"} | {name: name for name in ("continual", "membership", "scores")}  # the stage of each
BY_CELL = "curves", "sentences"  # of evaluate


class Elsewhere:
    """The entries of reports/SUITE/results.json that have nothing in build/, and whose stages dvc.lock has as planned.

    cells: the suite's cells by key. An entry whose recipe is another now is left out, and said to be.
    """

    def __init__(self, suite, cells):
        self.suite, self.cells, self.lock = suite, cells, Lock()
        path, self.said = REPORTS / suite / "results.json", set()
        self.before = read_record(path, SuiteResults) if path.is_file() else {}
        self.tables = {
            name: [entry for entry in self.before.get(name, ()) if self.stays(stage, entry["cell"])]
            for name, stage in LISTS.items()
        } | {
            name: {key: entry for key, entry in self.before.get(name, {}).items() if self.stays("evaluate", key)}
            for name in BY_CELL
        }
        self.shown = {row["cell"] for row in self.tables["rows"]}

    def stays(self, stage, key):
        """Whether the result of a cell's stage is not here, and still what its recipe would give."""
        kind = "" if stage == "evaluate" else f".{stage}"
        if (EVALUATED / self.suite / f"{key}{kind}.json").exists():
            return False
        why = self.outdated(stage, key)
        if why and (stage, key) not in self.said:
            print(f"left out: the result of {stage}@{key} in {REPORTS / self.suite}: {why}", flush=True)
        self.said |= {(stage, key)} if why else set()
        return not why

    def outdated(self, stage, key):
        """Why the result of a cell's stage no longer holds, or ""."""
        if key not in self.cells or not (PLAN / stage / f"{key}.json").is_file():
            return "params.yaml has it no more"
        same = self.lock.judged(self.suite, key, planned) and self.lock.ran(stage, key, planned(stage, key))
        return "" if same else "it is of another recipe than the present one, or dvc.lock does not know it"

    def figures(self, made):
        """The figures of cells, and of experts, that none of `made`, those drawn here, replaces."""
        names, experts = {figure["file"] for figure in made}, {self.cells[key].experts for key in self.shown}
        return [
            figure
            for figure in self.before.get("figures", ())
            if figure["file"] not in names and (figure.get("cell") in self.shown or figure.get("experts") in experts)
        ]


def planned(stage, key):
    """The text of a recipe as `plan` wrote it."""
    return (PLAN / stage / f"{key}.json").read_text(encoding="utf-8")
