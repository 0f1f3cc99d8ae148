"""DC's augmentation in evaluation: one operation for each image, drawn from the policy's list. Not differentiable.

Source: reference sheet of DC, DSA and DM, section 6. The rotation is scipy's (cubic splines, constant mode), batched.
"""

from functools import lru_cache
from math import pi

import numpy as np
import torch
import torch.nn.functional as F

from . import POLICIES

OPERATIONS = {"dc": ("crop", "scale", "rotate"), "dc-noise": ("crop", "noise")}


@POLICIES.register("dc", "dc-noise")
@torch.no_grad()
def augmented(policy, x, generator, host):
    """x (S, B, K, H, W) with an operation for each image; a channel's mean is that of the student's batch."""
    names = OPERATIONS[policy]
    mean = x.mean((1, 3, 4), keepdim=True).expand(-1, x.shape[1], -1, -1, -1).flatten(0, 1)
    flat = x.flatten(0, 1)
    op = torch.randint(len(names), (len(flat),), generator=generator, device=x.device).view(-1, 1, 1, 1)
    u = torch.rand(len(flat), 2, generator=generator, device=x.device)
    noise = torch.randn(flat.shape, generator=generator, device=x.device, dtype=x.dtype) if "noise" in names else None
    made = {
        "crop": lambda: crop(flat, u, mean),
        "scale": lambda: scale(flat, u),
        "rotate": lambda: rotate(flat, u, mean),
        "noise": lambda: flat + 0.001 * noise,
    }
    out = flat
    for i, name in enumerate(names):
        out = torch.where(op == i, made[name](), out)
    return out.view_as(x)


def take(x, rows, columns):
    """x (n, K, H, W) at rows (n, h) and columns (n, w) -> (n, K, h, w)."""
    picked = x.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
    return picked.gather(3, columns[:, None, None, :].expand(-1, x.shape[1], rows.shape[1], -1))


def crop(x, u, mean):
    """A window of an image with 4 pixels of its channel's mean (n, K, 1, 1) around; offsets 0 to 7."""
    offset = (u * 8).long()
    rows, columns = (offset[:, i, None] + torch.arange(x.shape[2 + i], device=x.device) for i in (0, 1))
    return take(F.pad(x - mean, (4, 4, 4, 4)), rows, columns) + mean


def scale(x, u):
    """Height and width by factors of 0.8 to 1.2, nearest neighbour, in the middle of a canvas of zeros."""

    def source(size, u, largest):
        new = (size * (0.8 + 0.4 * u)).long()
        at = torch.arange(size, device=x.device) + ((largest - size) // 2 - (largest - new) // 2)[:, None]
        return (at * size // new[:, None]).clamp(0, size - 1), (at >= 0) & (at < new[:, None])

    height, width = x.shape[2:]
    largest = (
        (torch.tensor([height, width], device=x.device) * (0.8 + 0.4 * u)).long().amax(1).clamp(min=max(height, width))
    )
    (rows, row_in), (columns, column_in) = source(height, u[:, 0], largest), source(width, u[:, 1], largest)
    return take(x, rows, columns) * (row_in[:, None, :, None] & column_in[:, None, None, :])


@lru_cache
def spline_filter(size):
    """(size, size) matrix from samples to the coefficients of their cubic spline, mirrored at the ends."""
    matrix = np.diag(np.full(size, 4.0)) + np.diag(np.ones(size - 1), 1) + np.diag(np.ones(size - 1), -1)
    matrix[0, 1] = matrix[-1, -2] = 2.0
    return torch.from_numpy(np.linalg.inv(matrix / 6))


def rotate(x, u, mean):
    """By a whole number of degrees, -45 to 44, about the middle; outside of the image is the mean over the channels of their means."""
    size = x.shape[-1]
    angle = ((u[:, 0] * 90).floor() - 45) * (pi / 180)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    # The original grows the canvas to hold all of the image and cuts out the middle: half a pixel off where it grew by an odd number.
    grown = (size * (cos.abs() + sin.abs()) + 0.5).long()
    half = (grown - size) // 2 - (grown - 1) / 2
    at = torch.arange(size, device=x.device) + half
    row, column = at.view(-1, size, 1), at.view(-1, 1, size)
    y, z = cos * row + sin * column + (size - 1) / 2, -sin * row + cos * column + (size - 1) / 2
    eps = 1e-5  # the edge itself is inside
    inside = ((y >= -eps) & (y <= size - 1 + eps) & (z >= -eps) & (z <= size - 1 + eps)).unsqueeze(1)
    matrix = spline_filter(size).to(x)
    coefficients = (matrix @ x @ matrix.T).flatten(2)
    total = 0
    for i, row_weight in taps(y):
        for j, column_weight in taps(z):
            index = (mirror(i, size) * size + mirror(j, size)).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
            total = total + (row_weight * column_weight).unsqueeze(1) * coefficients.gather(2, index).view_as(x)
    return torch.where(inside, total, mean.mean(1, keepdim=True))


def taps(position):
    """The four integer positions around `position` and their weights in a cubic B-spline."""
    first = position.floor()
    t = position - first
    weights = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    return [(first.long() + k - 1, weight) for k, weight in enumerate(weights)]


def mirror(index, size):
    """Reflect integer positions about the first and the last pixel."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)
