"""Baselines of a distilled set with a schedule: equally many real images, nearest neighbours, untrained networks.

Source: reference sheet of dataset distillation, section 7. Networks take as many steps on real images as on the
distilled set, at one rate: the one of RATES that does best on training images (the paper: on test images).
"""

from dataclasses import replace

import numpy as np
import torch

from ..augment.dd import crop_flip
from ..data.labels import attack_labels, class_labels
from ..rng import generator
from ..synthetic.initial import in_minibatches, real_subset
from ..synthetic.set import DistilledSet, stacked
from ..training.losses import predicted
from ..training.students import Students

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
RANDOM_SETS, BEST_SETS = 50, 20  # random sets that are drawn, and how many of the best are kept
SELECTION_NETS, SELECTION_IMAGES = 20, 1024  # networks and training images by which sets and rates are selected
NEIGHBOURS, NORMS = (1, 3), (1, 2)


def random_real(real, cfg, seed):
    return [real_subset(real, cfg, seed)]


def drawn_real(real, cfg, seed):
    """Random sets, of which `optimised_real` keeps the best."""
    return [real_subset(real, cfg, f"{seed}.drawn.{i}") for i in range(RANDOM_SETS)]


def average_real(real, cfg, seed):
    """Each class's mean image, in every minibatch."""
    return [_of_classes(real, cfg, lambda members: members.mean(0, keepdim=True).expand(cfg.ipc, *members.shape[1:]))]


def kmeans_real(real, cfg, seed):
    """Each class's k-means centroids, as many as it has images in the set."""
    from sklearn.cluster import KMeans

    def centroids(members):
        clusters = KMeans(cfg.ipc, n_init=1, random_state=seed).fit(members.flatten(1).cpu().numpy())
        return torch.from_numpy(clusters.cluster_centers_).to(members).view(cfg.ipc, *members.shape[1:])

    return [_of_classes(real, cfg, centroids)]


def _of_classes(real, cfg, images_of):
    """The set (x, y) of the images images_of(a class's training images)."""
    classes = cfg.classes or real.classes
    x = torch.cat([images_of(real.train_x[real.train_y == c]) for c in classes])
    labels = torch.tensor(classes, device=x.device).repeat_interleave(cfg.ipc)
    y = class_labels(labels, real.num_classes, cfg.labels)
    return tuple(in_minibatches(t, cfg.minibatches, cfg.ipc) for t in (x, y))


BASELINES = {
    "random_real": random_real,
    "optimised_real": drawn_real,
    "average_real": average_real,
    "kmeans_real": kmeans_real,
}


def real_images(name, real, cfg, seed):
    """The sets of a baseline. Its images come as the cell's real batches do: those of CIFAR cropped and flipped."""
    if cfg.augment == "crop_flip":
        gen = generator(seed, "baselines", "augment", device=real.train_x.device)
        real = replace(real, train_x=crop_flip(real.train_x[:], gen))
    return BASELINES[name](real, cfg, seed)


def accuracies(net, sets, real, start, nets, seed, test=False):
    """(M, nets) accuracy in percent of networks trained on M DistilledSets, on training images, or on the test set.

    start: the weights (1 or nets, P) that each set's networks start from, or None.
    """
    x, y, lr, _ = stacked(sets)
    students = Students(net, real.shape, y.shape[-1], [m for m in range(len(x)) for _ in range(nets)], seed, x.device)
    if start is not None:
        students.start_from(start.repeat(len(students) // len(start), 1))
    students.follow(x, y, lr)
    images, labels = (real.test_x, real.test_y) if test else selection_images(real, seed)
    return students.accuracy(images, labels).view(len(sets), nets).cpu()


def selection_images(real, seed):
    """Random training images and their classes, by which sets and rates are selected."""
    order = torch.randperm(len(real.train_y), generator=generator(seed, "judges"))
    chosen = order[:SELECTION_IMAGES].to(real.train_y.device)
    return real.train_x[chosen], real.train_y[chosen]


def untrained(net, distilled, real, start, num_nets, seed):
    """Test accuracy (num_nets,) in percent of the networks as they start."""
    no_steps = distilled._replace(lr=distilled.lr[:0])
    return accuracies(net, [no_steps], real, start, num_nets, f"{seed}.test", test=True)[0]


def poisoning_scores(net, distilled, real, start, num_nets, attack, seed):
    """Percents before and after training on a set of an attack (CLASS, TARGET) (the sheet, section 8): the accuracy,
    the accuracy with CLASS labelled TARGET, the accuracy on CLASS, and how much of CLASS is taken for TARGET."""
    results = {}
    for when, lr in (("before", distilled.lr[:0]), ("after", distilled.lr)):
        students = Students(net, real.shape, distilled.y.shape[-1], [0] * num_nets, f"{seed}.test", distilled.x.device)
        if start is not None:
            students.start_from(start.repeat(num_nets // len(start), 1))
        classes = students.follow(distilled.x[None], distilled.y[None], lr[None]).predictions(real.test_x)
        of_class = classes[:, real.test_y == attack[0]]
        correct = {
            "accuracy": classes == real.test_y,
            "accuracy as modified": classes == attack_labels(real.test_y, attack),
            "accuracy on the class": of_class == attack[0],
            "taken for the target": of_class == attack[1],
        }
        results |= {f"{name}, {when}": (100 * c.float().mean()).item() for name, c in correct.items()}
    return results


def baseline(name, net, distilled, real, cfg, start, num_nets, seed):
    """A baseline's test accuracies (sets * num_nets,) in percent and its selected rate; start: as in `accuracies`."""
    nets = num_nets if start is not None else SELECTION_NETS
    pairs = real_images(name, real, cfg, seed)
    by_rate = {}
    for rate in RATES:
        sets = [DistilledSet(*pair, torch.full_like(distilled.lr, rate)) for pair in pairs]
        by_rate[rate] = sets, accuracies(net, sets, real, start, nets, seed).mean(1)
    rate = max(RATES, key=lambda rate: by_rate[rate][1].mean())
    sets, scores = by_rate[rate]
    if len(sets) > 1:
        sets = [sets[i] for i in scores.argsort(descending=True)[:BEST_SETS]]
    return accuracies(net, sets, real, start, num_nets, f"{seed}.test", test=True).flatten(), rate


def nearest_neighbours(real, cfg, seed, kind):
    """Test accuracy in percent of k nearest neighbours in L_p distance among a baseline's images.

    k and p are the best on training images (in the paper: on test images).
    """
    from sklearn.neighbors import KNeighborsClassifier

    x, y = real_images(kind, real, cfg, seed)[0]
    x, y = x.flatten(1).cpu().numpy(), predicted(y - 0.5).cpu().numpy()
    images, labels = selection_images(real, seed)

    def accuracy(neighbours, images, labels):
        return 100 * float(np.mean(neighbours.predict(images.flatten(1).cpu().numpy()) == labels.cpu().numpy()))

    candidates = [KNeighborsClassifier(min(k, len(x)), p=p).fit(x, y) for k in NEIGHBOURS for p in NORMS]
    best = max(candidates, key=lambda neighbours: accuracy(neighbours, images, labels))
    return accuracy(best, real.test_x[torch.arange(len(real.test_y))], real.test_y)


def real_baselines(net, sets, real, cfg, starts, num_nets):
    """All baselines of each seed's distilled set, in the order of `cfg.seeds` -> {name: percents}."""
    results = {}
    for seed, distilled in zip(cfg.seeds, sets):
        start = distilled.start[None] if distilled.start is not None else None if starts is None else starts[0]
        results.setdefault("untrained", []).extend(untrained(net, distilled, real, start, num_nets, seed).tolist())
        if cfg.attack:
            for name, percent in poisoning_scores(net, distilled, real, start, num_nets, cfg.attack, seed).items():
                results.setdefault(name, []).append(percent)
            continue
        for name in BASELINES:
            accuracy, rate = baseline(name, net, distilled, real, cfg, start, num_nets, seed)
            results.setdefault(name, []).extend(accuracy.tolist())
            print(f"{net:14} seed {seed} {name:16} {accuracy.mean():6.2f} % at the rate {rate}", flush=True)
        for kind in ("random_real", "kmeans_real"):
            results.setdefault(f"neighbours of {kind}", []).append(nearest_neighbours(real, cfg, seed, kind))
    return results
