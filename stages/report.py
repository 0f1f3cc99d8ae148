"""Set measured beside published: `python -m stages report SUITE`. Results that came with the clone stay."""

import shutil

from lib import records
from lib.files import read_json
from lib.report.applications import continual_rows, membership_rows, score_row
from lib.report.compare import beside_published, make_row, provenance_lines
from lib.report.figures import gallery
from lib.report.suite import application_figures, expert_figures, grid_figures, label_figure, learning_curves
from lib.tensors import load_tensors

from .common import DISTILLED, EVALUATED, EXPERTS, REPORTS
from .distilled import as_written, sets_at
from .elsewhere import Elsewhere


def stage(recipe, runtime):
    """Write reports/SUITE: results.json and its figures, for every cell of the suite that has been evaluated."""
    suite, planned, published = recipe.key, vars(recipe.cells), recipe.published.plain()
    out, evaluated, elsewhere = REPORTS / suite, EVALUATED / suite, Elsewhere(recipe.key, planned)
    out.mkdir(parents=True, exist_ok=True)
    cells = {key: cell for key, cell in planned.items() if (evaluated / f"{key}.json").exists()}
    tables, figures, computed = elsewhere.tables, [], elsewhere.tables["rows"]
    tables["rows"] = [beside_published(row, planned[row["cell"]], published) for row in computed]
    for key, cell in cells.items():
        folder, applications = DISTILLED / suite / key, applications_of(evaluated, key)
        measured = records.read_metrics(evaluated / f"{key}.json", records.Evaluation)
        history = records.read_record(folder / "history.json", records.History)
        (first,), seeds = sets_at(folder, cell.distill.seeds[:1]), history["seeds"]
        stored = load_tensors(first)[0]
        bytes_ = sum(tensor.nbytes for tensor in stored.values())
        computed = [*computed, measured, *seeds.values(), *applications.values()]
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
    tables = {name: in_order(table, planned) for name, table in tables.items()}
    indices = {cell.experts: EXPERTS / cell.experts / "index.json" for cell in cells.values()}
    experts = {row: records.read_record(path, records.Experts) for row, path in indices.items() if path.exists()}
    drawn = expert_figures(out, experts, published) + grid_figures(out, tables["rows"])
    drawn += application_figures(out, tables["continual"], tables["membership"])
    figures = in_order(figures + elsewhere.figures(figures + drawn), planned) + drawn
    learning_curves(out, tables["curves"])
    written = {"results.json", "steps.csv", *(figure["file"] for figure in figures)}
    for path in (path for path in out.iterdir() if path.name not in written and path.is_file()):
        path.unlink()
    provenance = provenance_lines(computed)
    records.write_record(out / "results.json", {"suite": suite, **tables, "figures": figures, "provenance": provenance})


def in_order(entries, cells):
    """The entries of a table, a list or a dict by cell, in the order of the suite's cells; those of no cell last."""
    place = {key: number for number, key in enumerate(cells)}
    if isinstance(entries, dict):
        return dict(sorted(entries.items(), key=lambda entry: place[entry[0]]))
    return sorted(entries, key=lambda entry: place.get(entry.get("cell"), len(place)))


def applications_of(folder, key):
    """{application: its record} of a cell, of those that have been measured."""
    kinds = {"continual": records.Continual, "scores": records.Scores, "membership": records.Membership}
    paths = {name: folder / f"{key}.{name}.json" for name in kinds}
    return {name: records.read_metrics(path, kinds[name]) for name, path in paths.items() if path.exists()}
