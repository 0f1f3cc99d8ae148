"""The figures of a suite, from its rows: each is written beside results.json and described by its file and caption."""

import csv

import numpy as np

from ..files import replacing
from .figures import plot_continual, plot_experts, plot_heat, plot_ipc, plot_membership

SHOWN_LABELS = 20
MEMORIES = {
    "distilled": "distilled",
    "blocked": "distilled, batches by class",
    "random": "random real images",
    "herding": "herded real images",
}
TRAINED_ON = {
    "distilled": "on the distilled set",
    "initial": "on the images it started from",
    "real": "on the chunk itself",
}


def learning_curves(out, curves):
    """Write steps.csv: accuracy during distillation. curves: {cell: {seed: [{"step", "accuracy", ...}, ...]}}."""
    columns = "step", "accuracy", "wall_s", "cpu_s"
    with replacing(out / "steps.csv") as tmp, tmp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("cell", "seed", *columns))
        for cell, seeds in curves.items():
            for seed, points in seeds.items():
                writer.writerows((cell, seed, *map(point.get, columns)) for point in points)


def grid_figures(out, rows):
    """Accuracy against images per class, and the heat map over networks."""
    figures, lines = [], {}
    for row in rows:
        name = f"{row['suite']}-{row['method']}-{row['dataset']}-ipc{row['ipc']}"
        if row["cell"] == name:  # a suffix means other settings
            for kind in ("accuracy", "real_subset"):
                label = f"{row['dataset']} {row['network']}, {row['method'] if kind == 'accuracy' else 'real subset'}"
                lines.setdefault(label, {})[row["ipc"]] = (row["ipc"], row[f"{kind}_mean"], row[f"{kind}_std"])
    lines = {label: list(points.values()) for label, points in lines.items() if len(points) > 1}
    if lines:
        plot_ipc(out / "ipc.svg", lines)
        figures.append({"file": "ipc.svg", "caption": "Accuracy against images per class"})
    networks, cells = list(dict.fromkeys(row["network"] for row in rows)), [row["cell"] for row in rows]
    crossed = [cell for cell in dict.fromkeys(cells) if cells.count(cell) > 1]
    if crossed:
        values = np.full((len(crossed), len(networks)), np.nan)
        for row in rows:
            if row["cell"] in crossed:
                values[crossed.index(row["cell"]), networks.index(row["network"])] = row["accuracy_mean"]
        plot_heat(out / "networks.svg", crossed, networks, values)
        caption = "Across architectures: accuracy (%) on the distilled set of the last step"
        figures.append({"file": "networks.svg", "caption": caption})
    return figures


def expert_figures(out, rows, table):
    """The learning curves of each row of experts. rows: {key: its index.json}; table: `published_figures()`."""
    figures = []
    for key, index in rows.items():
        curves = {split: np.array([expert[split] for expert in index["experts"]]) for split in ("test", "train")}
        published = table.get("experts", {}).get(key, {})
        name, shown = f"{key}.experts.svg", {split: published[split] for split in curves if split in published}
        plot_experts(out / name, curves, shown)
        (count, epochs), last = curves["test"].shape, curves["test"][:, -1]
        accuracy = f"{last.mean():.1f} +- {last.std():.1f} % on the test set after {epochs} epochs"
        source = f"published: {published['source']}" if published else "no published curve"
        caption = f"Experts {key}: {count} of {index['net']}, {accuracy} (train: as augmented, on the way); {source}"
        figures.append({"file": name, "experts": key, "caption": caption})
    return figures


def label_figure(out, key, y):
    """A heat map of the learned labels y (N, C) of a small set; nothing if they are not learned or the set is large."""
    if not 1 < len(y) <= SHOWN_LABELS or set(y.flatten().tolist()) <= {0.0, 1.0}:
        return []
    name, images = f"{key}.labels.svg", [f"image {i + 1}" for i in range(len(y))]
    plot_heat(out / name, images, [f"class {c}" for c in range(y.shape[1])], y.numpy())
    return [{"file": name, "cell": key, "caption": "The learned labels, as networks are trained on them"}]


def application_figures(out, continual, membership):
    """A figure for each cell with an application, from the rows of `applications`."""
    figures = []
    for cell, rows in by_cell(continual).items():
        curves = {MEMORIES[r["memory"]]: [np.array(r[k]) for k in ("classes_seen", "mean", "std")] for r in rows}
        name, counts = f"{cell}.continual.svg", f"{rows[0]['orders']} class orders x {rows[0]['networks']} networks"
        plot_continual(out / name, curves)
        caption = "Continual learning: accuracy on all classes seen so far, of networks trained on the memory"
        caption = f"{caption}; mean and standard deviation over {counts}"
        figures.append({"file": name, "cell": cell, "caption": caption})
    for cell, rows in by_cell(membership).items():
        name, lines = f"{cell}.membership.svg", {}
        for row in rows:
            best = row["attacks"][row["best"]]
            point = row["accuracy_mean"], best["auc"], best["auc_half_interval"]
            lines.setdefault(TRAINED_ON[row["trained_on"]], []).append(point)
        plot_membership(out / name, lines)
        caption = "Membership inference: how well the strongest attack tells the training images from others (0.5, "
        caption += f"dotted: not at all), against accuracy, of networks trained {', '.join(lines)}"
        figures.append({"file": name, "cell": cell, "caption": caption})
    return figures


def by_cell(rows):
    """{cell: its rows}."""
    return {cell: [row for row in rows if row["cell"] == cell] for cell in dict.fromkeys(row["cell"] for row in rows)}
