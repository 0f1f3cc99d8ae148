"""Dataset distillation's augmentation of real CIFAR-10 batches (its sheet, section 6)."""

import torch
import torch.nn.functional as F

from . import POLICIES

MARGIN = 4


def crop_flip(x, generator):
    """Images x (B, K, H, W), each cut at random from its reflection-padded self and mirrored half of the time."""
    n, _, height, width = x.shape
    device = x.device
    padded = F.pad(x, (MARGIN,) * 4, "reflect")
    top, left = torch.randint(2 * MARGIN + 1, (2, n, 1), generator=generator, device=device)
    columns = torch.arange(width, device=device).expand(n, -1)
    mirrored = torch.rand(n, 1, generator=generator, device=device) < 0.5
    columns = left + torch.where(mirrored, columns.flip(1), columns)
    rows = top + torch.arange(height, device=device)
    return padded[torch.arange(n, device=device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(
        -1, 1
    )


@POLICIES.register("crop-flip")
def augmented(policy, x, generator, host):
    """`crop_flip` of students' batches x (S, B, K, H, W)."""
    return crop_flip(x.flatten(0, 1), generator).unflatten(0, x.shape[:2])
