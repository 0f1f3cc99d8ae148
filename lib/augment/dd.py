"""Dataset distillation's augmentation of real CIFAR-10 batches (its sheet, section 6)."""

import torch
import torch.nn.functional as F

from . import POLICIES

MARGIN = 4


def crop_flip(x, generator):
    """Random crops of the reflection-padded images x (B, K, H, W), flipped with probability 1/2."""
    n, _, height, width = x.shape
    device = x.device
    padded = F.pad(x, (MARGIN,) * 4, "reflect")
    top, left = torch.randint(2 * MARGIN + 1, (2, n, 1), generator=generator, device=device)
    columns = torch.arange(width, device=device).expand(n, -1)
    flipped = torch.rand(n, 1, generator=generator, device=device) < 0.5
    columns = left + torch.where(flipped, columns.flip(1), columns)
    rows = top + torch.arange(height, device=device)
    images = torch.arange(n, device=device)[:, None, None]
    return padded[images, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


@POLICIES.register("crop-flip")
def augmented(policy, x, generator, host):
    """`crop_flip` of students' batches x (S, B, K, H, W)."""
    return crop_flip(x.flatten(0, 1), generator).unflatten(0, x.shape[:2])
