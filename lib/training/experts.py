"""Experts: many networks of one architecture trained on real data at once, with snapshots of their weights.

Source: reference sheets of trajectory matching, section 2 (plain gradient descent with DSA), of EDF, section 4 (GSAM),
and of dataset distillation, section 8 (Adam, for DD's pools of trained networks). Each expert has its own initial
weights, orders and augmentations.
"""

import time

import torch

from ..augment import augmented
from ..autodiff.captured import Captured
from ..data.labels import class_labels
from ..files import FileError
from ..networks import build
from ..progress import progress_bar
from ..rng import generator, restore
from .compute import forward_flops
from .ends import Stopped
from .losses import cross_entropy, predicted
from .optimizers import adam, load_state, set_rate, state_of
from .students import Students

BETAS = (0.5, 0.999)  # of Adam, as DD's pools have it
TINY = 1e-12  # in GSAM's denominators


def epochs_kept(cfg):
    """The epochs whose snapshots are kept (cfg: config.models.Experts): the first ones from the start, and the last."""
    return sorted({*range(min(cfg.keep, cfg.epochs) + 1), cfg.epochs})


def expert_flops(cfg, shape, images):
    """FLOPs of training one expert: forward and backward, twice with GSAM."""
    return forward_flops(cfg.net, shape) * 3 * images * cfg.epochs * (2 if cfg.optimizer == "gsam" else 1)


def expert_bytes(cfg, shape, classes):
    """Bytes of one expert's snapshots."""
    with torch.device("meta"):
        num_params = sum(p.numel() for p in build(cfg.net, shape, classes).parameters())
    return 4 * num_params * len(epochs_kept(cfg))


class Group:
    """The experts from number `first` on, `size` of them, trained together; use `epoch` and `weights`.

    cfg: config.models.Experts; real: the data, on the device.
    """

    def __init__(self, cfg, first, size, real):
        self.cfg, self.real, self.epochs_done = cfg, real, 0
        device, name = real.train_y.device, f"experts {cfg.seed} {first}"
        self.y = class_labels(real.train_y, real.num_classes, "outputs")
        self.students = Students(cfg.net, real.shape, self.y.shape[1], [0] * size, name, device)
        self.rngs = {purpose: generator(name, purpose, device=device) for purpose in ("order", "augment")}
        self.rngs["family"] = generator(name, "family")  # on the CPU: it decides which code runs
        self.chunks = []  # slices of experts, their leaves, their Adam or None
        for chunk in self.students.chunks(cfg.batch):
            leaves = self.students.leaves(chunk)
            self.chunks.append(
                (chunk, leaves, adam(leaves.values(), cfg.lr, BETAS) if cfg.optimizer == "adam" else None)
            )
        self.update = Captured(self.update, changes=self.tensors)

    @torch.no_grad()
    def weights(self):
        """The experts' weights (size, P) in the order of the network's parameters."""
        return torch.cat([p.flatten(1) for p in self.students.params.values()], 1)

    def rate(self):
        return self.cfg.lr * 0.5 ** (self.epochs_done // self.cfg.halve_every if self.cfg.halve_every else 0)

    def epoch(self):
        """Train for one epoch -> each expert's accuracies in percent: on the way, as augmented, and on the test set."""
        size, num_right = len(self.students), 0
        order = torch.rand(size, len(self.y), generator=self.rngs["order"], device=self.y.device).argsort(1)
        self.students.template.train()
        for indices in order.split(self.cfg.batch, 1):
            batch_right, rate = [], self.rate()
            for number, (chunk, _, optimizer) in enumerate(self.chunks):
                x, y = self.real.train_x[indices[chunk]], self.y[indices[chunk]]
                x = augmented(self.cfg.augment, x, self.rngs["augment"], self.rngs["family"])
                if optimizer:
                    set_rate(optimizer, rate)
                batch_right.append(self.update(number, rate, x, y))
            num_right = num_right + torch.cat(batch_right)
        self.epochs_done += 1
        train = 100 * num_right / len(self.y)
        return train.tolist(), self.students.accuracy(self.real.test_x, self.real.test_y).tolist()

    def tensors(self, number, *update):
        """All that an update of a chunk changes."""
        _, leaves, optimizer = self.chunks[number]
        state = state_of(optimizer) if optimizer else []
        return [*leaves.values(), *self.students.buffers.values(), *state]

    def update(self, number, rate, x, y):
        """One update of a chunk's experts on batches x (s, B, ...) -> how many images each had right (s,)."""
        chunk, leaves, optimizer = self.chunks[number]

        def gradients(params):
            logits = self.students.call(chunk, x, params=dict(zip(leaves, params)))
            # The experts' losses are independent: their sum has each one's own gradient.
            grads = torch.autograd.grad(cross_entropy(logits, y).sum(), params)
            return grads, (predicted(logits) == predicted(y - 0.5)).sum(1)

        params = list(leaves.values())
        grads, num_right = gradients(params)
        if optimizer:
            for p, grad in zip(params, grads):
                p.grad = grad.contiguous()  # the fused update goes by memory, not by index
            optimizer.step()
            return num_right
        if self.cfg.optimizer == "gsam":
            grads = gsam(params, grads, lambda params: gradients(params)[0], self.cfg.rho, self.cfg.alpha)
        with torch.no_grad():
            torch._foreach_add_(params, grads, alpha=-rate)
        return num_right

    def state_dict(self):
        adams = [optimizer.state_dict() for *_, optimizer in self.chunks if optimizer]
        rng = {name: gen.get_state() for name, gen in self.rngs.items()}
        return {"params": self.students.params, "adams": adams, "done": self.epochs_done, "rng": rng}

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, p in self.students.params.items():
            p.copy_(state["params"][name])
        for (*_, optimizer), saved in zip(self.chunks, state["adams"]):
            load_state(optimizer, saved)
        self.epochs_done = state["done"]
        for name, gen in self.rngs.items():
            restore(gen, state["rng"][name])


def gsam(params, grads, gradients, rho, alpha):
    """The direction of a step of adaptive GSAM, for each network of the leading axis on its own.

    params, grads: lists of (s, ...) parameters and the gradients of their losses; gradients(params): the same for
    others, on the same batch. Source: EDF's sheet, section 4: the gradient at the worst nearby parameters, minus alpha
    times the component of the first gradient that is orthogonal to it.
    """

    def flat(tensors):
        return torch.cat([t.flatten(1) for t in tensors], 1)

    def unflat(vectors):
        return [v.view_as(p) for p, v in zip(params, vectors.split([p[0].numel() for p in params], 1))]

    with torch.no_grad():
        w, g0 = flat(params), flat(grads)
        ascent = rho / ((w * g0).norm(dim=1, keepdim=True) + TINY) * w.square() * g0
        perturbed = [p + e for p, e in zip(params, unflat(ascent))]
    g1 = flat(gradients([p.requires_grad_() for p in perturbed]))
    norm0, norm1 = g0.norm(dim=1, keepdim=True), g1.norm(dim=1, keepdim=True)
    unit = g1 / (norm1 + TINY)
    cosine = (g0 * g1).sum(1, keepdim=True) / (norm0 * norm1 + TINY)
    orthogonal = g0 - cosine * norm0 * unit
    return unflat(g1 - alpha * orthogonal)


def train(name, group, checkpoint, log, minutes, stop):
    """Train a group to its last epoch, from its checkpoint if there is one -> (kept snapshots, learning curves).

    Snapshots: a list of (size, P) on the CPU; curves: {"train", "test"}, the accuracies of all experts after each
    epoch, when log(epoch, metrics) is called too. The Checkpoint is saved every `minutes`, and before Stopped if the
    event `stop` is set.
    """
    cfg, keep, size = group.cfg, epochs_kept(group.cfg), len(group.students)
    snapshots, curves, saved_at = [group.weights().cpu().clone()], {"train": [], "test": []}, time.monotonic()
    if state := checkpoint.load():
        group.load_state_dict(state["group"])
        snapshots, curves = state["snapshots"], state["curves"]
    with progress_bar(total=cfg.epochs, initial=group.epochs_done, desc=name, unit="epoch") as bar:
        while group.epochs_done < cfg.epochs:
            for curve, accuracies in zip(curves.values(), group.epoch()):
                curve.append([round(percent, 2) for percent in accuracies])
            done = group.epochs_done
            if done in keep:
                snapshots.append(group.weights().cpu().clone())
            accuracy = sum(curves["test"][-1]) / size
            log(done, {"test_accuracy": accuracy, "train_accuracy": sum(curves["train"][-1]) / size})
            bar.update()
            bar.set_postfix(acc=f"{accuracy:.1f}%", refresh=False)
            if time.monotonic() - saved_at > minutes * 60 or stop.is_set():
                checkpoint.save({"group": group.state_dict(), "snapshots": snapshots, "curves": curves})
                saved_at = time.monotonic()
            if stop.is_set():
                raise Stopped(f"{name}: stopped after epoch {done} of {cfg.epochs}; run it again to go on from there")
    return snapshots, curves


@torch.no_grad()
def labelled_images(real, net, experts, ipc, gen, agreed):
    """Training images x (N, K, H, W) with experts' logits as labels y (N, C), class-major; EDF's sheet, section 5.1.

    experts: trajectories.Trajectories. agreed: of each class the first `ipc` images, in random order, that the first
    expert classifies correctly, then those that the next one does; labels are the mean logits of all experts that are
    right on the image. Otherwise random images, with the first expert's logits.
    """

    def expert_logits(expert, x):
        students = Students(net, real.shape, real.num_classes, [0], 0, x.device)
        return students.start_from(experts.weights(expert, -1)[None].to(x.device)).outputs(x)[0]

    members = [(real.train_y == c).nonzero().flatten() for c in real.classes]
    orders = [m[torch.randperm(len(m), generator=gen, device=m.device)] for m in members]
    if not agreed:
        x = real.train_x[torch.cat([order[:ipc] for order in orders])]
        return x, expert_logits(0, x)
    picked = [order[:0] for order in orders]
    for expert in range(len(experts)):
        right = expert_logits(expert, real.train_x).argmax(1) == real.train_y
        for i, order in enumerate(orders):
            more = order[right[order] & ~torch.isin(order, picked[i])]
            picked[i] = torch.cat([picked[i], more])[:ipc]
        if all(len(indices) == ipc for indices in picked):
            break
    for c, indices in zip(real.classes, picked):
        if len(indices) < ipc:
            raise FileError(
                f"{experts.folder}: the experts have only {len(indices)} training images of class {c} right, {ipc} are "
                "asked for; train them longer"
            )
    indices = torch.cat(picked)
    x, classes = real.train_x[indices], real.train_y[indices]
    total, count = torch.zeros(len(x), real.num_classes, device=x.device), torch.zeros(len(x), 1, device=x.device)
    for expert in range(len(experts)):
        logits = expert_logits(expert, x)
        right = (logits.argmax(1) == classes)[:, None]
        total, count = total + logits * right, count + right
    return x, total / count
