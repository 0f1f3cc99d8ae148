"""Low-rank images: each channel is a product of two learned factors, X = A B.

Source: reference sheet of the low-rank plug-in, sections 1, 2. The start from a singular value decomposition is ours.
"""

import torch


def images_per_class(cfg, shape):
    """Images (K, H, W) that a cell (config.models.Distill) learns per class: `ipc`, or as many as fit its memory."""
    if not cfg.rank:
        return cfg.ipc
    height, width = shape[1:]
    return cfg.images or cfg.ipc * height * width // (cfg.rank * (height + width))


def stored_numbers(cfg, shape):
    """Numbers stored for each class, without the labels."""
    channels, height, width = shape
    return images_per_class(cfg, shape) * channels * (cfg.rank * (height + width) if cfg.rank else height * width)


def noise_factors(n, shape, rank, generator):
    """Factors (n, K, H, r) and (n, K, r, W) of N(0, 1): products have variance r, as published step sizes assume."""
    channels, height, width = shape
    sizes = (n, channels, height, rank), (n, channels, rank, width)
    return tuple(torch.randn(size, generator=generator, device=generator.device) for size in sizes)


def svd_factors(x, rank):
    """Balanced factors of the best rank-r approximation of images x (n, K, H, W)."""
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * v[..., :rank, :]
