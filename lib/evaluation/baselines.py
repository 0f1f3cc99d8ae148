"""What a distilled set with a schedule is to beat, real images of equal number in its place and nearest neighbours; and how far it may move.

Source: reference sheet of dataset distillation, section 7. A set goes through as many steps as the distilled one, at one rate, which is
the one of RATES that does best on training images (the paper reports the best on test images).
"""

import numpy as np
import torch

from ..data.labels import attacked, class_labels
from ..rng import generator
from ..synthetic.initial import in_minibatches, real_subset
from ..synthetic.set import DistilledSet, stacked
from ..training.losses import predicted
from ..training.students import Students

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
DRAWN, KEPT = 50, 10  # random sets, and the best of them
JUDGES, JUDGED_ON = 20, 1024  # networks and training images that judge sets and rates
NEIGHBOURS, NORMS = (1, 3), (1, 2)


def random_real(real, cfg, seed):
    return [real_subset(real, cfg, seed)]


def drawn_real(real, cfg, seed):
    """Random sets, of which `optimised_real` keeps the best."""
    return [real_subset(real, cfg, f"{seed}.drawn.{i}") for i in range(DRAWN)]


def average_real(real, cfg, seed):
    """Each class's mean image, in every minibatch."""
    return [_of_classes(real, cfg, lambda members: members.mean(0, keepdim=True).expand(cfg.ipc, *members.shape[1:]))]


def kmeans_real(real, cfg, seed):
    """Each class's centroids, as many as it has images in the set."""
    from sklearn.cluster import KMeans

    def centroids(members):
        found = KMeans(cfg.ipc, n_init=1, random_state=seed).fit(members.flatten(1).cpu().numpy()).cluster_centers_
        return torch.from_numpy(found).to(members).view(cfg.ipc, *members.shape[1:])

    return [_of_classes(real, cfg, centroids)]


def _of_classes(real, cfg, images_of):
    classes = cfg.classes or real.classes
    x = torch.cat([images_of(real.train_x[real.train_y == c]) for c in classes])
    labels = torch.tensor(classes, device=x.device).repeat_interleave(cfg.ipc)
    return tuple(
        in_minibatches(t, cfg.minibatches, cfg.ipc) for t in (x, class_labels(labels, real.num_classes, cfg.labels))
    )


BASELINES = {
    "random_real": random_real,
    "optimised_real": drawn_real,
    "average_real": average_real,
    "kmeans_real": kmeans_real,
}


def accuracies(net, sets, real, start, nets, seed, test=False):
    """(M, nets) accuracy in percent of networks trained on M DistilledSets, on training images, or on the test set.

    start: the weights (1 or nets, P) that each set's networks start from, or None.
    """
    x, y, lr, _ = stacked(sets)
    students = Students(net, real.shape, y.shape[-1], [m for m in range(len(x)) for _ in range(nets)], seed, x.device)
    if start is not None:
        students.start_from(start.repeat(len(students) // len(start), 1))
    students.follow(x, y, lr)
    if test:
        return students.accuracy(real.test_x, real.test_y).view(len(sets), nets).cpu()
    chosen = torch.randperm(len(real.train_y), generator=generator(seed, "judges"))[:JUDGED_ON].to(real.train_y.device)
    return students.accuracy(real.train_x[chosen], real.train_y[chosen]).view(len(sets), nets).cpu()


def untrained(net, distilled, real, start, num_nets, seed):
    """Test accuracy (num_nets,) in percent of the networks as they start."""
    return accuracies(net, [distilled._replace(lr=distilled.lr[:0])], real, start, num_nets, f"{seed}.test", test=True)[
        0
    ]


def attack_scores(net, distilled, real, start, num_nets, attack, seed):
    """What training on a set of labels attack (CLASS, TARGET) does to a network, in percent: accuracy, that with CLASS passing for TARGET,
    that on CLASS before and after, and how much of CLASS is taken for TARGET (the sheet, section 8)."""
    found = {}
    for when, lr in (("before", distilled.lr[:0]), ("after", distilled.lr)):
        students = Students(net, real.shape, distilled.y.shape[-1], [0] * num_nets, f"{seed}.test", distilled.x.device)
        if start is not None:
            students.start_from(start.repeat(num_nets // len(start), 1))
        guess = students.follow(distilled.x[None], distilled.y[None], lr[None]).predictions(real.test_x)
        own = real.test_y == attack[0]
        scores = {
            "accuracy": guess == real.test_y, "accuracy as modified": guess == attacked(real.test_y, attack),
            "accuracy on the class": guess[:, own] == attack[0], "taken for the target": guess[:, own] == attack[1],
        }  # fmt: skip
        found |= {f"{name}, {when}": (100 * right.float().mean()).item() for name, right in scores.items()}
    return found


def baseline(name, net, distilled, real, cfg, start, num_nets, seed):
    """Accuracy (sets * num_nets,) in percent of a baseline of a DistilledSet, and the rate that it was trained at; start: as `accuracies` has it."""
    judges = num_nets if start is not None else JUDGES
    pairs = BASELINES[name](real, cfg, seed)
    by_rate = {}
    for rate in RATES:
        sets = [DistilledSet(*pair, torch.full_like(distilled.lr, rate)) for pair in pairs]
        by_rate[rate] = sets, accuracies(net, sets, real, start, judges, seed).mean(1)
    rate = max(RATES, key=lambda rate: by_rate[rate][1].mean())
    sets, scores = by_rate[rate]
    if len(sets) > 1:
        sets = [sets[i] for i in scores.argsort(descending=True)[:KEPT]]
    return accuracies(net, sets, real, start, num_nets, f"{seed}.test", test=True).flatten(), rate


def nearest_neighbours(real, cfg, seed, kind):
    """Test accuracy in percent of k nearest neighbours among a baseline's images: the best of k and p on training images (the paper: on test)."""
    from sklearn.neighbors import KNeighborsClassifier

    x, y = BASELINES[kind](real, cfg, seed)[0]
    x, y = x.flatten(1).cpu().numpy(), predicted(y - 0.5).cpu().numpy()
    chosen = torch.randperm(len(real.train_y), generator=generator(seed, "judges"))[:JUDGED_ON].to(real.train_y.device)

    def accuracy(neighbours, images, labels):
        return 100 * float(np.mean(neighbours.predict(images.flatten(1).cpu().numpy()) == labels.cpu().numpy()))

    tried = [KNeighborsClassifier(min(k, len(x)), p=p).fit(x, y) for k in NEIGHBOURS for p in NORMS]
    best = max(tried, key=lambda neighbours: accuracy(neighbours, real.train_x[chosen], real.train_y[chosen]))
    return accuracy(best, real.test_x[torch.arange(len(real.test_y))], real.test_y)


def real_baselines(net, sets, real, cfg, starts, num_nets):
    """{name: numbers in percent of all networks and seeds} of real images in place of each seed's distilled set, and of networks as they start."""
    found = {}
    for seed, own in zip(cfg.seeds, sets):
        start = own.start[None] if own.start is not None else None if starts is None else starts[0]
        found.setdefault("untrained", []).extend(untrained(net, own, real, start, num_nets, seed).tolist())
        if cfg.attack:
            for name, percent in attack_scores(net, own, real, start, num_nets, cfg.attack, seed).items():
                found.setdefault(name, []).append(percent)
            continue
        for name in BASELINES:
            accuracy, rate = baseline(name, net, own, real, cfg, start, num_nets, seed)
            found.setdefault(name, []).extend(accuracy.tolist())
            print(f"{net:14} seed {seed} {name:16} {accuracy.mean():6.2f} % at the rate {rate}", flush=True)
        for kind in ("random_real", "kmeans_real"):
            found.setdefault(f"neighbours of {kind}", []).append(nearest_neighbours(real, cfg, seed, kind))
    return found
