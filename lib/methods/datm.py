"""DATM: difficulty-aligned trajectory matching (Guo et al., ICLR 2024): MTT with learned soft labels; and PAD's filter.

Source: reference sheet of EDF, section 5. Labels start as the experts' logits; a loss above `threshold` is no update.
"""

from . import METHODS
from .mtt import MTT

LABEL_MOMENTUM = 0.9


@METHODS.register()
class DATM(MTT):
    """cfg also has `lr_y`, `threshold` and PAD's `drop`: the fraction of weights, nearest first, not in the loss."""

    def __init__(self, cfg, syn, *args, **kwargs):
        super().__init__(cfg, syn, *args, **kwargs)
        syn.softmax_labels = True
        self.optimizer.add_param_group({"params": [syn.y], "lr": cfg.lr_y, "momentum": LABEL_MOMENTUM})

    def distance(self, end, start, target):
        if not self.cfg.drop:
            return super().distance(end, start, target)
        errors, lengths = (end - target).square(), (start - target).square()
        farthest = errors.detach().argsort()[int(self.cfg.drop * len(end)) :]
        return errors[farthest].sum() / lengths[farthest].sum()

    def update(self, loss):
        if loss.item() <= self.cfg.threshold:
            super().update(loss)
