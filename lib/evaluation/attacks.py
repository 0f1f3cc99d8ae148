"""Membership attacks: scores from a network's outputs on images, and how well they tell members from non-members.

Source: reference sheet of FRePo, section 11: five attacks on (logits, squared loss), the learned ones cross-fitted in
two halves; and the likelihood-ratio attack (LiRA) of Carlini et al. 2022. A score is larger for images that look like
members. All functions are on numpy arrays; `membership.py` trains the networks.
"""

import warnings

import numpy as np
from scipy.stats import norm, rankdata

GRIDS = {  # hyperparameter searches of the released attacks
    "logistic": {"C": np.logspace(-4, 2, 10)},
    "mlp": {"hidden_layer_sizes": [(64,), (32, 32)], "alpha": [1e-4, 1e-3, 1e-2]},
    "forest": {"max_depth": [5, 10, 20, None], "min_samples_split": [2, 5, 10], "min_samples_leaf": [1, 2, 4]},
    "neighbours": {"n_neighbors": [3, 5, 7]},
}
ATTACKS = ("threshold", *GRIDS)


def losses(logits, labels):
    """Half the squared error (..., n) of logits (..., n, C) to the centred labels (data.labels) of classes (n,)."""
    classes = logits.shape[-1]
    return 0.5 * np.square(logits - (np.eye(classes)[labels] - 1 / classes) / (classes / 10) ** 0.5).sum(-1)


def learned_attack(name, grid_search, seed):
    """One of the released attacks' classifiers, with its grid search or with one middle setting."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    model = {
        "logistic": LogisticRegression(max_iter=1000),
        "mlp": MLPClassifier((64,), alpha=1e-3, random_state=seed),
        "forest": RandomForestClassifier(100, max_depth=10, min_samples_leaf=4, max_features="sqrt", random_state=seed),
        "neighbours": KNeighborsClassifier(7),
    }[name]
    return GridSearchCV(model, GRIDS[name], cv=3, n_jobs=-1) if grid_search else model


def attack_scores(name, logits, labels, member, grid_search, seed):
    """Scores (n,) of one of ATTACKS on logits (n, C), labels (n,) and member (n,) bool.

    A learned attack scores each half of the images by a classifier trained on the other half.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    loss = losses(logits, labels)
    if name == "threshold":
        return -loss
    halves = StratifiedKFold(2, shuffle=True, random_state=seed)
    examples, classifier = np.column_stack([logits, loss]), learned_attack(name, grid_search, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the MLP stops after 200 epochs, as released
        return cross_val_predict(classifier, examples, member, cv=halves, method="predict_proba")[:, 1]


def confidence(loss):
    """An image's confidence for the likelihood ratio: minus the log of its loss, about normal over networks."""
    return -np.log(loss + 1e-12)


def likelihood_ratio(target, shadows, inside=None):
    """LiRA scores (n,) from the confidences of the target network (n,) and of S shadow networks (S, n).

    inside (S, n) bool: which images each shadow network was trained on, about half; the score is the log-likelihood
    ratio of the two normals. None: no shadow network saw any of them; the score is the number of standard deviations
    above their mean (the offline attack). Means are per image; all images share one deviation, as for few shadows.
    """
    outside = np.ones_like(shadows, bool) if inside is None else ~inside

    def fit(mask):
        mean = np.average(shadows, axis=0, weights=mask)
        return mean, np.sqrt(np.average(np.square(shadows - mean), weights=mask)) + 1e-12

    out_mean, out_std = fit(outside)
    if inside is None:
        return (target - out_mean) / out_std
    return norm.logpdf(target, *fit(inside)) - norm.logpdf(target, out_mean, out_std)


def auc_and_variance(score, member):
    """Area under the ROC curve and its variance over images (DeLong et al. 1988; ties count one half)."""
    positive, negative = score[member], score[~member]
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - rankdata(positive)) / n  # for each member, the fraction of non-members below it
    below = 1 - (ranks[m:] - rankdata(negative)) / m
    return above.mean(), above.var(ddof=1) / m + below.var(ddof=1) / n


def measure(score, member, seed):
    """AUC and its standard error, balanced accuracy, and true positive rates at false positive rates of 0.1 % and 1 %.

    The balanced accuracy's threshold for one half of the images is the best one of the other half.
    """
    from sklearn.metrics import balanced_accuracy_score, roc_curve
    from sklearn.model_selection import StratifiedKFold

    auc, variance = auc_and_variance(score, member)
    predicted = np.empty_like(member)
    for fit, held_out in StratifiedKFold(2, shuffle=True, random_state=seed).split(score[:, None], member):
        fpr, tpr, thresholds = roc_curve(member[fit], score[fit])
        predicted[held_out] = score[held_out] >= thresholds[(tpr - fpr).argmax()]
    fpr, tpr, _ = roc_curve(member, score, drop_intermediate=False)
    at_rates = {f"tpr_at_{100 * rate:g}": float(tpr[fpr <= rate].max()) for rate in (0.001, 0.01)}
    balanced = float(balanced_accuracy_score(member, predicted))
    return {"auc": float(auc), "auc_se": float(variance**0.5), "balanced_accuracy": balanced, **at_rates}
