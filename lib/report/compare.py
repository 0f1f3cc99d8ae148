"""Measured beside published: one row for each cell and network."""

from pathlib import Path

import numpy as np
import yaml

TABLE = Path(__file__).with_name("published.yaml")
NO_FIGURE = "no published figure"


def published_figures(path=TABLE):
    return yaml.safe_load(Path(path).read_text())


def make_row(key, cell, net, measured, history, table):
    """One row of results.json for `net` of a cell.

    measured: what the evaluate stage wrote; history: what the distill stage wrote; table: `published_figures()`.
    accuracy_std is over all networks of all seeds, population form, as the papers give theirs.
    """
    kinds = measured["nets"][net]
    accuracy = np.array(kinds["distilled"]["accuracy"])  # (seeds, networks)
    figure = _figure(table, cell, net)
    published = figure if figure.get("status") == "published" else {}
    runs = history["runs"].values()
    row = {
        "cell": key,
        "suite": cell.suite,
        "method": cell.method,
        "dataset": cell.dataset,
        "ipc": cell.distill.ipc,
        "network": net,
        "distilled_on": cell.distill.net,
        "protocol": cell.evaluate.protocol,
        "budget": cell.budget,
        "accuracy_mean": accuracy.mean(),
        "accuracy_std": accuracy.std(),
        "accuracy_seeds": accuracy.mean(1).round(2).tolist(),
        "n_networks": accuracy.shape[1],
        "n_seeds": accuracy.shape[0],
        "seeds": measured["seeds"],
        "checkpoint": "last step",
        "best_checkpoint_mean": np.mean(kinds["best_checkpoint"]["accuracy"]) if "best_checkpoint" in kinds else None,
        "real_subset_mean": np.mean(kinds["real_subset"]["accuracy"]),
        "real_subset_std": np.std(kinds["real_subset"]["accuracy"]),
        "krr_mean": np.mean(kinds["distilled"]["krr"]),
        "published_mean": published.get("mean"),
        "published_std": published.get("std"),
        "published_source": published.get("source", NO_FIGURE),
        "unverified_mean": figure.get("mean") if figure.get("status") == "unverified" else None,
        "steps": cell.distill.steps,
        "wall_s": sum(run["wall_s"] for run in runs),
        "device": history["device"],
        "commit": history["commit"],
        "torch": history["torch"],
        "date": history.get("date"),
    }
    row = {k: round(float(v), 2) if isinstance(v, float) else v for k, v in row.items()}
    return row | {"verdict": verdict(row)}


def _figure(table, cell, net):
    """The figure for a cell evaluated on the architecture it was distilled on, its norm aside; else nothing."""
    same = net.split("-")[0] == cell.distill.net.split("-")[0]
    suite = table.get(cell.suite if cell.suite in table else cell.method, {})
    return suite.get(cell.dataset, {}).get(cell.distill.ipc, {}) if same else {}


def verdict(row):
    """In words; a reduced budget or a missing figure is never called reached. The margin is the papers' own spread, twice."""
    gain = row["accuracy_mean"] - row["real_subset_mean"]
    over = f"{gain:+.1f} points against the real subset"
    if row["published_mean"] is None:
        return f"{NO_FIGURE}; {over}"
    difference = row["accuracy_mean"] - row["published_mean"]
    if row["budget"] == "reduced":
        return f"reduced budget, {difference:+.1f} from the published full one; {over}"
    margin = 2 * max(row["published_std"], row["accuracy_std"])
    if difference > margin:
        return f"above ({difference:+.1f}); {over}"
    return f"{'reached' if difference >= -margin else 'below'} ({difference:+.1f}); {over}"
