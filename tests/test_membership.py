"""Membership attacks on scores of known AUC, their intervals, the likelihood ratio, and the pool of the stage."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from lib.config.load import load_params
from lib.config.models import Protocol
from lib.data.labels import initial_labels
from lib.data.preprocess import Preprocess
from lib.data.real import RealSet, part_of
from lib.evaluation.attacks import (
    ATTACKS,
    attack_scores,
    auc_and_variance,
    confidence,
    likelihood_ratio,
    losses,
    measure,
)
from lib.evaluation.membership import Candidates
from lib.rng import generator

N = 1500


def gaussian(shift, n=N, seed=0):
    rng = np.random.default_rng(seed)
    member = np.arange(2 * n) < n
    return rng.normal(size=2 * n) + shift * member, member


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_normal_scores_have_their_known_auc_within_its_interval(shift):
    """Two unit normals `shift` apart: AUC = Phi(shift / sqrt 2); TPR at a false rate r = Phi(shift - Phi^-1(1 - r))."""
    score, member = gaussian(shift, 20000)
    found = measure(score, member, 0)
    assert abs(found["auc"] - norm.cdf(shift / 2**0.5)) < 3 * found["auc_se"]
    assert found["balanced_accuracy"] == pytest.approx(norm.cdf(shift / 2), abs=0.03)
    for rate, bound in ((0.01, 0.03), (0.001, 0.05)):
        assert found[f"tpr_at_{100 * rate:g}"] == pytest.approx(norm.cdf(shift - norm.ppf(1 - rate)), abs=bound)


def test_auc_counts_pairs_and_halves_of_ties():
    rng = np.random.default_rng(1)
    score, member = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[member] for b in score[~member]]
    assert auc_and_variance(score, member)[0] == pytest.approx(np.mean(pairs), rel=1e-12)


def test_the_variance_of_the_auc_is_that_of_repeated_draws():
    found = [auc_and_variance(*gaussian(0.7, 100, seed)) for seed in range(400)]
    aucs, variances = np.array(found).T
    assert np.mean(variances) == pytest.approx(aucs.var(), rel=0.2)


def outputs(shift, classes=10, n=400, seed=0):
    """Logits near the targets, whose errors are smaller for members -> (logits, labels, member)."""
    rng = np.random.default_rng(seed)
    member, labels = np.arange(2 * n) < n, rng.integers(0, classes, 2 * n)
    spread = np.where(member, 0.1, 0.1 * (1 + shift))
    return np.eye(classes)[labels] - 1 / classes + rng.normal(size=(2 * n, classes)) * spread[:, None], labels, member


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_finds_a_leak_and_none_where_there_is_none(name):
    leak = measure(attack_scores(name, *outputs(0.6), False, 0), outputs(0.6)[2], 0)
    none = measure(attack_scores(name, *outputs(0.0), False, 0), outputs(0.0)[2], 0)
    assert leak["auc"] > {"threshold": 0.9, "logistic": 0.8, "mlp": 0.8, "forest": 0.88, "neighbours": 0.65}[name], leak
    assert abs(none["auc"] - 0.5) < 4 * none["auc_se"]


def test_learned_attacks_never_score_what_they_were_trained_on():
    """Pure noise with as many parameters as examples: a forest that had seen them would tell them all."""
    rng = np.random.default_rng(0)
    member = np.arange(200) < 100
    score = attack_scores("forest", rng.normal(size=(200, 10)), rng.integers(0, 10, 200), member, False, 0)
    assert abs(auc_and_variance(score, member)[0] - 0.5) < 0.15


def test_a_grid_search_is_what_the_release_searched():
    logits, labels, member = outputs(0.6, n=100)
    assert measure(attack_scores("logistic", logits, labels, member, True, 0), member, 0)["auc"] > 0.75


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_losses_are_half_squared_errors_to_the_students_labels(classes):
    labels = torch.arange(classes)
    targets = initial_labels(labels, classes).double()
    found = losses(np.stack([targets.numpy(), np.zeros((classes, classes))]), labels.numpy())
    assert np.allclose(found, np.stack([np.zeros(classes), 0.5 * targets.square().sum(1).numpy()]), atol=1e-7)
    assert confidence(np.array([0.25]))[0] == pytest.approx(np.log(4))


def test_the_likelihood_ratio_beats_the_plain_score_where_images_differ_in_difficulty():
    """Confidence = the image's difficulty + a gain for members: shadows tell the difficulty, AUC Phi(gain / sqrt 2)."""
    rng = np.random.default_rng(0)
    difficulty, member = 3 * rng.normal(size=2 * N), np.arange(2 * N) < N
    half = rng.random((32, 2 * N)) < 0.5
    inside = np.concatenate([half, ~half])
    shadows = difficulty + inside + rng.normal(size=inside.shape)
    target = difficulty + member + rng.normal(size=2 * N)
    plain, online, offline = (
        auc_and_variance(s, member)[0]
        for s in (target, likelihood_ratio(target, shadows, inside), likelihood_ratio(target, shadows - inside))
    )
    exact = norm.cdf(1 / 2**0.5)
    assert plain < 0.65 and online == pytest.approx(exact, abs=0.03) and offline == pytest.approx(exact, abs=0.03)


def digits_like(n=400, classes=4):
    gen = generator(0, "noise")
    tensors = []
    for _ in range(2):
        tensors += [torch.randn(n, 1, 8, 8, generator=gen), torch.randint(classes, (n,), generator=gen)]
    return RealSet(*tensors, Preprocess(torch.zeros(1), torch.ones(1)), {"num_classes": classes})


@pytest.fixture(scope="module")
def attacked():
    """Networks trained to the end on pure noise: whatever they know of the chunk, they know by heart."""
    params = load_params()
    row = params.membership["digits-frepo-digits-ipc10-chunk500"].changed(net="mlp", updates=(5, 400), shadows=8)
    cfg = params.cells["digits-frepo-digits-ipc10-chunk500"].distill.changed(chunk=100, seeds=(0, 2))
    protocol = Protocol(
        num_nets=2, steps=1000, lr=1e-3, warmup=0, lr_final=1.0, batch=100, shuffle=True, augment="none"
    )
    real = digits_like()
    candidates = Candidates(real, cfg)
    chunks = [part_of(real, cfg, seed) for seed in cfg.seeds]
    sets = [(chunk.train_x, initial_labels(chunk.train_y, 4)) for chunk in chunks]
    outputs, shadows = candidates.train(row, protocol, sets, "real"), candidates.train_shadows(row, protocol)
    return real, candidates, chunks, outputs, shadows, row


def test_the_candidates_are_each_chunk_and_as_many_test_images(attacked):
    real, candidates, chunks, *_ = attacked
    assert candidates.size == 100 and len(candidates.x) == 300
    for i, chunk in enumerate(chunks):
        indices = candidates.of_chunk(i)
        members = candidates.x[indices[:100]]
        assert torch.equal(members.sum(0), candidates.x[i * 100 : (i + 1) * 100].sum(0))
        assert indices[100:] == list(range(200, 300))
        assert {tuple(x.flatten().tolist()) for x in members} == {tuple(x.flatten().tolist()) for x in chunk.train_x}
    assert all((image == real.test_x).flatten(1).all(1).any() for image in candidates.x[200:])


def test_students_evaluated_on_their_way_are_those_trained_so_far(attacked):
    _, candidates, _, outputs, _, _ = attacked
    assert list(outputs) == [5, 400] and outputs[5][0].shape == (2, 2, 300, 4)
    fit = [losses(outputs[u][0][0, :, :100], candidates.labels[:100]).mean() for u in (5, 400)]
    assert fit[1] < 0.05 * fit[0]


def test_memorised_noise_is_told_by_every_score_and_a_chunk_unseen_by_none(attacked):
    _, candidates, _, outputs, (shadows, inside), row = attacked
    early, late = (candidates.attack(row, outputs[u][0], (shadows[u], inside)) for u in (5, 400))
    assert (
        set(late) == {*ATTACKS, *(f"control_{name}" for name in ATTACKS), "lira_offline", "lira"}
        and len(late["threshold"]) == 2
        and len(late["lira"]) == 1
    )
    for name in ("threshold", "lira_offline", "lira"):
        assert min(one["auc"] for one in late[name]) > 0.8 > early[name][0]["auc"], name
    assert all(abs(one["auc"] - 0.5) < 0.15 for name in ATTACKS for one in late[f"control_{name}"])


def test_every_image_is_inside_half_of_the_shadows(attacked):
    *_, (shadows, inside), _ = attacked
    assert (
        inside.shape == (8, 200)
        and (inside.sum(0) == 4).all()
        and (inside.sum(1) == 100).all()
        and shadows[400].shape == (8, 200)
    )
