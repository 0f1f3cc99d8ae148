"""The page of all suites, reports/index.html, its tables as reports/README.md, and paired comparisons of rows."""

from lib.config.settings import read_recipe
from lib.files import write_json
from lib.records import External, SuiteResults, read_metrics, read_record
from lib.report.compare import external_rows, paired
from lib.report.page import write_page

from .common import EVALUATED, REPORTS


def stage(recipe, runtime):
    """Write paired.json, index.html and README.md into reports/, from the results of every suite."""
    paths = [REPORTS / suite / "results.json" for suite in recipe.suites]
    suites = [{**read_record(path, SuiteResults), "folder": path.parent} for path in paths if path.exists()]
    judged = [path for key in recipe.external if (path := REPORTS / "external" / f"{key}.json").exists()]
    external = [row for path in judged for row in external_rows(read_metrics(path, External))]
    pairs = paired([row for suite in suites for row in suite["rows"]])
    write_json(REPORTS / "paired.json", pairs)
    write_page(REPORTS, suites, pairs, external, [vars(figure) for figure in recipe.published])
    for suite in recipe.suites:
        shown = {row["cell"] for each in suites if each["suite"] == suite for row in each["rows"]}
        there = [
            key for key in vars(read_recipe("report", suite).cells) if (EVALUATED / suite / f"{key}.json").exists()
        ]
        if absent := ", ".join(key for key in there if key not in shown):
            print(f"not on the page: {absent}; `dvc repro --single-item report@{suite}`, then `make report`")
