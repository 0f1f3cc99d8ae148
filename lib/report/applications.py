"""Rows of results.json for the applications: continual learning, membership inference, fair scores."""

import numpy as np


def continual_rows(measured):
    """One row per kind of memory, from the continual stage's record; mean and deviation over orders and networks."""
    rows = []
    for kind, record in measured["kinds"].items():
        curves = np.array(record["curves"])  # (orders, networks, steps)
        steps = curves.shape[-1]
        rows.append({
            "cell": measured["cell"], "memory": kind, "orders": len(curves), "networks": curves.shape[1],
            "classes_seen": [measured["num_classes"] * (t + 1) // steps for t in range(steps)],
            "mean": curves.mean((0, 1)).round(2).tolist(), "std": curves.std((0, 1)).round(2).tolist(),
            "average_accuracy": round(float(curves.mean()), 2),
            "forgetting": round(float(np.mean(record["forgetting"])), 2),
            "final_orders": curves[..., -1].mean(1).round(2).tolist(),
        })  # fmt: skip
    return rows


def membership_rows(measured):
    """One row per kind of training set and number of updates, from the membership stage's record.

    An attack's AUC is the mean over the attacked networks. Its 95 % interval is that of one network (the mean standard
    error), because all are attacked on the same images. `best` names the attack of the highest AUC; `control` is that
    attack's AUC (for likelihood ratios, the threshold's) on a chunk that the network has not seen, or None.
    """
    rows = []
    for record in measured["rows"]:
        attacks = {}
        for name, networks in record["attacks"].items():
            mean = {key: float(np.mean([network[key] for network in networks])) for key in networks[0]}
            half = 1.96 * mean.pop("auc_se")
            attacks[name] = {key: round(value, 4) for key, value in mean.items()}
            attacks[name] |= {"auc_half_interval": round(half, 4), "networks": len(networks)}
        controlled = [name for name in attacks if name.startswith("control_")]
        controls = {name.removeprefix("control_"): attacks.pop(name)["auc"] for name in controlled}
        best, accuracy = max(attacks, key=lambda name: attacks[name]["auc"]), record["accuracy"]
        rows.append({
            "cell": measured["cell"], "trained_on": record["kind"], "updates": record["updates"],
            "accuracy_mean": round(float(np.mean(accuracy)), 2), "accuracy_std": round(float(np.std(accuracy)), 2),
            "best": best, "control": controls.get(best, controls.get("threshold")), "attacks": attacks,
        })  # fmt: skip
    return rows


def score_row(measured):
    """A cell's fair scores {name: [mean, deviation]} in percent, over the sets and runs of the scores stage."""
    runs = measured["rows"]
    names = dict.fromkeys(name for run in runs for name in run)
    values = {name: 100 * np.array([run[name] for run in runs]) for name in names}
    scores = {name: [round(float(v.mean()), 1), round(float(v.std()), 1)] for name, v in values.items()}
    whole = {"full": round(100 * measured["full"], 1), "teacher": round(100 * measured["teacher"], 1)}
    return {"cell": measured["cell"], "network": measured["net"], "runs": len(runs), "scores": scores, **whole}
