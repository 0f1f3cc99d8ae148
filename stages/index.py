"""The page of all suites, reports/index.html, its tables as reports/README.md, and what pairs of their rows differ by: `python -m stages index`."""

from lib.files import read_json, write_json
from lib.report.compare import given_rows, paired
from lib.report.page import write_page

from .common import REPORTS


def stage(params, _):
    """Write paired.json, index.html and README.md into reports/, from the results of every suite."""
    paths = [REPORTS / suite / "results.json" for suite in params.suites]
    suites = [{**read_json(path), "folder": path.parent} for path in paths if path.exists()]
    given = [row for key in params.given if (path := REPORTS / "given" / f"{key}.json").exists() for row in given_rows(read_json(path))]
    pairs = paired([row for suite in suites for row in suite["rows"]])
    write_json(REPORTS / "paired.json", pairs)
    write_page(REPORTS, suites, pairs, given)
