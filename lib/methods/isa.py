"""ISA: dataset distillation with the assistance of crucial samples; FRePo with another data-fit term.

Source: reference sheet of ISA, sections 2 and 3. Of each real batch the hardest samples are kept. Each is pushed, in
feature and label space, along the line through its nearest kept neighbour; the squared error is integrated over that
segment. Departure: an image is excluded from its own neighbours; the published code takes the second nearest instead.
"""

from functools import partial

import torch
import torch.nn.functional as F

from . import METHODS
from .frepo import FRePo


def crucial_samples(residual, topk):
    """Indices (M,) of the samples that the loss sees, the hardest first, from their residuals (B, C).

    0 < topk < 1: the hardest fraction; topk < 0: the easiest; topk 0 or at least 1: all, in their order.
    """
    b = len(residual)
    if topk == 0 or topk >= 1:
        return torch.arange(b, device=residual.device)
    order = residual.detach().square().sum(1).argsort(descending=True, stable=True)
    return order[: int(topk * b)] if topk > 0 else order[b - int(-topk * b) :]


def nearest_neighbour(phi):
    """Index (M,) of the other row of phi (M, F) that is nearest to each row in cosine."""
    unit = F.normalize(phi, dim=1)  # a zero vector stays zero
    return (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(1)


def segment_error(residual, difference, epsilon):
    """Mean of (residual + s difference)^2 over s in [0, epsilon], elementwise; epsilon may be negative."""
    return residual.square() + epsilon * residual * difference + epsilon**2 / 3 * difference.square()


def isa_error(prediction, targets, phi_real, epsilon, topk):
    """ISA's data-fit term: the *mean* over classes and kept samples (FRePo's is half the sum over classes).

    prediction, targets (B, C); phi_real (B, F), without gradient. The predictor is linear: the residual at the pushed
    point is r_i + s (r_i - r_j) for the neighbour j, without another pass through a network.
    """
    residual = prediction - targets
    indices = crucial_samples(residual, topk)
    residual = residual[indices]
    return segment_error(residual, residual - residual[nearest_neighbour(phi_real[indices])], epsilon).mean()


@METHODS.register()
class ISA(FRePo):
    """FRePo's pool, optimiser and labels with `isa_error`; cfg also has `epsilon` and `topk`."""

    def data_fit(self, phi_real):
        return partial(isa_error, phi_real=phi_real, epsilon=self.cfg.epsilon, topk=self.cfg.topk)
