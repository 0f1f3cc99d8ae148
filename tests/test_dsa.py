"""DSA's families against plain loops over the sheet's formulas; Siamese and ordinary draws; DC's augmentation."""

import math

import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from lib.augment import POLICIES, augmented, dc, dsa
from lib.rng import generator


def images(n, channels=3, size=32, seed=0):
    return torch.randn(n, channels, size, size, generator=generator(seed, "x"), dtype=torch.float64)


def plain(family, x, u):
    """One image x (K, H, W) by the sheet's formula, in loops; u: the three uniform numbers."""
    channels, height, width = x.shape
    if family == "color":
        x = x + (u[0] - 0.5)
        grey = sum(x[c] for c in range(channels)) / channels
        x = torch.stack([(x[c] - grey) * (2 * u[1]) + grey for c in range(channels)])
        return (x - x.mean()) * (u[2] + 0.5) + x.mean()
    out = torch.zeros_like(x)
    if family in ("crop", "crop4"):
        k = math.floor((0.25 if family == "crop4" else 0.125) * height + 0.5)
        tx, ty = (int(v * (2 * k + 1)) - k for v in u[:2])
        for i in range(height):
            for j in range(width):
                if 0 <= i + tx < height and 0 <= j + ty < width:
                    out[:, i, j] = x[:, i + tx, j + ty]
        return out
    if family == "cutout":
        c = math.floor(0.5 * height + 0.5)
        ox, oy = (int(v * (height + 1 - c % 2)) for v in u[:2])
        out = x.clone()
        for i in range(c):
            for j in range(c):
                out[:, min(max(ox - c // 2 + i, 0), height - 1), min(max(oy - c // 2 + j, 0), width - 1)] = 0
        return out
    if family == "flip":
        return torch.stack([x[:, :, width - 1 - j] for j in range(width)], -1) if u[0] < 0.5 else x
    if family == "scale":
        matrix = [[u[0] * (1.2 - 1 / 1.2) + 1 / 1.2, 0.0], [0.0, u[1] * (1.2 - 1 / 1.2) + 1 / 1.2]]
    else:
        angle = math.radians((u[0] * 2 - 1) * 15)
        matrix = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    for i in range(height):
        for j in range(width):
            across, down = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            column = ((matrix[0][0] * across + matrix[0][1] * down + 1) * width - 1) / 2
            row = ((matrix[1][0] * across + matrix[1][1] * down + 1) * height - 1) / 2
            for r in (math.floor(row), math.floor(row) + 1):
                for c in (math.floor(column), math.floor(column) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        out[:, i, j] += (1 - abs(row - r)) * (1 - abs(column - c)) * x[:, r, c]
    return out


@pytest.mark.parametrize("family", dsa.FAMILIES)
@pytest.mark.parametrize("channels, size", [(3, 32), (1, 28), (1, 8)])
def test_each_family_is_the_sheets_formula(family, channels, size):
    x, u = images(5, channels, size), torch.rand(5, 3, generator=generator(1, "u"), dtype=torch.float64)
    expected = torch.stack([plain(family, image, own.tolist()) for image, own in zip(x, u)])
    assert torch.allclose(dsa.FAMILIES[family](x, u), expected, atol=1e-10)


def test_neutral_draws_are_identities():
    x = images(2)
    half = torch.full((2, 3), 0.5, dtype=torch.float64)
    for family in ("color", "crop", "flip", "rotate"):
        assert torch.allclose(dsa.FAMILIES[family](x, half), x, atol=1e-12), family
    one = torch.full((2, 3), (1 - 1 / 1.2) / (1.2 - 1 / 1.2), dtype=torch.float64)
    assert torch.allclose(dsa.scale(x, one), x, atol=1e-12)


def test_what_each_operation_keeps():
    x, u = images(4), torch.rand(4, 3, generator=generator(2, "u"), dtype=torch.float64)
    half = torch.full_like(u, 0.5)
    contrast = dsa.color(x, torch.stack([half[:, 0], half[:, 1], u[:, 2]], 1))
    assert torch.allclose(contrast.mean((1, 2, 3)), x.mean((1, 2, 3)))
    saturated = dsa.color(x, torch.stack([half[:, 0], u[:, 1], half[:, 2]], 1))
    assert torch.allclose(saturated.mean(1), x.mean(1))
    flipped = dsa.flip(x, torch.zeros_like(u))
    assert not torch.equal(flipped, x) and torch.equal(dsa.flip(flipped, torch.zeros_like(u)), x)


def test_rotation_by_a_right_angle_moves_the_top_to_the_left():
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 0, 4] = 1
    turned = dsa.rotate(x, torch.ones(1, 3, dtype=torch.float64), limit=90.0)
    assert turned[0, 0, 4, 0] == pytest.approx(1) and turned.sum() == pytest.approx(1)


def test_ranges_of_crop_and_cutout():
    """The first pixel shows the shift; the erased square's first row the offset: 33 values at 32 pixels, 29 at 28."""
    u = torch.linspace(0, 1 - 1e-6, 2000, dtype=torch.float64)[:, None].expand(-1, 3)
    ramp = torch.arange(1.0, 33, dtype=torch.float64).view(1, 1, 32, 1).expand(2000, 1, 32, 32)
    assert sorted(set((dsa.crop(ramp, u)[:, 0, 16, 16] - 17).tolist())) == list(range(-4, 5))
    for size, count in ((32, 33), (28, 29)):
        erased = dsa.cutout(torch.ones(2000, 1, size, size, dtype=torch.float64), u)[:, 0] == 0
        sides = erased.any(2).sum(1)
        assert sides.min() == size // 4 and sides.max() == size // 2
        assert len(set(zip(erased.any(2).int().argmax(1).tolist(), sides.tolist()))) == count
    u = torch.rand(20000, 3, generator=generator(0, "area"), dtype=torch.float64)
    assert (
        dsa.cutout(torch.ones(20000, 1, 32, 32, dtype=torch.float64), u) == 0
    ).double().mean().item() == pytest.approx(0.186, abs=0.003)


def test_siamese_draw_treats_two_batches_alike_and_an_ordinary_one_each_image_apart():
    gen, host, seen = generator(0, "draw"), generator(0, "host"), set()
    for _ in range(20):
        drawn = dsa.draw("dsa", 4, 1, gen, host)
        real, syn = images(20, seed=1).unflatten(0, (4, 5)), images(8, seed=2).unflatten(0, (4, 2))
        syn = torch.cat([real[:, :1], syn], 1)
        assert torch.allclose(dsa.apply(real, drawn)[:, 0], dsa.apply(syn, drawn)[:, 0])
        seen |= {family for (family,) in drawn.families}
    assert seen == set(dsa.FAMILIES) - {"crop4"} == set(dsa.STRATEGIES["dsa"]) and set(
        dsa.STRATEGIES["dsa-noflip"]
    ) == seen - {"flip"}
    same = images(1).expand(2, 6, -1, -1, -1)
    out = augmented("dsa-noflip", same, generator(3, "draw"), generator(3, "host"))
    assert all(len({tuple(image.flatten().tolist()) for image in group}) == 6 for group in out)


def test_a_strategy_is_named_by_its_families_and_all_of_them_are_applied_in_their_order():
    x, gens = images(6).unflatten(0, (2, 3)), lambda: (generator(0, "draw"), generator(0, "host"))
    for one in ("color", "flip-rotate"):
        assert {name for (name,) in dsa.draw(one, 50, 1, *gens()).families} == set(dsa.families_of(one)[0])
    drawn = dsa.draw("rotate_color-all", 2, 3, *gens())
    assert drawn.families == [("rotate", "color")] * 2 and drawn.u.shape == (2, 3, 2, 3)
    for g in range(2):
        rotated = dsa.rotate(x[g], drawn.u[g, :, 0].to(x.dtype))
        assert torch.equal(dsa.apply(x, drawn)[g], dsa.color(rotated, drawn.u[g, :, 1].to(x.dtype)))
    assert not torch.equal(augmented("color_crop", x, *gens()), x), "a policy of evaluations too"
    for name in ("color_color", "blur", "color_", "dsa-al"):
        with pytest.raises(ValueError, match="color, crop"):
            dsa.families_of(name)


def test_a_group_is_augmented_as_if_it_were_alone_and_takes_a_gradient():
    drawn = dsa.draw("dsa", 12, 3, generator(0, "draw"), generator(0, "host"))
    x = images(36).unflatten(0, (12, 3)).requires_grad_()
    together = dsa.apply(x, drawn)
    alone = torch.cat([dsa.apply(x[g : g + 1], drawn[g : g + 1]) for g in range(12)])
    assert torch.equal(together, alone)
    together.square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad != 0).any((1, 2, 3, 4)).all()


@pytest.mark.parametrize("size", [28, 32])
def test_dcs_rotation_is_scipys(size):
    x = images(12, 2, size).abs()
    degrees = torch.tensor([-45, -37, -20, -9, -1, 0, 1, 8, 13, 29, 40, 44])
    u = torch.stack([(degrees + 45.5) / 90, torch.zeros(12)], 1).double()
    mean = x.mean((0, 2, 3), keepdim=True).expand(12, -1, -1, -1)
    got = dc.rotate(x, u, mean)
    for image, angle, out in zip(x.numpy(), degrees.tolist(), got):
        whole = scipy.ndimage.rotate(image, angle=angle, axes=(-2, -1), cval=mean[0].mean().item())
        at = (whole.shape[-1] - size) // 2
        difference = (torch.from_numpy(whole[:, at : at + size, at : at + size]) - out).abs()
        assert (difference < 1e-6).double().mean() > 0.999, (
            angle
        )  # a pixel on the very edge may count as outside in one of them


def test_dcs_crop_and_scale_are_the_sheets():
    x = images(64, 1, 28)
    u = torch.rand(64, 2, generator=generator(0, "u"), dtype=torch.float64)
    mean = x.mean((0, 2, 3), keepdim=True).expand(64, -1, -1, -1)
    cropped, scaled = dc.crop(x, u, mean), dc.scale(x, u)
    for i in range(64):
        padded = F.pad(x[i] - mean[i], (4, 4, 4, 4)) + mean[i]
        r, c = (int(v * 8) for v in u[i].tolist())
        assert torch.allclose(cropped[i], padded[:, r : r + 28, c : c + 28])
        h, w = (int(28 * (0.8 + 0.4 * v)) for v in u[i].tolist())
        side = max(h, w, 28)
        canvas = torch.zeros(1, side, side, dtype=torch.float64)
        top, left, cut = (side - h) // 2, (side - w) // 2, (side - 28) // 2
        canvas[:, top : top + h, left : left + w] = F.interpolate(x[i : i + 1], (h, w), mode="nearest")[0]
        assert torch.allclose(scaled[i], canvas[:, cut : cut + 28, cut : cut + 28])


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "none"])
def test_every_policy_keeps_shape_and_repeats_with_its_seed(policy):
    x = images(12, 1, 28).float().unflatten(0, (3, 4))
    first, again = (augmented(policy, x, generator(5, "a"), generator(5, "h")) for _ in range(2))
    assert first.shape == x.shape and first.dtype == x.dtype and torch.equal(first, again) and not torch.equal(first, x)
