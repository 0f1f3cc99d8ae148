"""What came of each cell beside what is published, and the words for both."""

from lib.records import Evaluation, History, SuiteResults, read_metrics, read_record
from lib.report.compare import make_row
from lib.report.published import figure_of, published_figures

from .common import REPORTS
from .states import States, paths_of


class Results:
    """The cells of a checked params.yaml: how far they are, and their results, in build/ or else in reports/."""

    def __init__(self, params):
        self.cells, self.states, self.published = params.cells, States(params), published_figures()
        rows = [
            row for path in sorted(REPORTS.glob("*/results.json")) for row in read_record(path, SuiteResults)["rows"]
        ]
        self.reported = {row["cell"]: [each for each in rows if each["cell"] == row["cell"]] for row in rows}

    def state(self, key):
        """A cell's state and what is to be added; of one that was evaluated in another clone, where its result is."""
        state, more = self.states.of(key)
        if state != "not-run" or key not in self.reported:
            return state, more
        current = self.states.lock.judged(self.cells[key].suite, key, self.states.text)
        return "evaluated" if current else "stale", "in reports/"

    def rows(self, key):
        """A cell's rows as in results.json, one a network that it was judged on."""
        distilled, evaluated = paths_of(self.cells, key)
        if not evaluated.is_file():
            return self.reported.get(key, [])
        history = read_record(distilled, History) if distilled.is_file() else {"seeds": {}}
        measured = read_metrics(evaluated, Evaluation)
        return [make_row(key, self.cells[key], net, measured, history, self.published) for net in measured["nets"]]

    def figures(self, key):
        """{network: published figure} of a cell's networks that have one."""
        cell = self.cells[key]
        found = {net: figure_of(self.published, key, cell, net) for net in cell.evaluate.nets}
        return {net: figure for net, figure in found.items() if figure}


def figure_text(figure, cell):
    """A published figure, and why it is not to be compared with as it stands."""
    spread = f" ± {figure['std']}" if figure["std"] is not None else ""
    notes = ["unverified"] * (figure["status"] == "unverified") + ["full budget"] * (cell.budget == "reduced")
    return f"{figure['mean']}{spread}" + (f" ({', '.join(notes)})" if notes else "")
