"""ISA: dataset distillation with the assistance of crucial samples; FRePo with another data-fit term.

Source: reference sheet of ISA, sections 2 and 3. Of each real batch the hardest images are kept; each is pushed along the
line through its nearest kept neighbour, in feature and label space, and the squared error is integrated over that segment.
Where the sheet's order keeps a neighbour by the second place, here an image is excluded from its own neighbours.
"""

from functools import partial

import torch
import torch.nn.functional as F

from . import METHODS
from .frepo import FRePo


def kept(residual, topk):
    """Indices of the batch's images that the loss sees: residual (B, C) -> (M,), the hardest first.

    0 < topk < 1: the hardest fraction; below 0: the easiest; 0, or 1 and more: all, in their order.
    """
    b = len(residual)
    if topk == 0 or topk >= 1:
        return torch.arange(b, device=residual.device)
    order = residual.detach().square().sum(1).argsort(descending=True, stable=True)
    return order[: int(topk * b)] if topk > 0 else order[b - int(-topk * b) :]


def nearest(phi):
    """Index (M,) of each row's nearest other row of phi (M, F) in cosine."""
    unit = F.normalize(phi, dim=1)  # a zero vector stays zero
    return (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(1)


def segment_error(residual, difference, epsilon):
    """The mean of (a + s b)^2 over s in [0, epsilon], for a = residual and b = difference, elementwise; epsilon may be negative."""
    return residual.square() + epsilon * residual * difference + epsilon**2 / 3 * difference.square()


def isa_error(prediction, targets, phi_real, epsilon, topk):
    """ISA's data-fit term: the *mean* over classes and kept images (FRePo's is half the sum over classes).

    prediction, targets (B, C); phi_real (B, F), without gradient. The predictor is linear, so that the residual at the
    pushed point is r_i + s (r_i - r_j) for the neighbour j: no pass through a network is added.
    """
    residual = prediction - targets
    chosen = kept(residual, topk)
    residual = residual[chosen]
    return segment_error(residual, residual - residual[nearest(phi_real[chosen])], epsilon).mean()


@METHODS.register()
class ISA(FRePo):
    """FRePo's pool, optimiser and labels with `isa_error`; cfg also has `epsilon` and `topk`."""

    def data_fit(self, phi_real):
        phi_real = phi_real.to(
            getattr(torch, self.cfg.conv_dtype)
        )  # for the neighbours' indices alone: no more exact than they came
        return partial(isa_error, phi_real=phi_real, epsilon=self.cfg.epsilon, topk=self.cfg.topk)
