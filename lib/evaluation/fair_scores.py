"""Fair scores: what remains of a distilled set's accuracy once labels and augmentation are the same for all methods.

Source: reference sheet of EDF, section 9 (DD-Ranking). Departures: accuracies are fractions, not percents; a training's
accuracy is that of its end, not the best of its checks on the test set. As published, the rate of trainings that have
none of their own is the best of five by test accuracy.
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
    """A balance in [-1, 1] as a score in [0, 1]; balance 0, neither gain nor loss, gives 0.269."""
    return (exp(balance) - 1 / e) / (e - 1 / e)


def label_robust(hard_loss, gain):
    """LRS, from what hard labels lose against the real set and what the set gains over random images."""
    return normalised(WEIGHT * gain - (1 - WEIGHT) * hard_loss)


def augmentation_robust(augmented_gain, plain_gain):
    """ARS, from the gains over random images with augmentation and without."""
    return normalised(WEIGHT * augmented_gain + (1 - WEIGHT) * plain_gain)


def accuracy(net, distilled, real, protocol, seed):
    """Accuracy (a fraction) of one network trained on a DistilledSet, at the set's rate or at the best of RATES."""
    protocol = protocol.changed(num_nets=1)
    if protocol.optimizer != "sgd" or distilled.lr is not None:
        x, y, lr, start = (None if t is None else t[None] for t in distilled)
        return evaluate(net, x, y, real, protocol, seed, lr, start).item() / 100
    lr = torch.tensor(RATES)[:, None, None]
    x, y = (t.expand(len(RATES), *t.shape) for t in distilled[:2])
    return evaluate(net, x, y, real, protocol, seed, lr).max().item() / 100


def fair_scores(net, distilled, real, cfg, protocol, hard, augment, full, teach, run):
    """One run's scores of a DistilledSet -> {name: fraction}.

    protocol: the method's own; hard: an sgd protocol for hard labels; augment: a policy that ARS takes away; full: the
    accuracy of a network trained on the whole real set; teach(x): a teacher's labels (n, C) for random images if the
    method's labels are soft, else None.
    """

    def gain(protocol):
        return accuracy(net, distilled, real, protocol, run) - accuracy(net, random, real, protocol, run)

    x, y = real_subset(real, cfg, f"{run}.fair")
    random = DistilledSet(x, y if teach is None else teach(x))
    if distilled.lr is not None and protocol.optimizer == "schedule":
        random = random._replace(lr=torch.full_like(distilled.lr, protocol.lr), start=distilled.start)
    hardened = DistilledSet(distilled.x, class_labels(distilled.y.argmax(1), real.num_classes, "one_hot"))
    scores = {"HLR": full - accuracy(net, hardened, real, hard, run), "IOR": gain(protocol)}
    scores["LRS"] = label_robust(scores["HLR"], scores["IOR"])
    if protocol.optimizer != "schedule":
        gains = (gain(protocol.changed(augment=policy)) for policy in (augment, "none"))
        scores["ARS"] = augmentation_robust(*gains)
    return scores
