"""A suite's measured rows, in the terminal: `python -m stages table SUITE`."""

from tabulate import tabulate

from lib.config.settings import ParamsError
from lib.records import SuiteResults, read_record
from lib.report.compare import measured_text

from .common import REPORTS

COLUMNS = ("cell", "network", "distilled (%)", "real subset", "whole set", "verdict")


def stage(key):
    """Print what reports/SUITE has, and where the page is."""
    there = sorted(path.parent.name for path in REPORTS.glob("*/results.json"))
    if key not in there:
        remedy = f"`dvc repro report@{key}` makes it, if it is one of params.yaml"
        raise ParamsError(f"found {key!r}; must be a suite with results in reports: {', '.join(there)}; {remedy}")
    rows = read_record(REPORTS / key / "results.json", SuiteResults)["rows"]
    lines = [
        (row["cell"], row["network"], measured_text(row), f"{row['real_subset_mean']:.1f}", whole(row), row["verdict"])
        for row in rows
    ]
    print(tabulate(lines, COLUMNS, disable_numparse=True))
    print("real subset: as many real images, drawn at random; whole set: all training images")
    print(f"the page: {(REPORTS / 'index.html').resolve().as_uri()}")


def whole(row):
    return "" if row["whole_set_mean"] is None else f"{row['whole_set_mean']:.1f}"
