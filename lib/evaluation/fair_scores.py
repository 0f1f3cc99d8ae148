"""Fair scores of a distilled set: what is left of its accuracy once labels and augmentation are the same for all.

Source: reference sheet of EDF, section 9 (DD-Ranking). Accuracies are fractions here, where the released code takes percents.
Departures: a training's accuracy is that of its end, not the best of its checks on the test set; the rate of trainings that have none
of their own is the best of five by test accuracy, as published.
"""

from math import e, exp

import torch

from ..data.labels import class_labels
from ..synthetic.initial import real_subset
from ..synthetic.set import DistilledSet
from ..training.students import evaluate

RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
WEIGHT = 0.5  # of the gain over random images, and of trainings with augmentation


def normalised(balance):
    """A balance between -1 and 1 as a score between 0 and 1; no gain and no loss is 0.269."""
    return (exp(balance) - 1 / e) / (e - 1 / e)


def label_robust(hard_loss, gain):
    """LRS: hard_loss is what hard labels lose against the real set, gain what the set has over random images under its own evaluation."""
    return normalised(WEIGHT * gain - (1 - WEIGHT) * hard_loss)


def augmentation_robust(augmented_gain, plain_gain):
    """ARS, of the gains over random images with augmentation and without."""
    return normalised(WEIGHT * augmented_gain + (1 - WEIGHT) * plain_gain)


def accuracy(net, own, real, protocol, seed):
    """Of one network trained on a DistilledSet, at the set's own rate or at the best of RATES where the protocol leaves it to us; a fraction."""
    protocol = protocol.changed(num_nets=1)
    if protocol.optimizer != "sgd" or own.lr is not None:
        x, y, lr, start = (None if t is None else t[None] for t in own)
        return evaluate(net, x, y, real, protocol, seed, lr, start).item() / 100
    lr = torch.tensor(RATES)[:, None, None]
    x, y = (t.expand(len(RATES), *t.shape) for t in own[:2])
    return evaluate(net, x, y, real, protocol, seed, lr).max().item() / 100


def fair_scores(net, own, real, cfg, protocol, hard, augment, full, teach, run):
    """One run's scores of a DistilledSet -> {name: fraction}.

    protocol: the method's own; hard: an sgd protocol for hard labels; augment: the policy that is on and off for the robustness to it;
    full: accuracy of a network trained on the whole real set; teach(x): a teacher's labels (n, C) for random images of a method of soft labels,
    or None.
    """
    x, y = real_subset(real, cfg, f"{run}.fair")
    random = DistilledSet(x, y if teach is None else teach(x))
    if own.lr is not None and protocol.optimizer == "schedule":
        random = random._replace(lr=torch.full_like(own.lr, protocol.lr), start=own.start)
    hardened = DistilledSet(own.x, class_labels(own.y.argmax(1), real.num_classes, "one_hot"))
    gain = accuracy(net, own, real, protocol, run) - accuracy(net, random, real, protocol, run)
    loss = full - accuracy(net, hardened, real, hard, run)
    found = {"HLR": loss, "IOR": gain, "LRS": label_robust(loss, gain)}
    if protocol.optimizer != "schedule":
        gains = [
            accuracy(net, own, real, p, run) - accuracy(net, random, real, p, run)
            for p in (protocol.changed(augment=a) for a in (augment, "none"))
        ]
        found["ARS"] = augmentation_robust(*gains)
    return found
