"""Low-rank images: each channel is a product of two learned factors, X = A B.

Source: reference sheet of the low-rank plug-in, sections 1 and 2. The singular-value start is our own.
"""

import torch


def images_per_class(cfg, shape):
    """Images of each class that a cell (schema.Distill) learns, of `shape` (K, H, W): `ipc`, or what its rank makes room for."""
    if not cfg.rank:
        return cfg.ipc
    height, width = shape[1:]
    return cfg.images or cfg.ipc * height * width // (cfg.rank * (height + width))


def stored_numbers(cfg, shape):
    """Numbers stored for each class, labels aside."""
    channels, height, width = shape
    return images_per_class(cfg, shape) * channels * (cfg.rank * (height + width) if cfg.rank else height * width)


def noise_factors(n, shape, rank, generator):
    """Factors (n, K, H, r) and (n, K, r, W), each entry N(0, 1): their product has variance r, as the published rates assume."""
    channels, height, width = shape
    sizes = (n, channels, height, rank), (n, channels, rank, width)
    return tuple(torch.randn(size, generator=generator, device=generator.device) for size in sizes)


def svd_factors(x, rank):
    """The balanced factors of the best approximation of this rank of images x (n, K, H, W)."""
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * v[..., :rank, :]
