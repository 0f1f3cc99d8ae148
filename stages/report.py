"""Set measured beside published: `python -m stages report SUITE`."""

import shutil

from lib.files import load_tensors, read_json, write_json
from lib.report.applications import continual_rows, membership_rows, score_row
from lib.report.compare import make_row, provenance_lines, published_figures
from lib.report.suite import application_figures, expert_figures, grid_figures, label_figure

from .common import DISTILLED, EVALUATED, EXPERTS, REPORTS


def stage(params, suite):
    """Write reports/SUITE: results.json and its figures, for every cell of the suite that has been evaluated."""
    out, table = REPORTS / suite, published_figures()
    out.mkdir(parents=True, exist_ok=True)
    rows, continual, membership, galleries, sentences, curves, computed, experts, scores = [], [], [], [], {}, {}, [], [], []
    for key, cell in params.cells.items():
        evaluated = EVALUATED / suite / f"{key}.json"
        if cell.suite != suite or not evaluated.exists():
            continue
        folder = DISTILLED / suite / key
        experts += [cell.experts] if cell.experts else []
        measured, history = read_json(evaluated), read_json(folder / "history.json")
        computed += [measured, *history["seeds"].values()]
        rows += [make_row(key, cell, net, measured, history, table) for net in cell.evaluate.nets]
        if cell.distill.class_steps == 1:
            curves[key] = {seed: [(at["step"], round(at["accuracy"], 2)) for at in own["runs"][0]["history"]] for seed, own in history["seeds"].items()}
        first = folder / f"seed{cell.distill.seeds[0]}.png"
        if first.exists():
            shutil.copyfile(first, out / f"{key}.png")
            galleries.append({"file": f"{key}.png", "caption": f"{key}: the distilled images, one class after the other (seed {cell.distill.seeds[0]})"})
            if cell.method in ("sldd", "datm", "edf"):
                galleries += label_figure(out, key, load_tensors(first.with_suffix(".safetensors"))[0]["y"])
        else:
            sentences[key] = read_json(first.with_suffix(".json"))
        if (path := evaluated.with_name(f"{key}.continual.json")).exists():
            computed.append(found := read_json(path))
            continual += continual_rows(found)
        if (path := evaluated.with_name(f"{key}.scores.json")).exists():
            computed.append(found := read_json(path))
            scores.append(score_row(found))
        if (path := evaluated.with_name(f"{key}.membership.json")).exists():
            computed.append(found := read_json(path))
            membership += membership_rows(found)
    indices = {row: EXPERTS / row / "index.json" for row in dict.fromkeys(experts)}
    galleries += expert_figures(out, {row: read_json(path) for row, path in indices.items() if path.exists()}, table)
    figures = galleries + grid_figures(out, rows, curves) + application_figures(out, continual, membership)
    tables = {"rows": rows, "continual": continual, "membership": membership, "scores": scores, "sentences": sentences}
    write_json(out / "results.json", {"suite": suite, **tables, "figures": figures, "provenance": provenance_lines(computed)})
