"""Fair scores, evaluation with a teacher, and Comp-DD's data: EDF's sheet, sections 8 to 11."""

import pytest
import torch
import torch.nn.functional as F

from lib.config.load import load_params
from lib.config.models import Dataset, Protocol
from lib.data.prepare import prepare
from lib.data.preprocess import fit
from lib.data.real import RealSet, load_arrays
from lib.data.sources import SUBSETS
from lib.evaluation.external import load_comp_dd
from lib.evaluation.fair_scores import RATES, accuracy, augmentation_robust, fair_scores, label_robust
from lib.evaluation.teacher import cutmix, divergence, kd_students, lr_factor, random_crop
from lib.files import FileError, read_json
from lib.rng import generator
from lib.synthetic.set import DistilledSet
from tests.test_imagenet import tree

PARAMS = load_params()
CFG, ROW = PARAMS.cells["digits-datm-digits-ipc1"].distill, PARAMS.scores["digits-datm-digits-ipc1"]
PROTOCOL = Protocol(num_nets=1, lr=0.05, batch=30, augment="none", optimizer="sgd", loss="cross_entropy", epochs=20)
NET = "dense1-w16"


@pytest.fixture(scope="module")
def real():
    """Three classes of 6x6 images, apart from each other."""
    gen = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 3
    x = 1.2 * F.one_hot(y, 36).float().view(-1, 1, 6, 6) + 0.5 * torch.randn(240, 1, 6, 6, generator=gen)
    return RealSet(x[:120], y[:120], x[120:], y[120:], None, {"num_classes": 3})


def test_scores_are_the_sheets():
    assert label_robust(0.0, 0.0) == augmentation_robust(0.0, 0.0) == pytest.approx(0.268941, abs=1e-6)
    assert label_robust(0.30, 0.20) == pytest.approx(0.248192, abs=1e-6)
    assert label_robust(-1.0, 1.0) == pytest.approx(1.0) and label_robust(1.0, -1.0) == pytest.approx(0.0)
    assert label_robust(0.2, 0.3) > label_robust(0.2, 0.2) > label_robust(0.3, 0.2)
    assert 100 * label_robust(0.5266, 0.1240) == pytest.approx(19.1, abs=0.05), (
        "the leaderboard's DC, one image a class"
    )


def test_trainings_take_the_sets_rate_or_the_best_of_five(real):
    y = F.one_hot(real.train_y, 3).float()
    own = DistilledSet(real.train_x, y)
    each = [accuracy(NET, own._replace(lr=torch.full((1, 1), lr)), real, PROTOCOL, 0) for lr in RATES]
    tuned = accuracy(NET, own, real, PROTOCOL, 0)
    assert 0.5 < tuned <= 1 and tuned == pytest.approx(max(each), abs=0.05) and max(each) - min(each) > 0.2


def test_a_good_set_scores_better_than_random_images_and_a_bad_one_worse(real):
    means = torch.stack([real.train_x[real.train_y == c].mean(0) for c in range(3)])
    found = {}
    for name, x in (("good", means), ("bad", means.roll(1, 0))):
        own = DistilledSet(x, torch.eye(3))
        found[name] = fair_scores(NET, own, real, CFG.changed(ipc=1), PROTOCOL, PROTOCOL, "none", 0.95, None, 0)
    assert found["good"]["LRS"] > found["bad"]["LRS"] + 0.05 and found["good"]["ARS"] > found["bad"]["ARS"]
    for each in found.values():
        assert each["LRS"] == pytest.approx(label_robust(each["HLR"], each["IOR"])) and -1 <= each["IOR"] <= 1
    useless = lambda x: torch.ones(len(x), 3) / 3  # noqa: E731
    taught = fair_scores(
        NET, DistilledSet(means, torch.eye(3)), real, CFG.changed(ipc=1), PROTOCOL, PROTOCOL, "none", 0.95, useless, 0
    )
    assert taught["IOR"] > found["good"]["IOR"], "random images with labels of no use"


def test_divergence_and_rates_are_the_sheets():
    gen = generator(0, "kd")
    a, b = torch.randn(5, 4, generator=gen), torch.randn(5, 4, generator=gen)
    assert divergence(a, a + 3, 20.0) == pytest.approx(0.0, abs=1e-6)
    expected = F.kl_div((a / 4).log_softmax(1), (b / 4).softmax(1), reduction="batchmean")
    assert torch.allclose(divergence(a, b, 4.0), expected)
    assert [lr_factor("rded", epoch, 300) for epoch in (0, 150, 299)] == pytest.approx([1, 0.85355, 0.50262], abs=1e-5)
    assert [lr_factor("sre2l", epoch, 300) for epoch in (0, 150, 299)] == pytest.approx([1, 0.5, 2.7e-5], abs=1e-6)


def test_mixing_pastes_one_box_and_crops_stay_inside():
    x = torch.arange(6.0)[:, None, None, None].expand(6, 2, 8, 8).contiguous()
    gen, host = generator(0, "m"), generator(0, "h")
    for _ in range(20):
        mixed = cutmix(x, gen, host)
        foreign = mixed != x
        rows, columns = foreign[:, 0].any(0).any(1), foreign[:, 0].any(0).any(0)
        assert torch.equal(foreign[:, 0].any(0), rows[:, None] & columns[None]), "one box for all"
        assert all(len(image[changed].unique()) <= 1 for image, changed in zip(mixed, foreign)), "of one other image"
    assert torch.equal(x[0], torch.zeros(2, 8, 8)), "the images themselves stay"
    ramp = torch.linspace(0, 1, 32).expand(40, 1, 32, 32).contiguous()
    cut = random_crop(ramp, 0.08, generator(1, "crop"))
    assert cut.min() >= 0 and cut.max() <= 1
    span = cut[:, 0, 0, -1] - cut[:, 0, 0, 0]
    assert (span >= 0).all() and span.min() < 0.5 < span.max(), "a part of the width, never mirrored"
    assert random_crop(ramp, 1.0, gen) is ramp


def test_a_student_learns_what_its_teacher_knows(real):
    class Centres(torch.nn.Module):
        def forward(self, x):
            return 60 * torch.stack([-(x - c).square().flatten(1).mean(1) for c in centres], 1)

    centres = torch.stack([real.train_x[real.train_y == c].mean(0) for c in range(3)])
    teacher = Centres()
    known = (teacher(real.test_x).argmax(1) == real.test_y).float().mean().item()
    cfg = ROW.changed(kd_epochs=80, kd_batch=20, kd_lr=5e-3, temperature=4.0)
    for recipe in ("rded", "sre2l"):
        students = kd_students(NET, real.train_x, teacher, real, cfg.changed(kd=recipe), 2, 0)
        assert students.accuracy(real.test_x, real.test_y).min() / 100 > known - 0.15
        again = kd_students(NET, real.train_x, teacher, real, cfg.changed(kd=recipe), 2, 0)
        assert torch.equal(students.accuracy(real.test_x, real.test_y), again.accuracy(real.test_x, real.test_y))


def test_comp_dd_gives_what_its_users_expect(tmp_path):
    tree(tmp_path / "in", "cars_hard", train=2, val=1)
    prepare(
        "p", Dataset(resolution=8, subset="cars_hard"), tmp_path / "p", tmp_path / "downloads", imagenet=tmp_path / "in"
    )
    pixels, manifest = load_arrays(tmp_path / "p", "train")[0], read_json(tmp_path / "p" / "manifest.json")
    fit(PARAMS.preprocessing["in1k_cars_hard"], pixels, manifest).save(tmp_path / "t.safetensors")
    channels, size, classes, train, test, class_map, inverse = load_comp_dd(
        tmp_path / "p", tmp_path / "t.safetensors", "cars", "hard"
    )
    assert (channels, size, classes, len(train), len(test)) == (3, 8, 10, 20, 10)
    assert class_map == {index: label for label, (index, _) in enumerate(SUBSETS["cars_hard"])} and inverse[0] == 802
    assert sorted({label.item() for _, label in train}) == list(range(10)) and train[0][0].dtype == torch.float32
    with pytest.raises(FileError, match="birds, cars"):
        load_comp_dd(tmp_path / "p", tmp_path / "t.safetensors", "car", "hard")
