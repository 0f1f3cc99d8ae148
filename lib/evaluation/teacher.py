"""Evaluation with knowledge distillation: students that learn a trained teacher's outputs on the distilled images, as SRe2L and RDED do it.

Source: reference sheet of EDF, section 10. A student's loss is the divergence from the teacher's softened outputs on the same augmented
and mixed images; labels are not used. The teacher is asked online, which equals SRe2L's stored labels.
"""

from math import cos, pi

import torch
import torch.nn.functional as F

from ..rng import generator
from ..training.students import Students

DECAY = 0.01  # of weights alone, not of biases and norms
SCALES = {"rded": 1.0, "sre2l": 0.08}  # least area of a random crop; rded without its patches


def rate(recipe, epoch, epochs):
    """Over the first: rded goes down to half, sre2l to nothing."""
    return 0.5 * (1 + cos(pi * epoch / (epochs * (2 if recipe == "rded" else 1))))


def random_crop(x, least, gen):
    """Each image x (n, K, H, W) from a crop of its own of `least` to all of its area, sides 3:4 to 4:3, brought to its size bilinearly."""
    if least == 1:
        return x
    u = torch.rand(4, len(x), generator=gen, device=x.device)
    area, ratio = least + (1 - least) * u[0], (4 / 3) ** (2 * u[1] - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * u[2] - 1), (1 - height) * (2 * u[3] - 1)
    return F.grid_sample(
        x, F.affine_grid(theta, x.shape, align_corners=False), padding_mode="reflection", align_corners=False
    )


def cutmix(x, gen, host):
    """x (n, K, H, W) with one box of every image from another image: side sqrt(1 - u) of the whole, anywhere, cut off at the edge."""
    height, width = x.shape[-2:]
    share, down, right = torch.rand(3, generator=host).tolist()
    sides = [int(size * (1 - share) ** 0.5) for size in (height, width)]
    middle = int(down * height), int(right * width)
    rows, columns = (slice(max(m - s // 2, 0), m + s // 2) for m, s in zip(middle, sides))
    other = torch.randperm(len(x), generator=gen, device=x.device)
    x = x.clone()
    x[..., rows, columns] = x[other][..., rows, columns]
    return x


def divergence(student, teacher, temperature):
    """Of softened outputs (..., B, C) from the teacher's (..., B, C): mean over the batch (...), without the factor of T^2."""
    p, q = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean(-1)


def kd_students(net, x, teacher, real, cfg, num_nets, seed):
    """`num_nets` students of `net`, trained on distilled images x (N, K, H, W) with a teacher's (a module in evaluation mode) outputs.

    cfg: schema.Scores: kd (the recipe), kd_epochs, kd_batch, kd_lr, temperature, flip.
    """
    students = Students(net, real.shape, real.num_classes, [0] * num_nets, f"{seed} kd", x.device)
    gen, host = generator(seed, "kd", device=x.device), generator(seed, "kd host")
    parts = []
    for part in students.chunks(min(cfg.kd_batch, len(x))):
        leaves = students.leaves(part)
        decayed = [p for p in leaves.values() if p.ndim > 2]  # a leading axis of students
        groups = [
            {"params": decayed, "weight_decay": DECAY},
            {"params": [p for p in leaves.values() if p.ndim <= 2], "weight_decay": 0.0},
        ]
        parts.append((part, leaves, torch.optim.AdamW(groups, cfg.kd_lr)))
    students.template.train()
    for epoch in range(cfg.kd_epochs):
        for chosen in torch.randperm(len(x), generator=gen, device=x.device).split(cfg.kd_batch):
            images = random_crop(x[chosen], SCALES[cfg.kd], gen)
            if cfg.flip:
                images = torch.where(
                    torch.rand(len(images), 1, 1, 1, generator=gen, device=x.device) < 0.5, images.flip(-1), images
                )
            images = cutmix(images, gen, host)
            with torch.no_grad():
                wanted = teacher(images)
            for part, leaves, optimizer in parts:
                for group in optimizer.param_groups:
                    group["lr"] = cfg.kd_lr * rate(cfg.kd, epoch, cfg.kd_epochs)
                divergence(
                    students.call(part, images, shared=True, params=leaves), wanted, cfg.temperature
                ).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    return students
