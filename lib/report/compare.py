"""Measured beside published: one row per cell and network; and a cell beside its baseline, seed by seed."""

import numpy as np

from .published import NO_FIGURE, figure_of

JUDGED = "above", "reached", "below", "reduced budget", NO_FIGURE
UNSTATED_STD = 0.25  # of a figure published without one, to the nearest percent


def make_row(key, cell, net, measured, history, table, stored_bytes=None):
    """One row of results.json for `net` of a cell.

    measured: the evaluate stage's record; history: the distill stage's; table: `published_figures()`; stored_bytes: of
    one seed's set as it is stored. accuracy_std is over all networks of all seeds, population form, as in the papers.
    """
    kinds, cfg, seeds = measured["nets"][net], cell.distill, history["seeds"].values()
    distilled, subset = kinds["distilled"], kinds["real_subset"]["accuracy"]
    accuracy = np.array(distilled["accuracy"])  # (seeds, networks)
    baselines, perturbed = kinds.get("baselines", {}), kinds.get("perturbed", {})
    row = {
        "cell": key, "suite": cell.suite, "method": cell.method, "dataset": cell.dataset, "ipc": cfg.ipc,
        "network": net, "distilled_on": cfg.net, "baseline": cell.baseline, "settings": vars(cfg),
        "protocol": cell.evaluate.protocol, "budget": cell.budget, "accuracy_mean": accuracy.mean(),
        "accuracy_at_half": np.mean(distilled["at_half"]) if "at_half" in distilled else None,
        "accuracy_std": accuracy.std(), "accuracy_seeds": accuracy.mean(1).round(2).tolist(),
        "n_networks": accuracy.shape[1], "n_seeds": accuracy.shape[0], "seeds": measured["seeds"],
        "checkpoint": "last step",
        "best_checkpoint_mean": np.mean(kinds["best_checkpoint"]["accuracy"]) if "best_checkpoint" in kinds else None,
        "real_subset_mean": np.mean(subset), "real_subset_std": np.std(subset),
        "baselines": {name: [np.mean(p).round(2).item(), np.std(p).round(2).item()] for name, p in baselines.items()},
        "perturbed": {std: [[round(min(d), 2), round(max(d), 2)] for d in draws] for std, draws in perturbed.items()},
        "whole_set_mean": np.mean(kinds["whole_set"]["accuracy"]) if "whole_set" in kinds else None,
        "krr_mean": np.mean(distilled["krr"]) if "krr" in distilled else None,
        "steps": cfg.steps, "wall_s": sum(run["wall_s"] for seed in seeds for run in seed["runs"]),
        "cpu_s": sum(run.get("cpu_s", 0) for seed in seeds for run in seed["runs"]) or None,
        "stored_bytes": stored_bytes,
    }  # fmt: skip
    for name in ("device", "commit", "torch", "date", "conv_dtype"):
        row[name] = ", ".join(dict.fromkeys(seed[name] for seed in seeds if name in seed))
    row["evaluated_in"] = measured.get("conv_dtype", "float32")
    row = {k: round(float(v), 2) if isinstance(v, float) else v for k, v in row.items()}
    return beside_published(row, cell, table)


def beside_published(row, cell, table):
    """A row of results.json with what the table says of its cell and network now, and with the verdict."""
    figure = figure_of(table, row["cell"], cell, row["network"])
    published = figure if figure.get("status") == "published" else {}
    row |= {
        "published_mean": published.get("mean"), "published_std": published.get("std"),
        "published_source": published.get("source", NO_FIGURE), "published_second": figure.get("second"),
        "unverified_mean": figure.get("mean") if figure.get("status") == "unverified" else None,
    }  # fmt: skip
    return row | {"judged": judged(row), "verdict": verdict(row)}


def measured_text(row):
    """The accuracy of a row in percent and, of several networks or seeds, its deviation."""
    several = row["n_networks"] * row["n_seeds"] > 1
    return f"{row['accuracy_mean']:.1f}" + (f" ± {row['accuracy_std']:.1f}" if several else "")


def provenance_lines(records):
    """One line per device and torch version: where results were computed, by which commits, and when.

    records: dictionaries with device, torch, commit and, except for old ones, date.
    """
    commits = {}
    for record in records:
        version = record.get("date", "no date"), record["commit"]
        commits.setdefault((record["device"], record["torch"]), set()).add(version)
    lines = []
    for (device, torch), versions in sorted(commits.items()):
        dated = ", ".join(f"{commit} ({date})" for date, commit in sorted(versions))
        lines.append(f"Computed on {device}, torch {torch}, commit{'s' * (len(versions) > 1)} {dated}")
    return lines


def difference(row):
    """Points above the published figure, by the threshold by which figures of two classes were published."""
    return row["accuracy_mean" if row["accuracy_at_half"] is None else "accuracy_at_half"] - row["published_mean"]


def judged(row):
    """One of JUDGED. A reduced budget or a missing figure is never called reached.

    The margin is twice the published deviation, not our own: results that scatter would reach any figure.
    """
    if row["published_mean"] is None:
        return NO_FIGURE
    if row["budget"] == "reduced":
        return "reduced budget"
    margin = 2 * (row["published_std"] or UNSTATED_STD)
    if difference(row) > margin:
        return "above"
    return "reached" if difference(row) >= -margin else "below"


def verdict(row):
    """The comparison in words."""
    over = f"{row['accuracy_mean'] - row['real_subset_mean']:+.1f} points against the real subset"
    word = judged(row)
    if word == NO_FIGURE:
        return f"{word}; {over}"
    if word == "reduced budget":
        return f"{word}, {difference(row):+.1f} from the published full one; {over}"
    return f"{word} ({difference(row):+.1f}); {over}"


def external_rows(measured):
    """One row per network of the external stage's record of somebody's set."""
    common = {name: measured[name] for name in ("row", "dataset", "images", "file", "device", "commit", "date")}
    return [
        common | {"network": net, "networks": len(accuracies), "mean": np.mean(accuracies), "std": np.std(accuracies)}
        for net, accuracies in measured["nets"].items()
    ]


def paired(rows):
    """Rows of any suites -> one comparison per row whose baseline has been measured on the same network.

    The difference is of the mean accuracies of the seeds that both have, with its 95 % interval and a paired t-test.
    """
    from scipy.stats import ttest_rel  # takes most of a second, which not every reader of rows waits for

    measured = {(row["cell"], row["network"]): row for row in rows}
    pairs = []
    for row in rows:
        base = measured.get((row.get("baseline"), row["network"]))
        if base is None:
            continue
        of_cell, of_base = (dict(zip(r["seeds"], r["accuracy_seeds"])) for r in (row, base))
        seeds = sorted(of_cell.keys() & of_base.keys())
        differences = np.array([of_cell[s] - of_base[s] for s in seeds])
        pair = {"cell": row["cell"], "baseline": base["cell"], "network": row["network"], "seeds": seeds}
        pair |= {"differences": differences.round(2).tolist()}
        pair |= {"mean": round(float(differences.mean()), 2) if seeds else None, "low": None, "high": None, "p": None}
        if len(seeds) > 1 and differences.std() > 0:
            test = ttest_rel([of_cell[s] for s in seeds], [of_base[s] for s in seeds])
            low, high = test.confidence_interval(0.95)
            pair |= {"low": round(float(low), 2), "high": round(float(high), 2), "p": round(float(test.pvalue), 4)}
        unequal = [name for name in ("protocol", "steps", "budget", "ipc") if row[name] != base[name]]
        pairs.append(pair | {"verdict": pair_verdict(pair, unequal)})
    return pairs


def pair_verdict(pair, unequal):
    """The comparison in words, with the names of the settings that differ."""
    suffix = f"; not alike in {', '.join(unequal)}" if unequal else ""
    if not pair["seeds"]:
        return "no seed in common" + suffix
    if pair["p"] is None:
        return f"{pair['mean']:+.1f} points; {len(pair['seeds'])} seed(s) in common: no test" + suffix
    if pair["p"] < 0.05:
        return f"{'better' if pair['mean'] > 0 else 'worse'} by {abs(pair['mean']):.1f} points" + suffix
    return "no significant difference: below the noise of the seeds" + suffix
