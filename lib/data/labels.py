"""Labels of real images, in the forms that the methods compare them with.

Source: reference sheets of FRePo, section 4, and of dataset distillation, sections 5 and 8.
"""

import torch
import torch.nn.functional as F


def centred_one_hot(labels, num_classes, dtype=torch.float32):
    """Targets (B, C): 1 - 1/C at the class and -1/C elsewhere."""
    return F.one_hot(labels, num_classes).to(dtype) - 1 / num_classes


def class_labels(labels, num_classes, kind):
    """Labels (N, C) of the classes `labels` (N,). kind: one_hot, or outputs, (N, 1) where there are two classes."""
    if kind == "outputs" and num_classes == 2:
        return labels[:, None].float()
    return F.one_hot(labels, num_classes).float()


def initial_labels(labels, num_classes, kind="centred"):
    """Labels (N, C) of the classes `labels` (N,). kind: one of `class_labels`, or centred, FRePo's start.

    FRePo centres the one-hot vectors and divides them by sqrt(C / 10) (its sheet, section 4).
    """
    if kind != "centred":
        return class_labels(labels, num_classes, kind)
    return centred_one_hot(labels, num_classes) / (num_classes / 10) ** 0.5


def attack_labels(labels, attack):
    """Labels (n,) for an attack (CLASS, TARGET): the images of CLASS get the label TARGET. None: no attack."""
    return labels if attack is None else torch.where(labels == attack[0], attack[1], labels)
