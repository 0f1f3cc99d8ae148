"""One line a cell: state (not-run, partly done or running, stale, distilled, evaluated), measured and published."""

from collections import Counter

from tabulate import tabulate

from lib.config.load import load_params
from lib.config.models import METHODS
from lib.config.settings import ParamsError
from lib.report.compare import measured_text

from .results import Results, figure_text
from .states import STATES

COLUMNS = ("cell", "method", "dataset", "ipc", "state", "measured (%)", "published (%)")


def stage(**filters):
    """Print the cells that fit every filter: suite, method, dataset and state; None fits any."""
    params = load_params()
    known = {"suite": params.suites, "method": METHODS, "dataset": params.datasets, "state": STATES}
    wanted = {name: value for name, value in filters.items() if value is not None}
    for name, value in wanted.items():
        if value not in known[name]:
            raise ParamsError(f"--{name}: found {value!r}; must be one of {', '.join(known[name])}")
    results, lines, counts = Results(params), [], Counter()
    for key, cell in params.cells.items():
        if any(getattr(cell, name) != value for name, value in wanted.items() if name != "state"):
            continue
        state, more = results.state(key)
        if state == wanted.get("state", state):
            lines.append(line(results, key, cell, f"{state}: {more}" if more else state))
            counts[state] += 1
    print(tabulate(lines, COLUMNS, disable_numparse=True))
    print(f"\n{len(lines)} cells" + "".join(f", {counts[state]} {state}" for state in STATES if counts[state]))


def line(results, key, cell, state):
    """A cell's values for COLUMNS, on the network that has a published figure or, where none has, on its first one."""
    figures = results.figures(key)
    net = next(iter(figures), cell.evaluate.nets[0])
    measured = next((measured_text(row) for row in results.rows(key) if row["network"] == net), "")
    published = figure_text(figures[net], cell) if figures else ""
    return key, cell.method, cell.dataset, cell.distill.ipc, state, measured, published
