"""Evaluation with knowledge distillation: students learn a teacher's outputs on distilled images, as in SRe2L and RDED.

Source: reference sheet of EDF, section 10. The loss is the divergence from the teacher's softened outputs on the same
augmented and mixed images; labels are not used. Computing them online is equivalent to SRe2L's stored soft labels.
"""

from math import cos, pi

import torch
import torch.nn.functional as F

from ..rng import generator
from ..training.students import Students

DECAY = 0.01  # weight decay of weights only, not of biases and norms
MIN_AREAS = {"rded": 1.0, "sre2l": 0.08}  # of a random crop; rded without its patches


def lr_factor(recipe, epoch, epochs):
    """Cosine decay of the learning rate, as a factor: rded ends at 1/2, sre2l at 0."""
    return 0.5 * (1 + cos(pi * epoch / (epochs * (2 if recipe == "rded" else 1))))


def random_crop(x, min_area, gen):
    """A random crop of each image x (n, K, H, W), resized bilinearly to H x W.

    Its area is a fraction from `min_area` to 1, its aspect ratio 3:4 to 4:3.
    """
    if min_area == 1:
        return x
    u = torch.rand(4, len(x), generator=gen, device=x.device)
    area, ratio = min_area + (1 - min_area) * u[0], (4 / 3) ** (2 * u[1] - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * u[2] - 1), (1 - height) * (2 * u[3] - 1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def cutmix(x, gen, host):
    """Replace one box of every image x (n, K, H, W) by that of another image.

    Its sides are sqrt(1 - u) of the image's; its centre is anywhere, and it is cut off at the edge.
    """
    height, width = x.shape[-2:]
    u, row, column = torch.rand(3, generator=host).tolist()
    sides = [int(size * (1 - u) ** 0.5) for size in (height, width)]
    centre = int(row * height), int(column * width)
    rows, columns = (slice(max(c - s // 2, 0), c + s // 2) for c, s in zip(centre, sides))
    other = torch.randperm(len(x), generator=gen, device=x.device)
    x = x.clone()
    x[..., rows, columns] = x[other][..., rows, columns]
    return x


def divergence(student, teacher, temperature):
    """KL divergence of softened outputs (..., B, C) from the teacher's, mean over the batch (...); no factor of T^2."""
    p, q = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean(-1)


def kd_students(net, x, teacher, real, cfg, num_nets, seed):
    """`num_nets` students of `net`, trained on distilled images x (N, K, H, W) with a teacher's outputs.

    teacher: a module in evaluation mode. cfg: config.models.Scores (kd is the recipe's name).
    """
    students = Students(net, real.shape, real.num_classes, [0] * num_nets, f"{seed} kd", x.device)
    gen, host = generator(seed, "kd", device=x.device), generator(seed, "kd host")
    parts = []
    for part in students.chunks(min(cfg.kd_batch, len(x))):
        leaves = students.leaves(part)
        weights = {"params": [p for p in leaves.values() if p.ndim > 2], "weight_decay": DECAY}  # axis 0: students
        others = {"params": [p for p in leaves.values() if p.ndim <= 2], "weight_decay": 0.0}
        parts.append((part, leaves, torch.optim.AdamW([weights, others], cfg.kd_lr)))
    students.template.train()
    for epoch in range(cfg.kd_epochs):
        for chosen in torch.randperm(len(x), generator=gen, device=x.device).split(cfg.kd_batch):
            images = random_crop(x[chosen], MIN_AREAS[cfg.kd], gen)
            if cfg.flip:
                flipped = torch.rand(len(images), 1, 1, 1, generator=gen, device=x.device) < 0.5
                images = torch.where(flipped, images.flip(-1), images)
            images = cutmix(images, gen, host)
            with torch.no_grad():
                targets = teacher(images)
            for part, leaves, optimizer in parts:
                for group in optimizer.param_groups:
                    group["lr"] = cfg.kd_lr * lr_factor(cfg.kd, epoch, cfg.kd_epochs)
                logits = students.call(part, images, shared=True, params=leaves)
                divergence(logits, targets, cfg.temperature).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    return students
