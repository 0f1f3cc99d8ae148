"""Class-incremental learning from a memory: classes come in groups, and each group leaves a few images in the memory.

Source: reference sheets of FRePo (section 10) and of DC, DSA and DM (section 7). After each step, fresh networks are
trained on the memory and tested on all classes seen so far, without masking the outputs of the others.
"""

import torch
import torch.nn.functional as F

from ..data.labels import initial_labels
from ..data.real import class_groups, part_of
from ..synthetic.initial import join
from ..training.students import Students


def herd(phi, count):
    """Herding: indices (count,) of distinct rows of phi (n, F), whose mean greedily approaches the mean of all rows.

    iCaRL's rule (Rebuffi et al. 2017, algorithm 4), on features of norm 1.
    """
    phi = F.normalize(phi, dim=1)
    mean, total, free = phi.mean(0), torch.zeros_like(phi[0]), torch.zeros(len(phi), device=phi.device)
    chosen = []
    for k in range(1, count + 1):
        distance = (mean - (total + phi) / k).norm(dim=1) + free
        chosen.append(distance.argmin())
        total, free[chosen[-1]] = total + phi[chosen[-1]], torch.inf
    return torch.stack(chosen)


def herded_memory(net, real, cfg, seed, protocol):
    """The herding baseline of one class order: real images x (N, K, H, W), y (N, C), as many as the distilled ones.

    At each step, a network is trained on the step's classes by `protocol`; its features select `cfg.ipc` of each.
    """
    sets = []
    for step in range(cfg.class_steps):
        part = part_of(real, cfg, seed, step)
        student = Students(net, real.shape, real.num_classes, [0], f"herding.{seed}.{step}", part.train_x.device)
        student.train(part.train_x[None], initial_labels(part.train_y, real.num_classes, cfg.labels)[None], protocol)
        phi = student.outputs(part.train_x, features=True)[0]
        for label in part.classes:
            members = (part.train_y == label).nonzero().flatten()
            chosen = members[herd(phi[members], cfg.ipc)]
            sets.append((part.train_x[chosen], initial_labels(part.train_y[chosen], real.num_classes, cfg.labels)))
    return join(sets)


def accuracies(net, x, y, real, cfg, orders, protocol, seed):
    """Accuracy after each step on the classes of each step so far.

    x (M, N, K, H, W), y (M, N, C): M memories, group after group; orders: M class orders (seeds of `class_groups`).
    Returns percents (M, num_nets, T, T): [..., t, k] on the test images of group k after step t, NaN for k > t.
    """
    steps, per_step = cfg.class_steps, x.shape[1] // cfg.class_steps
    group_of = torch.empty(len(orders), real.num_classes, dtype=torch.long, device=x.device)
    for row, order in zip(group_of, orders):
        for k, classes in enumerate(class_groups(real.num_classes, steps, order)):
            row[classes] = k
    table = torch.full((len(x), protocol.num_nets, steps, steps), torch.nan)
    set_of = [m for m in range(len(x)) for _ in range(protocol.num_nets)]
    for t in range(steps):
        students = Students(net, real.shape, real.num_classes, set_of, f"{seed}.{t}", x.device)
        memory = slice(0, (t + 1) * per_step)
        predictions = students.train(x[:, memory], y[:, memory], protocol).predictions(real.test_x)
        correct = (predictions == real.test_y).float()
        for k in range(t + 1):
            in_group = (group_of[:, real.test_y] == k).float().repeat_interleave(protocol.num_nets, 0)
            table[:, :, t, k] = (100 * (correct * in_group).sum(1) / in_group.sum(1)).view(len(x), -1).cpu()
    return table


def curve(table, weights):
    """Accuracy on all classes seen so far (..., T), from `accuracies` (..., T, T) and the groups' test images (T,)."""
    weights = weights * torch.ones_like(table).tril()
    return (table.nan_to_num() * weights).sum(-1) / weights.sum(-1)


def forgetting(table):
    """Points (...,) lost since a group's best earlier step, mean over all groups but the last."""
    best = table[..., :-1, :-1].nan_to_num(-torch.inf).amax(-2)
    return (best - table[..., -1, :-1]).mean(-1)
