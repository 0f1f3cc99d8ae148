"""Experts: many networks of one architecture trained on real data at once, and their weights on the way.

Source: reference sheets of trajectory matching, section 2 (plain gradient descent with DSA), of EDF, section 4 (GSAM), and of dataset
distillation, section 8 (Adam, for its pools of trained networks). Each expert has weights, orders and augmentations of its own.
"""

import time

import torch
from tqdm import tqdm

from ..augment import augmented
from ..data.labels import class_labels
from ..files import FileError, load_state, save_state
from ..networks import build
from ..rng import generator, restore
from .compute import forward_flops
from .loop import Stopped
from .losses import cross_entropy, predicted
from .students import Students

BETAS = (0.5, 0.999)  # of Adam, as DD's pools have it
TINY = 1e-12  # in GSAM's denominators


def epochs_kept(cfg):
    """The epochs whose snapshots a row of experts (schema.Experts) keeps: from the start, and the last."""
    return sorted({*range(min(cfg.keep, cfg.epochs) + 1), cfg.epochs})


def expert_flops(cfg, shape, images):
    """Work of training one expert: forward and backward, twice with GSAM."""
    return forward_flops(cfg.net, shape) * 3 * images * cfg.epochs * (2 if cfg.optimizer == "gsam" else 1)


def expert_bytes(cfg, shape, classes):
    """Size of one expert's snapshots."""
    with torch.device("meta"):
        weights = sum(p.numel() for p in build(cfg.net, shape, classes).parameters())
    return 4 * weights * len(epochs_kept(cfg))


class Group:
    """The experts from number `first` on, `size` of them, trained together; `epoch` and `weights` are all that a caller needs.

    cfg: schema.Experts; real: the data, on the device.
    """

    def __init__(self, cfg, first, size, real):
        self.cfg, self.real, self.done = cfg, real, 0
        device, name = real.train_y.device, f"experts {cfg.seed} {first}"
        self.y = class_labels(real.train_y, real.num_classes, "outputs")
        self.students = Students(cfg.net, real.shape, self.y.shape[1], [0] * size, name, device)
        self.rngs = {
            "order": generator(name, "order", device=device),
            "augment": generator(name, "augment", device=device),
        }
        self.rngs["family"] = generator(name, "family")  # on the CPU: it decides which code runs
        self.parts = []
        for part in self.students.chunks(cfg.batch):
            leaves = self.students.leaves(part)
            self.parts.append(
                (
                    part,
                    leaves,
                    torch.optim.Adam(leaves.values(), cfg.lr, BETAS, fused=True) if cfg.optimizer == "adam" else None,
                )
            )

    @torch.no_grad()
    def weights(self):
        """The experts' weights (size, P) in the order of the network's parameters."""
        return torch.cat([p.flatten(1) for p in self.students.params.values()], 1)

    def rate(self):
        return self.cfg.lr * 0.5 ** (self.done // self.cfg.halve_every if self.cfg.halve_every else 0)

    def epoch(self):
        """One pass over the training images -> each expert's accuracy in percent on them, as augmented and while it trains, and on the test set."""
        size, right = len(self.students), 0
        order = torch.rand(size, len(self.y), generator=self.rngs["order"], device=self.y.device).argsort(1)
        self.students.template.train()
        for chosen in order.split(self.cfg.batch, 1):
            found = []
            for part, leaves, adam in self.parts:
                x = augmented(
                    self.cfg.augment, self.real.train_x[chosen[part]], self.rngs["augment"], self.rngs["family"]
                )
                found.append(self.update(part, leaves, adam, x, self.y[chosen[part]]))
            right = right + torch.cat(found)
        self.done += 1
        train = 100 * right / len(self.y)
        return train.tolist(), self.students.accuracy(self.real.test_x, self.real.test_y).tolist()

    def update(self, part, leaves, adam, x, y):
        """One update of the experts in `part` -> how many of each one's images (s, B, ...) they had right."""

        def gradients(at):
            logits = self.students.call(part, x, params=dict(zip(leaves, at)))
            # Their losses are independent: the sum has each one's own gradient.
            return torch.autograd.grad(cross_entropy(logits, y).sum(), at), (
                predicted(logits) == predicted(y - 0.5)
            ).sum(1)

        own = list(leaves.values())
        found, right = gradients(own)
        if adam:
            adam.param_groups[0]["lr"] = self.rate()
            for p, g in zip(own, found):
                p.grad = g.contiguous()  # the fused update goes by memory, not by index
            adam.step()
            return right
        if self.cfg.optimizer == "gsam":
            found = gsam(own, found, lambda at: gradients(at)[0], self.cfg.rho, self.cfg.alpha)
        with torch.no_grad():
            torch._foreach_add_(own, found, alpha=-self.rate())
        return right

    def state_dict(self):
        adams = [adam.state_dict() for *_, adam in self.parts if adam]
        return {
            "params": self.students.params,
            "adams": adams,
            "done": self.done,
            "rng": {k: g.get_state() for k, g in self.rngs.items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, p in self.students.params.items():
            p.copy_(state["params"][name])
        for (*_, adam), saved in zip(self.parts, state["adams"]):
            adam.load_state_dict(saved)
        self.done = state["done"]
        for name, gen in self.rngs.items():
            restore(gen, state["rng"][name])


def gsam(weights, found, gradients, rho, alpha):
    """The direction of a step of adaptive GSAM, each network of the leading axis for itself.

    weights, found: lists of (s, ...) parameters and of their losses' gradients; gradients(weights): the same elsewhere, on the same
    batch. Source: EDF's sheet, section 4: the gradient at the worst nearby weights, less alpha of what the first has across it.
    """

    def flat(tensors):
        return torch.cat([t.flatten(1) for t in tensors], 1)

    with torch.no_grad():
        w, g0 = flat(weights), flat(found)
        push = rho / ((w * g0).norm(dim=1, keepdim=True) + TINY) * w.square() * g0
        moved = [p + e.view_as(p) for p, e in zip(weights, push.split([p[0].numel() for p in weights], 1))]
    g1 = flat(gradients([p.requires_grad_() for p in moved]))
    unit = g1 / (g1.norm(dim=1, keepdim=True) + TINY)
    cosine = (g0 * g1).sum(1, keepdim=True) / (g0.norm(dim=1, keepdim=True) * g1.norm(dim=1, keepdim=True) + TINY)
    across = g0 - cosine * g0.norm(dim=1, keepdim=True) * unit
    direction = g1 - alpha * across
    return [d.view_as(p) for p, d in zip(weights, direction.split([p[0].numel() for p in weights], 1))]


def train(name, group, checkpoint, log, minutes, stop):
    """Train a group to its last epoch, from its checkpoint on where there is one -> (kept snapshots, learning curves).

    Snapshots: a list of (size, P) on the CPU; curves: {"train", "test"}, each the percents of all experts after each epoch. log(epoch,
    metrics) is called after each; the checkpoint is written every `minutes`, and before Stopped where the event `stop` is set.
    """
    cfg, keep, size = group.cfg, epochs_kept(group.cfg), len(group.students)
    snapshots, curves, saved_at = [group.weights().cpu().clone()], {"train": [], "test": []}, time.monotonic()
    if checkpoint.exists():
        state = load_state(checkpoint, group.y.device)
        group.load_state_dict(state["group"])
        snapshots, curves = [s.cpu() for s in state["snapshots"]], state["curves"]
    with tqdm(total=cfg.epochs, initial=group.done, desc=name, unit="epoch") as bar:
        while group.done < cfg.epochs:
            for curve, found in zip(curves.values(), group.epoch()):
                curve.append([round(percent, 2) for percent in found])
            if group.done in keep:
                snapshots.append(group.weights().cpu().clone())
            accuracy = sum(curves["test"][-1]) / size
            log(group.done, {"test_accuracy": accuracy, "train_accuracy": sum(curves["train"][-1]) / size})
            bar.update()
            bar.set_postfix(acc=f"{accuracy:.1f}%")
            if time.monotonic() - saved_at > minutes * 60 or stop.is_set():
                save_state(checkpoint, {"group": group.state_dict(), "snapshots": snapshots, "curves": curves})
                saved_at = time.monotonic()
            if stop.is_set():
                raise Stopped(
                    f"{name}: stopped after epoch {group.done} of {cfg.epochs}; run it again to go on from there"
                )
    return snapshots, curves


@torch.no_grad()
def labelled_images(real, net, experts, ipc, gen, agreed):
    """Training images of each class with experts' logits for labels: x (N, K, H, W), y (N, C), class-major; EDF's sheet, section 5.1.

    experts: data.trajectories.Trajectories. agreed: of each class the first `ipc` images, in random order, that the first expert has
    right, then those that the next has right; labels are the mean logits of all experts that have the image right. Otherwise any
    images, with the first expert's logits.
    """

    def logits(expert, x):
        students = Students(net, real.shape, real.num_classes, [0], 0, x.device)
        return students.start_from(experts.weights(expert, -1)[None].to(x.device)).outputs(x)[0]

    orders = [
        m[torch.randperm(len(m), generator=gen, device=m.device)]
        for m in ((real.train_y == c).nonzero().flatten() for c in real.classes)
    ]
    if not agreed:
        x = real.train_x[torch.cat([order[:ipc] for order in orders])]
        return x, logits(0, x)
    picks = [order[:0] for order in orders]
    for expert in range(len(experts)):
        right = logits(expert, real.train_x).argmax(1) == real.train_y
        for c, order in enumerate(orders):
            more = order[right[order] & ~torch.isin(order, picks[c])]
            picks[c] = torch.cat([picks[c], more])[:ipc]
        if all(len(pick) == ipc for pick in picks):
            break
    for c, pick in zip(real.classes, picks):
        if len(pick) < ipc:
            raise FileError(
                f"{experts.folder}: the experts have only {len(pick)} training images of class {c} right, {ipc} are asked for; train them longer"
            )
    chosen = torch.cat(picks)
    x, labels = real.train_x[chosen], real.train_y[chosen]
    total, count = torch.zeros(len(x), real.num_classes, device=x.device), torch.zeros(len(x), 1, device=x.device)
    for expert in range(len(experts)):
        found = logits(expert, x)
        agrees = (found.argmax(1) == labels)[:, None]
        total, count = total + found * agrees, count + agrees
    return x, total / count
