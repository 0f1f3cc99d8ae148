"""Set measured beside published: `python -m stages.report SUITE`; `python -m stages.report index` makes the page of all suites."""

import shutil
import sys

from lib.files import read_json, write_json
from lib.report.compare import make_row, published_figures
from lib.report.figures import plot_ipc, plot_steps
from lib.report.page import write_page

from .common import DISTILLED, EVALUATED, REPORTS, main


def stage(params, suite):
    """Write reports/SUITE: results.json and its figures, for every cell of the suite that has been evaluated."""
    out, table = REPORTS / suite, published_figures()
    out.mkdir(parents=True, exist_ok=True)
    rows, figures, curves, lines = [], [], {}, {}
    for key, cell in params.cells.items():
        evaluated = EVALUATED / suite / f"{key}.json"
        if cell.suite != suite or not evaluated.exists():
            continue
        folder = DISTILLED / suite / key
        measured, history = read_json(evaluated), read_json(folder / "history.json")
        rows += [make_row(key, cell, net, measured, history, table) for net in cell.evaluate.nets]
        curves[key] = [[(point["step"], point["accuracy"]) for point in run["history"]] for run in history["runs"].values()]
        name = f"{key}.png"
        shutil.copyfile(folder / f"seed{cell.distill.seeds[0]}.png", out / name)
        figures.append({"file": name, "caption": f"{key}: the distilled images, one class after the other (seed {cell.distill.seeds[0]})"})
    for row in rows:
        for kind in ("accuracy", "real_subset"):
            label = f"{row['dataset']} {row['network']}, {row['method'] if kind == 'accuracy' else 'real subset'}"
            lines.setdefault(label, []).append((row["ipc"], row[f"{kind}_mean"], row[f"{kind}_std"]))
    if rows:
        plot_steps(out / "steps.svg", curves)
        figures.append({"file": "steps.svg", "caption": "Accuracy during distillation, by the cell's watching protocol; one line a seed"})
    if any(len(points) > 1 for points in lines.values()):
        plot_ipc(out / "ipc.svg", {label: points for label, points in lines.items() if len(points) > 1})
        figures.append({"file": "ipc.svg", "caption": "Accuracy against images per class"})
    provenance = sorted({f"Computed on {r['device']}, torch {r['torch']}, commit {r['commit']}" + (r["date"] and f", {r['date']}" or "") for r in rows})
    write_json(out / "results.json", {"suite": suite, "rows": rows, "figures": figures, "provenance": provenance})


if __name__ == "__main__":
    if sys.argv[1:] == ["index"]:
        write_page(REPORTS)
    else:
        main(stage, "suites")
