"""Test accuracies of distilled sets: of networks trained on them, and of kernel ridge regression on random features."""

import torch

from ..data.labels import initial_labels
from ..methods.kernel_regression import krr_coefficients
from ..training.students import Students, evaluate, trained

PUBLISHED_THRESHOLD = 0.5  # of a single logit: what DD's and TDD's code has in place of 0 (their sheet, section 15)


@torch.no_grad()
def krr_accuracy(net, x, y, real, seed):
    """Test accuracy (M,) in percent, on the CPU, of kernel ridge regression from each set to the test images.

    x (M, N, K, H, W), y (M, N, C): the sets. The features are those of one untrained `net`, the same for all sets.
    """
    student = Students(net, real.shape, real.num_classes, [0], seed, x.device)
    heads = []
    for images, labels in zip(x, y):
        phi = student.outputs(images, features=True)[0]
        heads.append(phi.T @ krr_coefficients(phi, labels))
    heads = torch.stack(heads)  # (M, F, C)
    predicted = student.outputs(real.test_x, lambda phi: (phi @ heads).argmax(-1), features=True)
    return 100 * (predicted == real.test_y).float().mean(1).cpu()


def stack_accuracies(net, stacks, real, protocol, starts, saving=None, conv_dtype="float32"):
    """Accuracies in percent of stacked sets -> {kind: {accuracy (seeds, networks), krr (seeds,), ...}}.

    stacks: {kind: sets of all seeds, stacked}, all of one size. starts: known weights of the students, or None.
    saving: a checkpoint.Saving of their training. conv_dtype: that they are trained and tested in; krr is in float32.
    """
    x, y, lr, start = (None if tensors[0] is None else torch.cat(tensors) for tensors in zip(*stacks.values()))
    start = start if starts is None else starts.expand(len(x), -1, -1)
    students = trained(net, x, y, real, protocol, 0, lr, start, saving, conv_dtype)
    results = {"accuracy": students.accuracy(real.test_x, real.test_y).view(len(x), -1).cpu()}
    if y.shape[-1] == 1:
        at_half = students.accuracy(real.test_x, real.test_y, PUBLISHED_THRESHOLD)
        results["at_half"] = at_half.view(len(x), -1).cpu()
    if protocol.optimizer != "schedule":
        results["krr"] = krr_accuracy(net, x, y, real, seed=0)
    by_kind = {name: result.split(len(x) // len(stacks)) for name, result in results.items()}
    return {kind: {name: parts[i] for name, parts in by_kind.items()} for i, kind in enumerate(stacks)}


def whole_set_accuracy(net, real, labels, protocol, conv_dtype="float32"):
    """Test accuracies (num_nets,) in percent of networks trained on the whole training set; labels: their form."""
    y = initial_labels(real.train_y, real.num_classes, labels)
    return evaluate(net, real.train_x[None], y[None], real, protocol, "whole set", conv_dtype=conv_dtype)[0]


def by_size(stacks):
    """Groups of kinds of sets of equal size, to evaluate together: a low-rank set has more images than a real one."""
    sizes = {kind: stack.x.shape[1] for kind, stack in stacks.items()}
    return [[kind for kind in stacks if sizes[kind] == size] for size in dict.fromkeys(sizes.values())]
