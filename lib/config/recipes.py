"""Recipes: for each stage and row all that determines its result, resolved, and the fingerprint of its code.

A recipe is one small JSON file, PLAN/STAGE/KEY.json. A stage reads it in place of params.yaml, and DVC runs the stage
again when it, or the data, have changed. What cannot change a result is in none: folders, the device, words.
"""

import json
from pathlib import Path

from ..augment import policy_named
from ..data import READERS
from ..data.sources import SOURCES, SUBSETS
from ..files import replacing, sha256
from ..methods import METHODS
from ..networks import ARCHITECTURES, OWN, parse
from ..report.published import figure_of, published_figures
from .fingerprint import NEUTRAL, fingerprint
from .settings import PLAN

REPORT = Path(__file__).parents[1] / "report"
PROTOCOLS = {
    "continual": ("protocol", "herding"),
    "membership": ("protocol", "real_protocol"),
    "scores": ("hard", "full"),
}
NOT_OF_THE_SET = {"evaluate", "budget", "baseline"}  # what a cell says of its evaluation and of its report


def recipes(params):
    """{stage: {key: recipe}} of a checked file (`load_params`)."""
    planner = Planner(params)
    planned = {
        stage: {key: plan(key, row) for key, row in rows.items()}
        for stage, plan, rows in (
            ("prepare", planner.prepare, params.datasets),
            ("whiten", planner.whiten, params.preprocessing),
            ("experts", planner.experts, params.experts),
            ("distill", planner.distill, params.cells),
            ("evaluate", planner.evaluate, params.cells),
            ("continual", planner.continual, params.continual),
            ("membership", planner.membership, params.membership),
            ("scores", planner.scores, params.scores),
            ("external", planner.external, params.external),
        )
    }
    return planned | {
        "report": {suite: planner.report(suite) for suite in params.suites},
        "index": {"all": planner.index()},
    }


class Planner:
    """Makes the recipes of a checked file; one method for each stage."""

    def __init__(self, params):
        self.params = params
        self.protocols = {name: row.model_dump() for name, row in params.protocols.items()}
        self.published = published_figures()

    def recipe(self, stage, key, values, nets=(), protocols=(), policies=(), entries=(), neutral=NEUTRAL):
        """values, and the stage's code: its own, and what the row finds by name (nets, policies, further entries)."""
        policies = {*policies, *(protocol["augment"] for protocol in protocols)} - {"none"}
        found = (
            [ARCHITECTURES[parse(net)[0]] for net in nets]
            + [policy_named(policy) for policy in policies]
            + list(entries)
        )
        named = [(definition.__module__, definition.__qualname__) for definition in found]
        named += [tuple(arguments.values()) for arch, arguments in map(parse, nets) if arch == OWN]
        return {"key": key, **values, "code": fingerprint([(f"stages.{stage}", "stage"), *named], neutral)}

    def of_set(self, key):
        """What a cell's distilled sets depend on beside their evaluation, and their experts."""
        cell = self.params.cells[key]
        row = self.params.experts.get(cell.experts)
        return {"cell": cell.model_dump(exclude=NOT_OF_THE_SET), "experts": row and row.model_dump()}

    def prepare(self, key, row):
        published = {"source": SOURCES.get(row.source), "subset": SUBSETS.get(row.subset)}
        readers = [READERS[row.source]] if row.source else []
        return self.recipe("prepare", key, {"dataset": row.model_dump(), **published}, entries=readers)

    def whiten(self, key, row):
        return self.recipe("whiten", key, {"preprocessing": row.model_dump()})

    def experts(self, key, row):
        return self.recipe("experts", key, {"experts": row.model_dump()}, [row.net], policies=[row.augment])

    def distill(self, key, row):
        protocol, net = self.protocols[row.distill.eval_protocol], row.evaluate.nets[0]
        values = {**self.of_set(key), "protocol": protocol, "net": net}
        return self.recipe("distill", key, values, [row.distill.net, net], [protocol], entries=[METHODS[row.method]])

    def evaluate(self, key, row):
        protocol = self.protocols[row.evaluate.protocol]
        whole = row.evaluate.whole and self.protocols[row.evaluate.whole]
        values = {**self.of_set(key), "evaluate": row.evaluate.model_dump(exclude={"whole"}), "protocol": protocol}
        values |= {"whole": whole} if whole else {}
        return self.recipe("evaluate", key, values, row.evaluate.nets, [protocol, *([whole] if whole else [])])

    def application(self, stage, key, row, values=None, nets=(), policies=()):
        protocols = {column: self.protocols[getattr(row, column)] for column in PROTOCOLS[stage]}
        values = {"row": row.model_dump(), **self.of_set(key), "protocols": protocols | (values or {})}
        return self.recipe(stage, key, values, [row.net, *nets], protocols.values(), policies)

    def continual(self, key, row):
        return self.application("continual", key, row)

    def membership(self, key, row):
        return self.application("membership", key, row)

    def scores(self, key, row):
        protocol = self.protocols[self.params.cells[key].evaluate.protocol]
        nets, policies = [self.params.experts[row.experts].net], [protocol["augment"], row.augment]
        return self.application("scores", key, row, {"protocol": protocol}, nets, policies)

    def external(self, key, row):
        protocol = self.protocols[row.protocol]
        return self.recipe("external", key, {"row": row.model_dump(), "protocol": protocol}, row.nets, [protocol])

    def report(self, suite):
        """The suite's cells, and what published.yaml says of them, of their methods and of their experts."""
        cells = {key: cell.model_dump() for key, cell in self.params.cells.items() if cell.suite == suite}
        experts, named = ({cell[name] for cell in cells.values()} for name in ("experts", "method"))
        published = {name: self.published[name] for name in (named | {suite}) & self.published.keys()}
        published["networks"] = self.published["networks"]
        for table, keys in (("cells", cells), ("experts", experts)):
            published[table] = {key: figure for key, figure in self.published[table].items() if key in keys}
        sources = {cell["dataset"]: self.params.datasets[cell["dataset"]].source for cell in cells.values()}
        names = {dataset: SOURCES.get(source, {}).get("names") for dataset, source in sources.items()}
        values = {"cells": cells, "published": published, "class_names": names}
        return self.recipe("report", suite, values, neutral=shown())

    def index(self):
        """The suites, and every published figure with the cell that would measure it."""
        templates = {path.name: sha256(path) for path in sorted((REPORT / "templates").iterdir())}
        figures = [
            {
                "cell": key,
                "method": cell.method,
                "dataset": cell.dataset,
                "ipc": cell.distill.ipc,
                "network": net,
                **figure,
            }
            for key, cell in self.params.cells.items()
            for net in cell.evaluate.nets
            if (figure := figure_of(self.published, key, cell, net)) and cell.budget == "full"
        ]
        values = {"suites": self.params.suites, "external": list(self.params.external), "published": figures}
        return self.recipe("index", "all", {**values, "templates": templates}, neutral=shown())


def shown():
    """The neutral code of the stages that report: the report is what they make."""
    return [name for name in NEUTRAL if name != "lib.report"]


def text_of(recipe):
    """What a recipe's file holds."""
    return json.dumps(recipe, indent=1, sort_keys=True) + "\n"


def write_plan(params, folder=PLAN):
    """Write recipes that are new or changed, and the runtime, which is in none; remove others -> (recipes, written)."""
    planned = recipes(params).items()
    wanted = {folder / stage / f"{key}.json": recipe for stage, rows in planned for key, recipe in rows.items()}
    wanted[folder / "runtime.json"] = params.runtime.model_dump()
    for path in set(folder.rglob("*.json")) - wanted.keys():
        path.unlink()
    written = 0
    for path, recipe in wanted.items():
        text = text_of(recipe)
        if not path.is_file() or path.read_bytes() != text.encode():
            written += 1
            with replacing(path) as tmp:
                tmp.write_text(text, encoding="utf-8")
    return len(wanted), written
