"""Set measured beside published: `python -m stages report SUITE`."""

import shutil

from lib.files import load_tensors, read_json, read_metrics, write_json
from lib.report.applications import continual_rows, membership_rows, score_row
from lib.report.compare import make_row, provenance_lines
from lib.report.suite import application_figures, expert_figures, grid_figures, label_figure

from .common import DISTILLED, EVALUATED, EXPERTS, REPORTS


def stage(recipe, runtime):
    """Write reports/SUITE: results.json and its figures, for every cell of the suite that has been evaluated."""
    suite, cells, published = recipe.key, vars(recipe.cells), recipe.published.plain()
    out, evaluated = REPORTS / suite, EVALUATED / suite
    out.mkdir(parents=True, exist_ok=True)
    cells = {key: cell for key, cell in cells.items() if (evaluated / f"{key}.json").exists()}
    tables = {"rows": [], "continual": [], "membership": [], "scores": [], "sentences": {}}
    galleries, curves, computed = [], {}, []
    for key, cell in cells.items():
        folder, applications = DISTILLED / suite / key, applications_of(evaluated, key)
        measured, history = read_metrics(evaluated / f"{key}.json"), read_json(folder / "history.json")
        seeds = history["seeds"]
        computed += [measured, *seeds.values(), *applications.values()]
        tables["rows"] += [make_row(key, cell, net, measured, history, published) for net in cell.evaluate.nets]
        if cell.distill.class_steps == 1:
            runs = {seed: record["runs"][0]["history"] for seed, record in seeds.items()}
            curves[key] = {
                seed: [(each["step"], round(each["accuracy"], 2)) for each in run] for seed, run in runs.items()
            }
        first = folder / f"seed{cell.distill.seeds[0]}.png"
        if first.exists():
            shutil.copyfile(first, out / f"{key}.png")
            caption = f"{key}: the distilled images, one class after the other (seed {cell.distill.seeds[0]})"
            galleries.append({"file": f"{key}.png", "caption": caption})
            if cell.method in ("sldd", "datm", "edf"):
                galleries += label_figure(out, key, load_tensors(first.with_suffix(".safetensors"))[0]["y"])
        else:
            tables["sentences"][key] = read_json(first.with_suffix(".json"))
        tables["continual"] += continual_rows(applications["continual"]) if "continual" in applications else []
        tables["scores"] += [score_row(applications["scores"])] if "scores" in applications else []
        tables["membership"] += membership_rows(applications["membership"]) if "membership" in applications else []
    indices = {cell.experts: EXPERTS / cell.experts / "index.json" for cell in cells.values()}
    experts = {row: read_json(path) for row, path in indices.items() if path.exists()}
    figures = galleries + expert_figures(out, experts, published) + grid_figures(out, tables["rows"], curves)
    figures += application_figures(out, tables["continual"], tables["membership"])
    provenance = provenance_lines(computed)
    write_json(out / "results.json", {"suite": suite, **tables, "figures": figures, "provenance": provenance})


def applications_of(folder, key):
    """{application: its record} of a cell, of those that have been measured."""
    paths = {name: folder / f"{key}.{name}.json" for name in ("continual", "scores", "membership")}
    return {name: read_metrics(path) for name, path in paths.items() if path.exists()}
