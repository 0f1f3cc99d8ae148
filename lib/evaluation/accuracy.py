"""Test accuracies of distilled sets: of networks trained on them, and of kernel ridge regression with an untrained network's features."""

import torch

from ..methods.kernel_regression import krr_coefficients
from ..training.students import Students, trained

PUBLISHED_THRESHOLD = 0.5  # of a single logit: what DD's and TDD's code has in place of 0 (the sheet, section 15)


@torch.no_grad()
def krr_accuracy(net, x, y, real, seed):
    """Test accuracy (M,) in percent, on the CPU, of kernel ridge regression from each set to the test images.

    x (M, N, K, H, W), y (M, N, C): the sets; the features are those of one untrained `net`, the same for all.
    """
    student = Students(net, real.shape, real.num_classes, [0], seed, x.device)
    heads = []
    for images, labels in zip(x, y):
        phi = student.outputs(images, features=True)[0]
        heads.append(phi.T @ krr_coefficients(phi, labels))
    heads = torch.stack(heads)  # (M, F, C)
    predicted = student.outputs(real.test_x, lambda phi: (phi @ heads).argmax(-1), features=True)
    return 100 * (predicted == real.test_y).float().mean(1).cpu()


def judged(net, stacks, real, protocol, starts):
    """Of each kind of sets, all of one size: accuracies (seeds, networks) in percent, and of kernel ridge regression (seeds,)."""
    x, y, lr, start = (None if t[0] is None else torch.cat(t) for t in zip(*stacks.values()))
    start = start if starts is None else starts.expand(len(x), -1, -1)
    students = trained(net, x, y, real, protocol, 0, lr, start)
    found = {"accuracy": students.accuracy(real.test_x, real.test_y).view(len(x), -1).cpu()}
    if y.shape[-1] == 1:
        at_half = students.accuracy(real.test_x, real.test_y, PUBLISHED_THRESHOLD)
        found["at_half"] = at_half.view(len(x), -1).cpu()
    if protocol.optimizer != "schedule":
        found["krr"] = krr_accuracy(net, x, y, real, seed=0)
    parts = {name: each.split(len(x) // len(stacks)) for name, each in found.items()}
    return {kind: {name: part[i] for name, part in parts.items()} for i, kind in enumerate(stacks)}


def by_size(stacks):
    """Kinds of sets, in groups of equal size, which are evaluated together: a low-rank set has more images than its memory has pixels for."""
    sizes = {kind: stack.x.shape[1] for kind, stack in stacks.items()}
    return [[kind for kind in stacks if sizes[kind] == size] for size in dict.fromkeys(sizes.values())]
