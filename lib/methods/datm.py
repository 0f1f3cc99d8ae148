"""DATM: difficulty-aligned trajectory matching (Guo et al., ICLR 2024): MTT with learned soft labels; and PAD's filter.

Source: reference sheet of EDF, section 5. Labels start as the experts' logits; a loss above `threshold` is no update.
"""

import torch

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
        """As MTT's where the loss is at most `threshold`; decided on the device, so that the host does not wait."""
        tensors, useful = [*self.syn.learned], loss.detach() <= self.cfg.threshold
        before = [self.kept(tensor) for tensor in tensors]
        super().update(loss)
        for tensor, kept in zip(tensors, before):
            for now, earlier in zip((tensor.detach(), self.optimizer.state[tensor]["momentum_buffer"]), kept):
                now.copy_(torch.where(useful, now, earlier))

    def kept(self, tensor):
        """Copies of a learned tensor and of its momentum; before its first update that is 0."""
        momentum = self.optimizer.state[tensor].get("momentum_buffer")
        return tensor.detach().clone(), torch.zeros_like(tensor) if momentum is None else momentum.clone()
