"""DC's augmentation in evaluation: one operation per image, drawn from the policy's list. Not differentiable.

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
    """x (S, B, K, H, W) with one operation per image; pixels from outside are the channel's mean over the batch."""
    names = OPERATIONS[policy]
    mean = x.mean((1, 3, 4), keepdim=True).expand(-1, x.shape[1], -1, -1, -1).flatten(0, 1)
    flat = x.flatten(0, 1)
    op = torch.randint(len(names), (len(flat),), generator=generator, device=x.device).view(-1, 1, 1, 1)
    u = torch.rand(len(flat), 2, generator=generator, device=x.device)
    noise = torch.randn(flat.shape, generator=generator, device=x.device, dtype=x.dtype) if "noise" in names else None
    operations = {
        "crop": lambda: crop(flat, u, mean),
        "scale": lambda: scale(flat, u),
        "rotate": lambda: rotate(flat, u, mean),
        "noise": lambda: flat + 0.001 * noise,
    }
    out = flat
    for i, name in enumerate(names):
        out = torch.where(op == i, operations[name](), out)
    return out.view_as(x)


def take(x, rows, columns):
    """x (n, K, H, W) at rows (n, h) and columns (n, w) -> (n, K, h, w)."""
    x = x.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
    return x.gather(3, columns[:, None, None, :].expand(-1, x.shape[1], rows.shape[1], -1))


def crop(x, u, mean):
    """A random window, offsets 0 to 7, of an image padded by 4 pixels with the channel's mean (n, K, 1, 1)."""
    offset = (u * 8).long()
    rows, columns = (offset[:, i, None] + torch.arange(x.shape[2 + i], device=x.device) for i in (0, 1))
    return take(F.pad(x - mean, (4, 4, 4, 4)), rows, columns) + mean


def scale(x, u):
    """Scale height and width by factors of 0.8 to 1.2, nearest neighbour, centred on a canvas of zeros."""

    def source(size, u, canvas):
        new = (size * (0.8 + 0.4 * u)).long()
        position = torch.arange(size, device=x.device) + ((canvas - size) // 2 - (canvas - new) // 2)[:, None]
        return (position * size // new[:, None]).clamp(0, size - 1), (position >= 0) & (position < new[:, None])

    height, width = x.shape[2:]
    new_sizes = torch.stack([height * (0.8 + 0.4 * u[:, 0]), width * (0.8 + 0.4 * u[:, 1])], 1).long()
    canvas = new_sizes.amax(1).clamp(min=max(height, width))
    (rows, row_in), (columns, column_in) = source(height, u[:, 0], canvas), source(width, u[:, 1], canvas)
    return take(x, rows, columns) * (row_in[:, None, :, None] & column_in[:, None, None, :])


@lru_cache
def spline_filter(size, dtype, device):
    """(size, size) matrix from samples to the coefficients of their cubic spline, mirrored at the ends."""
    matrix = np.diag(np.full(size, 4.0)) + np.diag(np.ones(size - 1), 1) + np.diag(np.ones(size - 1), -1)
    matrix[0, 1] = matrix[-1, -2] = 2.0
    return torch.from_numpy(np.linalg.inv(matrix / 6)).to(device, dtype)


def rotate(x, u, mean):
    """Rotate by a whole number of degrees, -45 to 44, about the centre; outside is the mean of the channels' means."""
    size = x.shape[-1]
    angle = ((u[:, 0] * 90).floor() - 45) * (pi / 180)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    # The original grows the canvas to hold the whole image and crops its centre: half a pixel off if it grew by an odd
    # number.
    canvas = (size * (cos.abs() + sin.abs()) + 0.5).long()
    offset = (canvas - size) // 2 - (canvas - 1) / 2
    position = torch.arange(size, device=x.device) + offset
    row, column = position.view(-1, size, 1), position.view(-1, 1, size)
    source_row = cos * row + sin * column + (size - 1) / 2
    source_column = -sin * row + cos * column + (size - 1) / 2
    eps = 1e-5  # the edge itself is inside
    inside = (source_row >= -eps) & (source_row <= size - 1 + eps)
    inside = (inside & (source_column >= -eps) & (source_column <= size - 1 + eps)).unsqueeze(1)
    matrix = spline_filter(size, x.dtype, x.device)
    coefficients = (matrix @ x @ matrix.T).flatten(2)
    total = 0
    for i, row_weight in taps(source_row):
        for j, column_weight in taps(source_column):
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
