"""A suite's measured rows, in the terminal: `python -m stages table SUITE`."""

from tabulate import tabulate

from lib.records import SuiteResults, read_record
from lib.report.compare import measured_text

from .common import REPORTS

COLUMNS = ("cell", "network", "distilled (%)", "real subset", "whole set", "verdict")


def stage(recipe, runtime):
    """Print what reports/SUITE has, and where the page is."""
    rows = read_record(REPORTS / recipe.key / "results.json", SuiteResults)["rows"]
    lines = [
        (row["cell"], row["network"], measured_text(row), f"{row['real_subset_mean']:.1f}", whole(row), row["verdict"])
        for row in rows
    ]
    print(tabulate(lines, COLUMNS, disable_numparse=True))
    print("real subset: as many real images, drawn at random; whole set: all training images")
    print(f"the page: {(REPORTS / 'index.html').resolve().as_uri()}")


def whole(row):
    return "" if row["whole_set_mean"] is None else f"{row['whole_set_mean']:.1f}"
