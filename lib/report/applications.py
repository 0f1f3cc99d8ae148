"""Rows of results.json for the applications: continual learning, membership inference, fair scores."""

import numpy as np


def continual_rows(measured):
    """One row for each kind of memory, from what the continual stage wrote; percent and points, deviations over orders and networks."""
    rows = []
    for kind, found in measured["kinds"].items():
        curves = np.array(found["curves"])  # (orders, networks, steps)
        steps = curves.shape[-1]
        rows.append({
            "cell": measured["cell"], "memory": kind, "orders": len(curves), "networks": curves.shape[1],
            "classes_seen": [measured["num_classes"] * (t + 1) // steps for t in range(steps)],
            "mean": curves.mean((0, 1)).round(2).tolist(), "std": curves.std((0, 1)).round(2).tolist(),
            "average_accuracy": round(float(curves.mean()), 2), "forgetting": round(float(np.mean(found["forgetting"])), 2),
            "final_orders": curves[..., -1].mean(1).round(2).tolist(),
        })  # fmt: skip
    return rows


def membership_rows(measured):
    """One row for each kind of training set and number of updates, from what the membership stage wrote.

    An attack's AUC is the mean over the attacked networks; its interval, 95 %, is that of one network (their mean standard
    error), since the networks are attacked on the same images. `best` names the attack of the highest AUC; `control` is the
    AUC of that attack (of the threshold for likelihood ratios) on a chunk that the network has not seen, None without one.
    """
    rows = []
    for found in measured["rows"]:
        attacks = {}
        for name, each in found["attacks"].items():
            mean = {k: float(np.mean([one[k] for one in each])) for k in each[0]}
            half = 1.96 * mean.pop("auc_se")
            attacks[name] = {k: round(v, 4) for k, v in mean.items()} | {
                "auc_half_interval": round(half, 4),
                "networks": len(each),
            }
        controls = {
            name.removeprefix("control_"): attacks.pop(name)["auc"]
            for name in list(attacks)
            if name.startswith("control_")
        }
        best = max(attacks, key=lambda name: attacks[name]["auc"])
        rows.append({
            "cell": measured["cell"], "trained_on": found["kind"], "updates": found["updates"],
            "accuracy_mean": round(float(np.mean(found["accuracy"])), 2), "accuracy_std": round(float(np.std(found["accuracy"])), 2),
            "best": best, "control": controls.get(best, controls.get("threshold")), "attacks": attacks,
        })  # fmt: skip
    return rows


def score_row(measured):
    """One row of a cell's fair scores, from what the scores stage wrote: {name: [mean, deviation]} over sets and runs, all in percent."""
    names = dict.fromkeys(name for found in measured["rows"] for name in found)
    values = {name: 100 * np.array([found[name] for found in measured["rows"]]) for name in names}
    scores = {name: [round(float(each.mean()), 1), round(float(each.std()), 1)] for name, each in values.items()}
    whole = {"full": round(100 * measured["full"], 1), "teacher": round(100 * measured["teacher"], 1)}
    return {
        "cell": measured["cell"],
        "network": measured["net"],
        "runs": len(measured["rows"]),
        "scores": scores,
        **whole,
    }
