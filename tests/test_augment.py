"""FRePo's augmentation: identities, the sheet's worked example, ranges, one operation per batch."""

import math

import pytest
import torch

from lib import augment
from lib.augment.frepo import COLOR, CROP, CUTOUT, FLIP, OPERATIONS, ROTATE, TRANSLATE, Draw, affine, apply, draw
from lib.rng import generator


def neutral(students=1, batch=1, height=4):
    zero, one = torch.zeros(students, batch), torch.ones(students, batch)
    shift = torch.zeros(students, batch, 2)
    corner = torch.full((students, batch, 2), height)
    return dict(flip=one, zoom=one, angle=zero, shift=shift), dict(
        brightness=zero, contrast=zero, saturation=zero, top_left=corner
    )


def augmented(x, height=4, **changes):
    geometry, rest = neutral(1, x.shape[1], height)
    geometry |= {k: v for k, v in changes.items() if k in geometry}
    rest |= {k: v for k, v in changes.items() if k in rest}
    return apply(x, Draw(affine(**geometry, height=height), **rest))


RAMP = torch.arange(16.0).view(1, 1, 1, 4, 4)


def test_neutral_parameters_change_nothing():
    x = torch.randn(1, 3, 2, 4, 4, generator=generator(0, "x"))
    assert torch.allclose(augmented(x), x, atol=1e-5)


def test_crop_of_the_sheet():
    zoom = torch.tensor([[0.8]])
    shift = torch.tensor([[[0.4, -0.4]]]) / 0.8  # the source is read at (out + c) / z
    rows = [
        [0.5, 0.875, 2.125, 3.375],
        [5.5, 5.875, 7.125, 8.375],
        [10.5, 10.875, 12.125, 13.375],
        [12, 12.375, 13.625, 14.875],
    ]
    assert torch.allclose(augmented(RAMP, zoom=zoom, shift=shift)[0, 0, 0], torch.tensor(rows), atol=1e-4)


def test_flip_mirrors_and_translation_replicates_the_border():
    assert torch.allclose(augmented(RAMP, flip=-torch.ones(1, 1)), RAMP.flip(-1), atol=1e-4)
    moved = augmented(RAMP, shift=torch.tensor([[[1.0, 0.0]]]))
    assert torch.allclose(moved[0, 0, 0], torch.cat([RAMP[0, 0, 0, 1:], RAMP[0, 0, 0, 3:]]), atol=1e-4)


def test_rotation_by_a_right_angle_permutes_pixels():
    turned = augmented(RAMP, angle=torch.full((1, 1), math.pi / 2))
    assert any(torch.allclose(turned[0, 0, 0], RAMP[0, 0, 0].rot90(k), atol=1e-3) for k in (1, 3))


def test_cutout_zeroes_exactly_a_square_inside_the_image():
    x = torch.ones(1, 50, 1, 32, 32)
    drawn = draw_of(CUTOUT, 50, 32)
    out = apply(x, drawn)
    assert torch.allclose((out == 0).sum((2, 3, 4)).float(), torch.tensor(64.0))


def draw_of(op, batch, height, students=1, policy="rgb"):
    """The first draw of a seeded sequence in which the wanted operation came up."""
    for seed in range(200):
        gen = generator(seed, "draw")
        chosen = OPERATIONS[policy][
            torch.randint(len(OPERATIONS[policy]), (students,), generator=generator(seed, "draw"))[0]
        ]
        if chosen == op:
            return draw(policy, (students, batch, height), gen)
    raise AssertionError("operation never drawn")


@pytest.mark.parametrize("op", [FLIP, COLOR, CROP, ROTATE, TRANSLATE, CUTOUT])
def test_one_operation_per_batch_with_parameters_in_their_ranges(op):
    height, n = 32, 400
    d = draw_of(op, n, height)
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    geometric = (d.theta[0] - identity).abs().amax((1, 2)) > 1e-6
    coloured = (d.brightness[0].abs() + d.contrast[0].abs() + d.saturation[0].abs()) > 0
    cut = d.top_left[0, :, 0] < height
    assert geometric.any() == (op in (FLIP, CROP, ROTATE, TRANSLATE))
    assert coloured.any() == (op == COLOR) and cut.any() == (op == CUTOUT)
    theta = d.theta[0]
    if op == FLIP:
        assert 0.4 < (theta[:, 0, 0] < 0).float().mean() < 0.6
    if op == COLOR:
        for factor in (d.contrast, d.saturation):
            assert 0.7788 <= factor.exp().min() < 0.80 and 1.26 < factor.exp().max() <= 1.2841
        assert d.brightness.abs().max() <= 0.25
    if op == CROP:
        zoom = 1 / theta[:, 0, 0]
        assert 0.8 <= zoom.min() < 0.82 and 1.22 < zoom.max() <= 1.2501
        limit = (height * zoom - height).abs() / 2 / zoom * 2 / height
        assert (theta[:, :, 2].abs() <= limit[:, None] + 1e-6).all()
    if op == ROTATE:
        assert torch.allclose(theta[:, 0, 0].square() + theta[:, 0, 1].square(), torch.ones(n), atol=1e-5)
        assert theta[:, 0, 1].abs().max() <= math.sin(math.radians(15)) + 1e-6
    if op == TRANSLATE:
        assert 0.24 < theta[:, :, 2].abs().max() <= 0.25 + 1e-6  # 0.125 of the height, in units of half of it


def test_colour_follows_its_three_formulas():
    x = torch.randn(1, 2, 3, 4, 4, generator=generator(0, "x"))
    b, c, s = (torch.tensor([v]) for v in ([0.1, -0.2], [0.2, -0.1], [-0.25, 0.15]))
    out = augmented(x, brightness=b, contrast=c, saturation=s)
    for i in range(2):
        y = x[0, i] + b[0, i]
        y = (y - y.mean()) * math.exp(c[0, i]) + y.mean()
        y = (y - y.mean(0)) * math.exp(s[0, i]) + y.mean(0)
        assert torch.allclose(out[0, i], y, atol=1e-4)


def test_grey_policy_never_flips_and_students_draw_their_own_operation():
    assert FLIP not in OPERATIONS["grey"] and len(OPERATIONS["grey"]) == 5
    d = draw("rgb", (60, 4, 32), generator(0, "many"))
    used = {bool((d.top_left[s] < 32).any()) for s in range(60)}
    assert used == {True, False}
    x = torch.randn(2, 3, 1, 8, 8)
    assert augment.augmented("none", x, generator(0, "none"), generator(0, "host")) is x


def test_operations_are_uniform():
    gen, cut = generator(0, "law"), 0
    for _ in range(30):
        cut += (draw("rgb", (40, 1, 32), gen).top_left[:, 0, 0] < 32).sum().item()
    assert abs(cut / 1200 - 1 / 6) < 4 * math.sqrt(5 / 36 / 1200)


def test_same_draw_hits_two_batches_alike():
    x = torch.randn(1, 3, 3, 8, 8, generator=generator(0, "x"))
    d = draw("rgb", (1, 3, 8), generator(1, "draw"))
    assert torch.equal(apply(x, d), apply(x.clone(), d))
