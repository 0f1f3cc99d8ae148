"""The figures of a suite, from its rows: each is written beside results.json and described by its file and caption."""

import csv

import numpy as np

from ..files import replacing
from .figures import plot_continual, plot_experts, plot_heat, plot_ipc, plot_membership, plot_steps

SHOWN_LABELS = 20
MEMORIES = {"distilled": "distilled", "random": "random real images", "herding": "herded real images"}
TRAINED_ON = {
    "distilled": "on the distilled set",
    "initial": "on the images it started from",
    "real": "on the chunk itself",
}


def grid_figures(out, rows, curves):
    """Accuracy against steps, as a table in steps.csv too, and against images per class, and the heat map over networks.

    curves: {cell: {seed: [(step, accuracy), ...]}}, of which those with several points are drawn.
    """
    figures = []
    if curves := {cell: seeds for cell, seeds in curves.items() if max(map(len, seeds.values())) > 1}:
        with replacing(out / "steps.csv") as tmp, tmp.open("w", newline="") as file:
            points = [
                (cell, seed, *point) for cell, seeds in curves.items() for seed, own in seeds.items() for point in own
            ]
            csv.writer(file, lineterminator="\n").writerows([("cell", "seed", "step", "accuracy"), *points])
        plot_steps(out / "steps.svg", {cell: list(seeds.values()) for cell, seeds in curves.items()})
        figures.append(
            {
                "file": "steps.svg",
                "caption": "Accuracy during distillation, by the cell's protocol for it; one line a seed",
                "wide": True,
            }
        )
    lines = {}
    for row in rows:
        if (
            row["cell"] == f"{row['suite']}-{row['method']}-{row['dataset']}-ipc{row['ipc']}"
        ):  # a suffix means other settings
            for kind in ("accuracy", "real_subset"):
                label = f"{row['dataset']} {row['network']}, {row['method'] if kind == 'accuracy' else 'real subset'}"
                lines.setdefault(label, {})[row["ipc"]] = (row["ipc"], row[f"{kind}_mean"], row[f"{kind}_std"])
    lines = {label: list(points.values()) for label, points in lines.items() if len(points) > 1}
    if lines:
        plot_ipc(out / "ipc.svg", lines)
        figures.append({"file": "ipc.svg", "caption": "Accuracy against images per class"})
    networks = list(dict.fromkeys(row["network"] for row in rows))
    crossed = [
        cell for cell in dict.fromkeys(row["cell"] for row in rows) if sum(row["cell"] == cell for row in rows) > 1
    ]
    if crossed:
        values = np.full((len(crossed), len(networks)), np.nan)
        for row in rows:
            if row["cell"] in crossed:
                values[crossed.index(row["cell"]), networks.index(row["network"])] = row["accuracy_mean"]
        plot_heat(out / "networks.svg", crossed, networks, values)
        figures.append(
            {
                "file": "networks.svg",
                "caption": "Across architectures: accuracy (%) on the distilled set of the last step",
            }
        )
    return figures


def expert_figures(out, rows, table):
    """The learning curves of each row of experts. rows: {key: its index.json}; table: `published_figures()`."""
    figures = []
    for key, index in rows.items():
        curves = {split: np.array([entry[split] for entry in index["experts"]]) for split in ("test", "train")}
        known = table.get("experts", {}).get(key, {})
        plot_experts(out / f"{key}.experts.svg", curves, {split: known[split] for split in curves if split in known})
        last = curves["test"][:, -1]
        caption = f"Experts {key}: {len(last)} of {index['net']}, {last.mean():.1f} +- {last.std():.1f} % on the test set after {curves['test'].shape[1]} epochs"
        beside = f"; published: {known['source']}" if known else "; no published curve"
        figures.append(
            {"file": f"{key}.experts.svg", "caption": f"{caption} (train: as augmented, on the way){beside}"}
        )
    return figures


def label_figure(out, key, y):
    """The learned labels y (N, C) of a small set, as a heat map; nothing where they are not learned or the set is large."""
    if not 1 < len(y) <= SHOWN_LABELS or set(y.flatten().tolist()) <= {0.0, 1.0}:
        return []
    plot_heat(
        out / f"{key}.labels.svg",
        [f"image {i + 1}" for i in range(len(y))],
        [f"class {c}" for c in range(y.shape[1])],
        y.numpy(),
    )
    return [{"file": f"{key}.labels.svg", "caption": f"{key}: the learned labels, as networks are trained on them"}]


def application_figures(out, continual, membership):
    """A figure for each cell with an application, from the rows of `applications`."""
    figures = []
    for cell in dict.fromkeys(row["cell"] for row in continual):
        name, of = f"{cell}.continual.svg", [row for row in continual if row["cell"] == cell]
        plot_continual(
            out / name,
            {MEMORIES[r["memory"]]: (np.array(r["classes_seen"]), np.array(r["mean"]), np.array(r["std"])) for r in of},
        )
        spread = f"mean and standard deviation over {of[0]['orders']} class orders x {of[0]['networks']} networks"
        figures.append(
            {
                "file": name,
                "caption": f"{cell}: accuracy on all classes seen so far, of networks trained on the memory; {spread}",
            }
        )
    for cell in dict.fromkeys(row["cell"] for row in membership):
        name, lines = f"{cell}.membership.svg", {}
        for row in (r for r in membership if r["cell"] == cell):
            best = row["attacks"][row["best"]]
            lines.setdefault(TRAINED_ON[row["trained_on"]], []).append(
                (row["accuracy_mean"], best["auc"], best["auc_half_interval"])
            )
        plot_membership(out / name, lines)
        caption = f"{cell}: what the strongest attack tells of membership, against accuracy, of networks trained {', '.join(lines)}; dotted: nothing"
        figures.append({"file": name, "caption": caption})
    return figures
