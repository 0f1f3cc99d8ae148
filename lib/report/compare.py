"""Measured beside published: one row for each cell and network; and a cell beside its baseline, seed by seed."""

import numpy as np
from scipy.stats import ttest_rel

from .published import NO_FIGURE, figure_of

UNSTATED_STD = 0.25  # of a figure given without one, to the nearest percent


def make_row(key, cell, net, measured, history, table):
    """One row of results.json for `net` of a cell.

    measured: what the evaluate stage wrote; history: what the distill stage wrote; table: `published_figures()`.
    accuracy_std is over all networks of all seeds, population form, as the papers give theirs.
    """
    kinds = measured["nets"][net]
    accuracy = np.array(kinds["distilled"]["accuracy"])  # (seeds, networks)
    figure = figure_of(table, key, cell, net)
    published = figure if figure.get("status") == "published" else {}
    seeds = history["seeds"].values()
    row = {
        "cell": key,
        "suite": cell.suite,
        "method": cell.method,
        "dataset": cell.dataset,
        "ipc": cell.distill.ipc,
        "network": net,
        "distilled_on": cell.distill.net,
        "baseline": cell.baseline,
        "settings": vars(cell.distill),
        "protocol": cell.evaluate.protocol,
        "budget": cell.budget,
        "accuracy_mean": accuracy.mean(),
        "accuracy_at_half": np.mean(kinds["distilled"]["at_half"]) if "at_half" in kinds["distilled"] else None,
        "accuracy_std": accuracy.std(),
        "accuracy_seeds": accuracy.mean(1).round(2).tolist(),
        "n_networks": accuracy.shape[1],
        "n_seeds": accuracy.shape[0],
        "seeds": measured["seeds"],
        "checkpoint": "last step",
        "best_checkpoint_mean": np.mean(kinds["best_checkpoint"]["accuracy"]) if "best_checkpoint" in kinds else None,
        "real_subset_mean": np.mean(kinds["real_subset"]["accuracy"]),
        "real_subset_std": np.std(kinds["real_subset"]["accuracy"]),
        "baselines": {
            name: [np.mean(each).round(2).item(), np.std(each).round(2).item()]
            for name, each in kinds.get("baselines", {}).items()
        },
        "perturbed": {
            std: [[round(min(own), 2), round(max(own), 2)] for own in each]
            for std, each in kinds.get("perturbed", {}).items()
        },
        "krr_mean": np.mean(kinds["distilled"]["krr"]) if "krr" in kinds["distilled"] else None,
        "published_mean": published.get("mean"),
        "published_std": published.get("std"),
        "published_source": published.get("source", NO_FIGURE),
        "unverified_mean": figure.get("mean") if figure.get("status") == "unverified" else None,
        "steps": cell.distill.steps,
        "wall_s": sum(run["wall_s"] for seed in seeds for run in seed["runs"]),
        **{
            name: ", ".join(dict.fromkeys(seed[name] for seed in seeds))
            for name in ("device", "commit", "torch", "date")
        },
    }
    row = {k: round(float(v), 2) if isinstance(v, float) else v for k, v in row.items()}
    return row | {"verdict": verdict(row)}


def provenance_lines(computed):
    """Where results come from, a line for each device and torch. computed: dictionaries with device, torch, commit and, but for old ones, date."""
    commits = {}
    for each in computed:
        commits.setdefault((each["device"], each["torch"]), set()).add((each.get("date", "no date"), each["commit"]))
    return [
        f"Computed on {device}, torch {torch}, commit{'s' * (len(found) > 1)} {', '.join(f'{commit} ({date})' for date, commit in sorted(found))}"
        for (device, torch), found in sorted(commits.items())
    ]


def verdict(row):
    """In words; a reduced budget or a missing figure is never called reached. The margin is the papers' own spread, twice."""
    gain = row["accuracy_mean"] - row["real_subset_mean"]
    over = f"{gain:+.1f} points against the real subset"
    if row["published_mean"] is None:
        return f"{NO_FIGURE}; {over}"
    by_half = row["accuracy_at_half"] is not None  # as those of two classes were published
    difference = row["accuracy_at_half" if by_half else "accuracy_mean"] - row["published_mean"]
    if row["budget"] == "reduced":
        return f"reduced budget, {difference:+.1f} from the published full one; {over}"
    margin = 2 * (row["published_std"] or UNSTATED_STD)  # not our own: runs that scatter would reach anything
    if difference > margin:
        return f"above ({difference:+.1f}); {over}"
    return f"{'reached' if difference >= -margin else 'below'} ({difference:+.1f}); {over}"


def external_rows(measured):
    """One row for each network of what the external stage wrote of somebody's set."""
    told = {name: measured[name] for name in ("row", "dataset", "images", "file", "device", "commit", "date")}
    return [
        told | {"network": net, "networks": len(each), "mean": np.mean(each), "std": np.std(each)}
        for net, each in measured["nets"].items()
    ]


def paired(rows):
    """Rows of any suites -> one comparison for each row whose baseline has been measured on the same network.

    The difference is of the mean accuracies of the seeds that both have, with its 95 % interval and a paired t-test over them.
    """
    measured = {(row["cell"], row["network"]): row for row in rows}
    pairs = []
    for row in rows:
        base = measured.get((row.get("baseline"), row["network"]))
        if base is None:
            continue
        ours, theirs = (dict(zip(r["seeds"], r["accuracy_seeds"])) for r in (row, base))
        seeds = sorted(ours.keys() & theirs.keys())
        differences = np.array([ours[s] - theirs[s] for s in seeds])
        pair = {
            "cell": row["cell"],
            "baseline": base["cell"],
            "network": row["network"],
            "seeds": seeds,
            "differences": differences.round(2).tolist(),
        }
        pair |= {"mean": round(float(differences.mean()), 2) if seeds else None, "low": None, "high": None, "p": None}
        if len(seeds) > 1 and differences.std() > 0:
            test = ttest_rel([ours[s] for s in seeds], [theirs[s] for s in seeds])
            low, high = test.confidence_interval(0.95)
            pair |= {"low": round(float(low), 2), "high": round(float(high), 2), "p": round(float(test.pvalue), 4)}
        unequal = [name for name in ("protocol", "steps", "budget", "ipc") if row[name] != base[name]]
        pairs.append(pair | {"verdict": pair_verdict(pair, unequal)})
    return pairs


def pair_verdict(pair, unequal):
    """In words; what differs besides the method is named."""
    but = f"; not alike in {', '.join(unequal)}" if unequal else ""
    if not pair["seeds"]:
        return "no seed in common" + but
    if pair["p"] is None:
        return f"{pair['mean']:+.1f} points; {len(pair['seeds'])} seed(s) in common: no test" + but
    if pair["p"] < 0.05:
        return f"{'better' if pair['mean'] > 0 else 'worse'} by {abs(pair['mean']):.1f} points" + but
    return "no significant difference: below the noise of the seeds" + but
