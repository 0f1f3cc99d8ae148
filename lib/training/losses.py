"""Losses on labels that may be learned, and the classes that a network's outputs predict.

Source: reference sheet of dataset distillation, sections 5 and 10. A network of two classes may have one output, the
logit of class 1, and labels of one number; the loss is then the binary cross-entropy.
"""

import torch.nn.functional as F


def cross_entropy(logits, y):
    """Cross-entropy to labels y, which need not be probabilities, mean over the batch; (..., B, C) -> (...)."""
    if y.shape[-1] == 1:
        return (F.softplus(logits) - y * logits)[..., 0].mean(-1)
    return -(y * logits.log_softmax(-1)).sum(-1).mean(-1)


def predicted(logits, threshold=0.0):
    """Classes (...) of logits (..., C); threshold: what a single logit must exceed for class 1."""
    return (logits[..., 0] > threshold).long() if logits.shape[-1] == 1 else logits.argmax(-1)


def squared_error(prediction, target):
    """FRePo's loss: half the squared error *summed* over classes, mean over the batch."""
    return 0.5 * (prediction - target).square().sum(-1).mean(-1)
