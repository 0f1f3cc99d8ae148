"""Baselines of sets with a schedule: reference sheet of dataset distillation, section 7."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.config.load import load_params
from lib.data.real import RealSet
from lib.evaluation.baselines import (
    BASELINES,
    BEST_SETS,
    RATES,
    accuracies,
    baseline,
    nearest_neighbours,
    poisoning_scores,
    real_images,
    untrained,
)
from lib.evaluation.perturbation import DRAWS, perturbed_accuracies
from lib.synthetic.set import DistilledSet
from lib.training.students import Students

CFG = load_params().cells["digits-dd-digits-ipc1"].distill.changed(ipc=4, minibatches=2, epochs=2)
NET = "dense1-w8"


@pytest.fixture(scope="module")
def real():
    """Three classes of 4x4 images, apart from each other."""
    gen = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    x = 1.5 * torch.nn.functional.one_hot(y, 16).float().view(-1, 1, 4, 4) + 0.5 * torch.randn(
        300, 1, 4, 4, generator=gen
    )
    return RealSet(x[:200], y[:200], x[200:], y[200:], None, {"num_classes": 3})


def test_average_is_each_classs_mean_in_every_minibatch(real):
    ((x, y),) = BASELINES["average_real"](real, CFG, 0)
    assert y.argmax(1).tolist() == [0, 0, 1, 1, 2, 2] * 2
    for image, label in zip(x, y.argmax(1)):
        assert torch.allclose(image, real.train_x[real.train_y == label].mean(0))


def test_images_come_as_the_cells_real_batches_do(real):
    """An image that is drawn of the set as it is, is in it; one that is cropped at random is mostly not."""
    real = replace(real, train_x=torch.nn.functional.interpolate(real.train_x, 8))
    plain, loaded = (real_images("random_real", real, CFG.changed(augment=a), 0)[0] for a in ("none", "crop_flip"))
    again = real_images("random_real", real, CFG.changed(augment="crop_flip"), 0)[0]
    assert torch.equal(loaded[0], again[0]) and torch.equal(loaded[1], plain[1])

    def known(x):
        return [(image == real.train_x).flatten(1).all(1).any().item() for image in x]

    assert all(known(plain[0])) and not all(known(loaded[0]))


def test_centroids_are_lloyds_fixed_point(real):
    ((x, y),) = BASELINES["kmeans_real"](real, CFG, 0)
    for label in range(3):
        members = real.train_x[real.train_y == label].flatten(1)
        centroids = x[y.argmax(1) == label].flatten(1)
        nearest = torch.cdist(members, centroids).argmin(1)
        assert torch.allclose(torch.stack([members[nearest == k].mean(0) for k in range(4)]), centroids, atol=1e-4)
    ((one, _),) = BASELINES["kmeans_real"](real, CFG.changed(ipc=1, minibatches=1), 0)
    ((mean, _),) = BASELINES["average_real"](real, CFG.changed(ipc=1, minibatches=1), 0)
    assert torch.allclose(one, mean, atol=1e-5), "one centroid is the mean"


def test_sets_are_moved_by_noise_of_the_named_deviation(real, monkeypatch):
    sets = [
        replace_start(DistilledSet(*BASELINES["average_real"](real, CFG, s)[0], torch.full((2, 2), 0.5)), real)
        for s in (0, 1)
    ]
    monkeypatch.setattr("lib.evaluation.perturbation.NOISE_STDS", (0.0, 3.0))
    found = perturbed_accuracies(NET, sets, real, 0)
    plain = [accuracies(NET, [own], real, own.start[None], 1, "0.test", test=True).item() for own in sets]
    assert found["0"] == [[accuracy] * DRAWS for accuracy in plain] and min(plain) > 50
    assert all(min(draws) < accuracy and len(set(draws)) > 2 for draws, accuracy in zip(found["3"], plain))


def test_rate_is_the_best_on_training_images_and_the_sets_too(real):
    distilled = DistilledSet(None, None, torch.full((2, 2), 0.5))
    accuracy, rate = baseline("optimised_real", NET, distilled, real, CFG, None, 5, 0)
    assert rate in RATES and len(accuracy) == 5 * BEST_SETS
    sets = [DistilledSet(*pair, torch.full((2, 2), rate)) for pair in BASELINES["optimised_real"](real, CFG, 0)]
    everyone = accuracies(NET, sets, real, None, 5, "0.test", test=True)
    assert accuracy.mean() > everyone.mean() and accuracies(NET, sets, real, None, 20, 0).mean(1).std() > 0
    random, _ = baseline("random_real", NET, distilled, real, CFG, None, 5, 0)
    assert len(random) == 5 and random.mean() > 100 / 3
    start = replace_start(distilled, real).start[None]
    accuracy, _ = baseline("average_real", NET, distilled, real, CFG, start, 3, 0)
    assert accuracy.std() == 0, "one start, one network"


def replace_start(distilled, real):
    from lib.autodiff.unroll import Flat
    from lib.networks import build
    from lib.rng import generator

    return distilled._replace(start=Flat(build(NET, real.shape, 3)).weights(generator(0, "start")))


def test_neighbours_vote_by_the_best_number_and_norm(real):
    accuracy = nearest_neighbours(real, CFG, 0, "kmeans_real")
    ((x, y),) = BASELINES["kmeans_real"](real, CFG, 0)
    tried = []
    for k in (1, 3):
        for p in (1, 2):
            order = torch.cdist(real.test_x.flatten(1), x.flatten(1), p=p).argsort(1)[:, :k]
            votes = y.argmax(1)[order]
            winner = np.array([np.bincount(row, minlength=3).argmax() for row in votes.numpy()])
            tried.append(100 * (winner == real.test_y.numpy()).mean())
    assert any(accuracy == pytest.approx(one) for one in tried)
    assert nearest_neighbours(real, CFG.changed(ipc=1, minibatches=1), 0, "average_real") > 80


def test_an_attack_is_measured_before_and_after(real):
    """A set whose labels are those of an attack turns a trained network; the sheet, section 8."""
    x, y = real.train_x, torch.nn.functional.one_hot(real.train_y, 3).float()
    train = DistilledSet(x, y, torch.full((40, 1), 0.3))
    start = replace_start(train, real).start[None]
    students = Students(NET, real.shape, 3, [0], 0, x.device).start_from(start).follow(x[None], y[None], train.lr[None])
    trained = torch.cat([p.flatten(1) for p in students.params.values()], 1)
    turned = torch.nn.functional.one_hot(torch.where(real.train_y == 1, 0, real.train_y), 3).float()
    own = DistilledSet(x, turned, torch.full((60, 1), 0.3))
    scores = poisoning_scores(NET, own, real, trained, 2, (1, 0), 0)
    assert scores["accuracy on the class, before"] > 80 and scores["taken for the target, before"] < 20
    assert scores["accuracy on the class, after"] < 20 and scores["taken for the target, after"] > 80
    assert (
        scores["accuracy as modified, after"] > scores["accuracy, after"]
        and scores["accuracy as modified, before"] < scores["accuracy, before"]
    )
    assert untrained(NET, own, real, trained, 2, 0).tolist() == pytest.approx([scores["accuracy, before"]] * 2)
