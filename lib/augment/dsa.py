"""DSA: differentiable Siamese augmentation (Zhao and Bilen, ICML 2021).

Source: reference sheet of DC, DSA and DM, section 3. A mini-batch (here: a group) gets one family of operations, or in
the original's mode M all of them, one after the other. In matching, a class's real and synthetic images share one draw
of parameters (Siamese); in training each image has its own. `draw` and `apply` are separate for that. Every operation
is differentiable in the images.
"""

from dataclasses import dataclass
from functools import partial
from math import pi

import torch
import torch.nn.functional as F

from . import POLICIES
from .dc import take

STRATEGIES = {
    "dsa": ("color", "crop", "cutout", "flip", "scale", "rotate"),
    "dsa-noflip": ("color", "crop", "cutout", "scale", "rotate"),
    "flip-rotate": ("flip", "rotate"),  # RaT-BPTT's
    "dsa-crop4": ("color", "crop4", "cutout", "flip", "scale", "rotate"),
}


def families_of(strategy):
    """A strategy's families, and whether all are applied, in this order; ValueError says what a strategy may be.

    It is one of STRATEGIES or families joined by `_`, as in `color_crop`; with `-all` behind it all are applied.
    """
    name = strategy.removesuffix("-all")
    families = STRATEGIES.get(name) or tuple(name.split("_"))
    if not FAMILIES.keys() >= set(families) or len(set(families)) < len(families):
        known = f"one of {', '.join(STRATEGIES)}, or distinct families of {', '.join(FAMILIES)} joined by _"
        raise ValueError(
            f"must be {known} (color_crop); then -all for all of them in sequence, in place of one at random"
        )
    return families, strategy != name


@dataclass
class Draw:
    """The families of each of G groups, and uniform numbers u (G, B, families, 3) in [0, 1); B 1: images share them."""

    families: list
    u: torch.Tensor

    def __getitem__(self, part):
        """The draw of the groups in the slice `part`."""
        return Draw(self.families[part], self.u[part])


def draw(strategy, groups, batch, generator, host):
    """A draw for `groups` of `batch` images, on `generator`'s device; `host`, on the CPU, chooses the families."""
    names, together = families_of(strategy)
    if together:
        families = [names] * groups
    else:
        families = [names[i : i + 1] for i in torch.randint(len(names), (groups,), generator=host).tolist()]
    return Draw(families, torch.rand(groups, batch, len(families[0]), 3, generator=generator, device=generator.device))


def apply(x, draw):
    """Augment x (G, B, K, H, W) by a `Draw` for G groups; None leaves x as it is."""
    if draw is None:
        return x
    out = list(x)
    for place, names in enumerate(zip(*draw.families)):
        for family in sorted(set(names)):
            groups = [g for g, name in enumerate(names) if name == family]
            u = torch.stack([draw.u[g, :, place] for g in groups])  # a list as index would make the host wait
            u = u.expand(-1, x.shape[1], -1).flatten(0, 1).to(x.dtype)
            augmented = FAMILIES[family](torch.cat([out[g] for g in groups]), u).unflatten(0, (len(groups), -1))
            for g, images in zip(groups, augmented):
                out[g] = images
    return torch.stack(out)


@POLICIES.register(*STRATEGIES)
def augmented(policy, x, generator, host):
    """x (S, B, K, H, W) with one family per student and parameters per image."""
    return apply(x, draw(policy, x.shape[0], x.shape[1], generator, host))


def color(x, u):
    """x (n, K, H, W), u (n, 3): brightness, then saturation about the pixel's grey, then contrast about the mean."""
    brightness, saturation, contrast = (v.view(-1, 1, 1, 1) for v in u.unbind(1))
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def crop(x, u, ratio=0.125):
    """Shift by whole pixels, up to `ratio` of the side, with zero padding."""
    height, width = x.shape[-2:]
    k = int(ratio * height + 0.5)
    shift = (u[:, :2] * (2 * k + 1)).long()  # of the padded image
    rows = shift[:, 0, None] + torch.arange(height, device=x.device)
    columns = shift[:, 1, None] + torch.arange(width, device=x.device)
    return take(F.pad(x, (k, k, k, k)), rows, columns)


def cutout(x, u):
    """Set a square of half the side to zero; where it reaches over the edge, it is cut off."""

    def inside(size, u):
        side = int(0.5 * size + 0.5)
        first = (u * (size + 1 - side % 2)).long()[:, None] - side // 2
        position = torch.arange(size, device=x.device)
        return (position >= first.clamp(0, size - 1)) & (position <= (first + side - 1).clamp(0, size - 1))

    rows, columns = inside(x.shape[-2], u[:, 0]), inside(x.shape[-1], u[:, 1])
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def flip(x, u):
    return torch.where(u[:, 0].view(-1, 1, 1, 1) < 0.5, x.flip(-1), x)


def _resample(x, matrix):
    """x sampled at the identity grid times matrix (n, 2, 2): bilinear, zeros outside."""
    theta = torch.cat([matrix, torch.zeros_like(matrix[..., :1])], -1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def scale(x, u):
    """Scale the sampling grid's width and height by 1 / 1.2 to 1.2 each: above 1 the image shrinks."""
    return _resample(x, torch.diag_embed(u[:, :2] * (1.2 - 1 / 1.2) + 1 / 1.2))


def rotate(x, u, limit=15.0):
    """Rotate by up to `limit` degrees either way."""
    angle = (u[:, 0] * 2 - 1) * (limit * pi / 180)
    cos, sin = angle.cos(), angle.sin()
    return _resample(x, torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2))


FAMILIES = {"color": color, "crop": crop, "crop4": partial(crop, ratio=0.25), "cutout": cutout}
FAMILIES |= {"flip": flip, "scale": scale, "rotate": rotate}
