"""FRePo's augmentation: one operation per batch, its parameters drawn anew for each image.

Source: reference sheet of FRePo, section 8. `draw` and `apply` are separate, so that two batches can share a draw. Many
students are augmented at once, each by its own operation: every image goes through one affine resampling and one cutout
mask, which are the identity for other operations. Nothing is fetched from the device.
"""

from dataclasses import dataclass
from math import log, pi

import torch
import torch.nn.functional as F

from . import POLICIES

FLIP, COLOR, CROP, ROTATE, TRANSLATE, CUTOUT = range(6)
OPERATIONS = {"rgb": range(FLIP, CUTOUT + 1), "grey": range(COLOR, CUTOUT + 1)}

ZOOM = log(1.25)  # crop: zoom factor e^U(-ZOOM, ZOOM), 0.8 to 1.25
COLOR_RANGE = 0.25
ANGLE = 15 * pi / 180
SHIFT = 0.125  # of the height


@dataclass
class Draw:
    """Parameters of one augmentation of (S, B) images: S students, B images each."""

    theta: torch.Tensor  # (S, B, 2, 3): output -> source coordinates in [-1, 1], as affine_grid takes them
    brightness: torch.Tensor  # (S, B): added; 0 for no change
    contrast: torch.Tensor  # (S, B): log factor about the image's mean
    saturation: torch.Tensor  # (S, B): log factor about each pixel's grey value
    top_left: torch.Tensor  # (S, B, 2): row and column of the cutout; outside of the image: no cutout


def draw(policy, shape, generator):
    """Draw for `shape` = (S, B, H) from `generator`, on its device."""
    ops = OPERATIONS[policy]
    students, batch, height = shape
    device = generator.device

    def uniform(bound, *extra):
        return (torch.rand(students, batch, *extra, generator=generator, device=device) * 2 - 1) * bound

    def only(active, value, otherwise=0.0):
        return torch.where((op == active).view(-1, *[1] * (value.ndim - 1)), value, torch.full_like(value, otherwise))

    op = torch.randint(ops[0], ops[-1] + 1, (students,), generator=generator, device=device)
    flip = only(FLIP, torch.where(uniform(1.0) < 0, -1.0, 1.0), 1.0)
    zoom = only(CROP, uniform(ZOOM)).exp()
    angle = only(ROTATE, uniform(ANGLE))
    # A crop of zoom z reads the source at (output + c) / z; c is bounded so that a zoomed-in crop stays inside.
    crop = uniform(1.0, 2) * ((height * zoom - height).abs() / 2 / zoom)[..., None]
    shift = only(CROP, crop) + only(TRANSLATE, uniform(SHIFT * height, 2))
    side = height // 4
    corner = torch.randint(height - side + 1, (students, batch, 2), generator=generator, device=device)
    return Draw(
        affine(flip, zoom, angle, shift, height),
        *(only(COLOR, uniform(COLOR_RANGE)) for _ in range(3)),
        only(CUTOUT, corner, height),
    )


@POLICIES.register("rgb", "grey")
def augmented(policy, x, generator, host):
    """x (S, B, K, H, W) with one operation per student and parameters per image."""
    return apply(x, draw(policy, x.shape[:2] + x.shape[3:4], generator))


def affine(flip, zoom, angle, shift, height):
    """(..., 2, 3) matrices for affine_grid. `shift` (..., 2) is in source pixels, (rows, columns)."""
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    rows, columns = (shift * 2 / height).unbind(-1)
    return torch.stack([torch.stack([flip * cos, -sin, columns], -1), torch.stack([flip * sin, cos, rows], -1)], -2)


def apply(x, draw):
    """Augment x (S, B, K, H, W) by a `Draw` of (S, B)."""

    def factor(log_factor):
        return log_factor.exp()[..., None, None, None]

    x = x + draw.brightness[..., None, None, None]
    mean = x.mean((2, 3, 4), keepdim=True)
    x = (x - mean) * factor(draw.contrast) + mean
    grey = x.mean(2, keepdim=True)
    x = (x - grey) * factor(draw.saturation) + grey
    flat = x.flatten(0, 1)
    grid = F.affine_grid(draw.theta.flatten(0, 1).to(x.dtype), flat.shape, align_corners=False)
    x = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False).view_as(x)
    return x * ~_cutout(draw.top_left, x.shape[-2], x.shape[-1])


def _cutout(top_left, height, width):
    """(S, B, 1, H, W) mask of the squares, of side H // 4."""
    rows = torch.arange(height, device=top_left.device) - top_left[..., :1]
    columns = torch.arange(width, device=top_left.device) - top_left[..., 1:]
    row_in, column_in = (0 <= rows) & (rows < height // 4), (0 <= columns) & (columns < height // 4)
    return (row_in[..., :, None] & column_in[..., None, :]).unsqueeze(2)
