"""Set measured beside published: `python -m stages report SUITE`."""

import shutil

from lib import records
from lib.files import read_json
from lib.report.applications import continual_rows, membership_rows, score_row
from lib.report.compare import make_row, provenance_lines
from lib.report.figures import gallery
from lib.report.suite import application_figures, expert_figures, grid_figures, label_figure, learning_curves
from lib.tensors import load_tensors

from .common import DISTILLED, EVALUATED, EXPERTS, REPORTS
from .distilled import as_written, sets_at


def stage(recipe, runtime):
    """Write reports/SUITE: results.json and its figures, for every cell of the suite that has been evaluated."""
    suite, cells, published = recipe.key, vars(recipe.cells), recipe.published.plain()
    out, evaluated = REPORTS / suite, EVALUATED / suite
    out.mkdir(parents=True, exist_ok=True)
    cells = {key: cell for key, cell in cells.items() if (evaluated / f"{key}.json").exists()}
    tables = {"rows": [], "continual": [], "membership": [], "scores": [], "sentences": {}, "curves": {}}
    figures, computed = [], []
    for key, cell in cells.items():
        folder, applications = DISTILLED / suite / key, applications_of(evaluated, key)
        measured = records.read_metrics(evaluated / f"{key}.json", records.Evaluation)
        history = records.read_record(folder / "history.json", records.History)
        (first,), seeds = sets_at(folder, cell.distill.seeds[:1]), history["seeds"]
        stored = load_tensors(first)[0]
        bytes_ = sum(tensor.nbytes for tensor in stored.values())
        computed += [measured, *seeds.values(), *applications.values()]
        tables["rows"] += [make_row(key, cell, net, measured, history, published, bytes_) for net in cell.evaluate.nets]
        if cell.distill.class_steps == 1:
            tables["curves"][key] = {seed: record["runs"][0]["history"] for seed, record in seeds.items()}
        if (picture := first.with_suffix(".png")).exists():
            shutil.copyfile(as_written(picture), out / f"{key}.png")
            names = recipe.class_names.plain().get(cell.dataset)
            figures.append({"file": f"{key}.png", "cell": key, **gallery(stored, names, cell.distill)})
            if cell.method in ("sldd", "datm", "edf"):
                figures += label_figure(out, key, stored["y"])
        else:
            tables["sentences"][key] = read_json(as_written(first.with_suffix(".json")))
        tables["continual"] += continual_rows(applications["continual"]) if "continual" in applications else []
        tables["scores"] += [score_row(applications["scores"])] if "scores" in applications else []
        tables["membership"] += membership_rows(applications["membership"]) if "membership" in applications else []
    indices = {cell.experts: EXPERTS / cell.experts / "index.json" for cell in cells.values()}
    experts = {row: records.read_record(path, records.Experts) for row, path in indices.items() if path.exists()}
    figures += expert_figures(out, experts, published) + grid_figures(out, tables["rows"])
    figures += application_figures(out, tables["continual"], tables["membership"])
    learning_curves(out, tables["curves"])
    provenance = provenance_lines(computed)
    records.write_record(out / "results.json", {"suite": suite, **tables, "figures": figures, "provenance": provenance})


def applications_of(folder, key):
    """{application: its record} of a cell, of those that have been measured."""
    kinds = {"continual": records.Continual, "scores": records.Scores, "membership": records.Membership}
    paths = {name: folder / f"{key}.{name}.json" for name in kinds}
    return {name: records.read_metrics(path, kinds[name]) for name, path in paths.items() if path.exists()}
