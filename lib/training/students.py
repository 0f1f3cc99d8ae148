"""Train many networks ("students") on distilled sets at once, and measure them on the test set.

The students of one architecture are stacked and run under `torch.func.vmap`. Each has its own initial weights,
augmentation and, if the order is shuffled, order. Source of the protocols: reference sheets of FRePo (section 9), of
DC, DSA and DM (section 6) and of dataset distillation (section 7).
"""

from math import cos, pi

import torch
from torch.func import functional_call, vmap

from ..augment import augmented
from ..autodiff.captured import Captured
from ..networks import build
from ..progress import progress_bar
from ..rng import class_minibatches, generator
from .compute import (
    at_least_float32,
    autocast,
    forward_flops,
    images_per_pass,
    numbers_per_pass,
    use_threads,
    widest_layer,
)
from .losses import cross_entropy, predicted, squared_error
from .optimizers import adam, forget, load_state, set_rate, sgd, state_of

CPU_BATCHED_FLOPS = 2e8  # of one student's step; beyond it a CPU is bound by arithmetic, and vmap only costs time
SGD_MOMENTUM, SGD_DECAY = 0.9, 5e-4
LARGEST_STATE = 2 * 10**9  # bytes of a training that is saved: while it is, a GPU holds them twice
LOSSES = {"squared_error": squared_error, "cross_entropy": cross_entropy}


def learning_rate(protocol, step, per_epoch=1, lr=None):
    """The rate of update `step` (from 0); lr: the first rate, in place of the protocol's.

    adam: linear warm-up from 0 to `lr`, then cosine down to `lr * lr_final`. sgd: `lr`, then a tenth of it.
    """
    lr = protocol.lr if lr is None else lr
    if protocol.optimizer == "sgd":
        return lr * (1.0 if step < drop_step(protocol, per_epoch) else 0.1)
    if step < protocol.warmup:
        return lr * step / protocol.warmup
    progress = (step - protocol.warmup) / max(protocol.steps - protocol.warmup, 1)
    return lr * (protocol.lr_final + (1 - protocol.lr_final) * 0.5 * (1 + cos(pi * progress)))


def drop_step(protocol, per_epoch):
    """The update before which sgd's rate drops and its momentum is reset: after (epochs - 1) // 2 + 2 epochs."""
    return ((protocol.epochs - 1) // 2 + 2) * per_epoch


def update_flops(net, shape, batch, students):
    """FLOPs of one update of as many students as go through the network together on a CPU."""
    one = 3 * batch * forward_flops(net, shape)
    return one if one > CPU_BATCHED_FLOPS else one * students


def threads_for(nets, shape, batch, students, device):
    """Choose the threads by the work of an update of the largest of the networks `nets`."""
    use_threads(max(update_flops(net, shape, batch, students) for net in nets), device)


class Students:
    """S networks of one architecture. Student s trains on set `set_of[s]` and its weights come from `(seed, s)` alone.

    net: an architecture's name; outputs: how many it has; set_of: a list of S set indices; device, dtype: of weights
    and images; conv_dtype: the name of the dtype that convolutions and matrix products run in.
    """

    def __init__(self, net, shape, outputs, set_of, seed, device, dtype=torch.float32, conv_dtype="float32"):
        self.net, self.shape, self.conv_dtype = net, shape, conv_dtype
        self.device, self.seed = torch.device(device), seed
        self.set_of = torch.tensor(set_of, device=device)
        self.template = build(net, shape, outputs).to(device, dtype)
        stacks = {}
        for s in range(len(set_of)):
            self.template.reset(generator(seed, "student", s, device=device))
            for name, tensor in self.template.state_dict().items():
                stacks.setdefault(name, []).append(tensor.clone())
        names = dict(self.template.named_parameters())
        stacks = {name: torch.stack(tensors) for name, tensors in stacks.items()}
        self.params = {name: t for name, t in stacks.items() if name in names}
        self.buffers = {name: t for name, t in stacks.items() if name not in names}

    def __len__(self):
        return len(self.set_of)

    def chunks(self, batch, of_one_set=False):
        """Slices of students that go through the network together; of_one_set: no slice holds students of two sets."""
        if not of_one_set:
            return self._slices(batch, 0, len(self))
        ends = self.set_of.bincount().cumsum(0).tolist()
        return [chunk for start, end in zip([0, *ends], ends) for chunk in self._slices(batch, start, end)]

    def _slices(self, batch, start, end):
        size = end - start
        if self.device.type != "cpu":
            size = max(numbers_per_pass(self.device) // (batch * widest_layer(self.net, self.shape)), 1)
        elif update_flops(self.net, self.shape, batch, 1) > CPU_BATCHED_FLOPS:
            size = 1
        return [slice(s, min(s + size, end)) for s in range(start, end, size)]

    def call(self, chunk, x, shared=False, features=False, params=None):
        """Outputs (s, B, C), or features (s, B, F), of the students in a slice on x (s, B, ...), or shared x (B, ...).

        params: in place of these students' own parameters, so that a gradient reaches them (`leaves`).
        """
        with autocast(self.device, self.conv_dtype):  # casts the weights anew in each call, for they change in between
            return at_least_float32(self._call(chunk, x, shared, features, params))

    def _call(self, chunk, x, shared, features, params):
        wrapper = _Method(self.template, "features" if features else "forward")
        params = params or {name: p[chunk] for name, p in self.params.items()}
        state = {**params, **{name: buffer[chunk] for name, buffer in self.buffers.items()}}
        state = {f"net.{name}": tensor for name, tensor in state.items()}
        if chunk.stop - chunk.start == 1:  # plain convolutions are quicker than grouped ones of one group
            x = (x if shared else x[0]).contiguous(memory_format=self.template.layout)
            return functional_call(wrapper, {name: tensor[0] for name, tensor in state.items()}, (x,))[None]
        return vmap(
            lambda state, x: functional_call(wrapper, state, (x,)), (0, None if shared else 0), randomness="different"
        )(state, x)

    def leaves(self, chunk):
        """The parameters of the slice `chunk` of students, as leaves that share the stacks' memory.

        Slicing inside the graph would give every chunk a gradient as large as all students'.
        """
        return {name: p[chunk].requires_grad_() for name, p in self.params.items()}

    def train(self, x, y, protocol, after=None, lr=None, saving=None):
        """Train every student on its set x (M, N, K, H, W), y (M, N, C) by `protocol` (config.models.Protocol).

        lr (M,): first rates of each set's students, in place of the protocol's; students must be in the order of the
        sets. after(updates): called after each update. saving: a checkpoint.Saving, from which a training goes on,
        unless it has more than LARGEST_STATE.
        """
        n = x.shape[1]
        training = Training(self, protocol, n, lr)
        gen, host = generator(self.seed, "students", device=self.device), generator(self.seed, "students", "families")
        count, networks = protocol.epochs * training.per_epoch + protocol.steps, f"{len(self)} networks {self.net}"
        if saving and (size := training.nbytes()) > LARGEST_STATE:
            print(f"{networks}: their training is not saved on the way, for it has {size / 1e9:.0f} GB", flush=True)
            saving = None
        if state := saving and saving.checkpoint.load():
            training.load_state_dict(state)
            print(f"{networks}: going on after {training.done} of {count} updates", flush=True)
        done = training.done
        self.template.train()
        updates = self._batches(n, training.batch, y.shape[2], protocol, gen)
        updates = progress_bar(updates, total=count, desc=networks, unit="update", delay=30, leave=False)
        for step, indices in enumerate(updates):
            batch_x, batch_y = x[self.set_of[:, None], indices], y[self.set_of[:, None], indices]
            batch_x = augmented(protocol.augment, batch_x, gen, host)
            if step < done:  # only its draws are made again, so that those after it are the same
                continue
            training.step(batch_x, batch_y)
            if after:
                after(training.done)
                self.template.train()
            if saving:
                saving.after(training.state_dict)
        return self

    @torch.no_grad()
    def start_from(self, weights):
        """Give every student known weights (S, P), in the order of the network's parameters."""
        sizes = [p[0].numel() for p in self.params.values()]
        if weights.shape[1] != sum(sizes):
            raise ValueError(f"the set's starting weights are {weights.shape[1]}, those of {self.net} {sum(sizes)}")
        for p, values in zip(self.params.values(), weights.split(sizes, 1)):
            p.copy_(values.view_as(p))
        return self

    def follow(self, x, y, lr):
        """Train every student by gradient descent on its set's minibatches in turn: x (M, N, ...), y, lr (M, E, S)."""
        batch = x.shape[1] // lr.shape[2]
        chunks, rates = self.chunks(batch), lr.flatten(1)[self.set_of]
        seed = generator(self.seed, "students", "dropout").initial_seed()
        self.template.train()
        for t in range(rates.shape[1]):
            start = t % lr.shape[2] * batch
            batch_x, batch_y = (tensor[:, start : start + batch][self.set_of] for tensor in (x, y))
            torch.manual_seed(seed + t)
            for chunk in chunks:
                leaves = self.leaves(chunk)
                loss = cross_entropy(self.call(chunk, batch_x[chunk], params=leaves), batch_y[chunk]).sum()
                for p, grad in zip(leaves.values(), torch.autograd.grad(loss, list(leaves.values()))):
                    p.detach().sub_(grad * rates[chunk, t].view(-1, *[1] * (p.ndim - 1)))
        return self

    def _batches(self, n, batch, classes, protocol, gen):
        """Yield each update's indices (S, B).

        Batches have `batch_per_class` images of random classes; or they split epochs, the last may be smaller; or, for
        a number of steps, they straddle epochs.
        """
        if protocol.batch_per_class:
            for _ in range(protocol.steps):
                yield class_minibatches(len(self), classes, n // classes, batch, protocol.batch_per_class, gen)
            return
        for _ in range(protocol.epochs):
            yield from self._order(n, protocol.shuffle, gen).split(batch, 1)
        position, order = n, None
        for _ in range(protocol.steps):
            indices, missing = [], batch
            while missing:
                if position == n:
                    order, position = self._order(n, protocol.shuffle, gen), 0
                rows = order[:, position : position + missing]
                indices.append(rows)
                position, missing = position + rows.shape[1], missing - rows.shape[1]
            yield torch.cat(indices, 1)

    def _order(self, n, shuffle, gen):
        """(S, n) indices of one epoch: the set's own order, or a permutation for each student."""
        if shuffle:
            return torch.rand(len(self), n, generator=gen, device=self.device).argsort(1)
        return torch.arange(n, device=self.device).expand(len(self), n)

    @torch.no_grad()
    def outputs(self, x, postprocess=lambda outputs: outputs, features=False):
        """Postprocessed logits (S, n, C), or features (S, n, F), of every student on shared images x (n, K, H, W)."""
        self.template.eval()
        batch, rows = images_per_pass(self.net, self.shape, self.device, self.conv_dtype), []
        for chunk in self.chunks(batch):
            outputs = [postprocess(self.call(chunk, images, True, features)) for images in x.split(batch)]
            rows.append(torch.cat(outputs, 1))
        return torch.cat(rows)

    def predictions(self, x, threshold=0.0):
        """Predicted classes (S, n); threshold: of a single logit."""
        return self.outputs(x, lambda logits: predicted(logits, threshold))

    def accuracy(self, test_x, test_y, threshold=0.0):
        """Test accuracy (S,) in percent, over the exact number of test images."""
        return 100 * (self.predictions(test_x, threshold) == test_y).float().mean(1)


class Training:
    """Students on their way by a protocol: `done` updates, and an optimizer for each slice of them.

    Slices that go through the network together are updated while their gradients are in the cache. n: images of a set.
    """

    def __init__(self, students, protocol, n, lr):
        self.students, self.protocol, self.done = students, protocol, 0
        self.batch = min(n, protocol.batch)
        self.per_epoch = -(-n // self.batch)
        self.chunks = []  # (slice, its leaves, their optimizer, its first rate)
        for chunk in students.chunks(self.batch, lr is not None):
            leaves = students.leaves(chunk)
            rate = protocol.lr if lr is None else lr[students.set_of[chunk.start]].item()
            if protocol.optimizer == "adam":
                optimizer = adam(leaves.values(), rate)
            else:
                optimizer = sgd(leaves.values(), rate, SGD_MOMENTUM, SGD_DECAY)
            self.chunks.append((chunk, leaves, optimizer, rate))
        self.update = Captured(self.update, changes=lambda number, x, y: self.tensors(number))

    def update(self, number, x, y):
        """One update of slice `number` on its batches x (s, B, ...), y (s, B, C)."""
        chunk, leaves, optimizer, _ = self.chunks[number]
        # The students' losses are independent: their sum has each one's own gradient.
        LOSSES[self.protocol.loss](self.students.call(chunk, x, params=leaves), y).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def tensors(self, number):
        """All that an update of a slice changes."""
        _, leaves, optimizer, _ = self.chunks[number]
        return [*leaves.values(), *self.students.buffers.values(), *state_of(optimizer)]

    def step(self, x, y):
        """The next update of all students on their batches x (S, B, ...), y (S, B, C)."""
        for number, (chunk, _, optimizer, rate) in enumerate(self.chunks):
            set_rate(optimizer, learning_rate(self.protocol, self.done, self.per_epoch, rate))
            if self.protocol.optimizer == "sgd" and self.done == drop_step(self.protocol, self.per_epoch):
                forget(optimizer)
            self.update(number, x[chunk], y[chunk])
        self.done += 1

    def nbytes(self):
        """The size of `state_dict`."""
        tensors = [*self.students.params.values(), *self.students.buffers.values()]
        tensors += [tensor for _, _, optimizer, _ in self.chunks for tensor in state_of(optimizer)]
        return sum(tensor.nbytes for tensor in tensors)

    def state_dict(self):
        students, optimizers = self.students, [optimizer.state_dict() for _, _, optimizer, _ in self.chunks]
        return {"params": students.params, "buffers": students.buffers, "optimizers": optimizers, "done": self.done}

    @torch.no_grad()
    def load_state_dict(self, state):
        for name in ("params", "buffers"):
            for key, tensor in getattr(self.students, name).items():
                tensor.copy_(state[name][key])
        for (_, _, optimizer, _), saved in zip(self.chunks, state["optimizers"], strict=True):
            load_state(optimizer, saved)
        self.done = state["done"]


class _Method(torch.nn.Module):
    """Makes a network's method callable with `functional_call`."""

    def __init__(self, net, method):
        super().__init__()
        self.net, self.method = net, method

    def forward(self, x):
        return getattr(self.net, self.method)(x)


def trained(net, x, y, real, protocol, seed, lr=None, start=None, saving=None, conv_dtype="float32"):
    """`protocol.num_nets` students of `net` for each of the M sets x (M, N, K, H, W), y (M, N, C), trained at once.

    lr (M, E, S): the sets' own rates; the protocol `schedule` follows them, sgd takes a single one (M, 1, 1) in place
    of its own. start (M, P) or (M, num_nets, P): weights that the students start from. saving: as in `Students.train`.
    conv_dtype: as in `Students`.
    """
    set_of = [m for m in range(len(x)) for _ in range(protocol.num_nets)]
    students = Students(net, real.shape, y.shape[-1], set_of, seed, x.device, conv_dtype=conv_dtype)
    if start is not None:
        students.start_from(start.flatten(0, 1) if start.ndim == 3 else start[students.set_of])
    if protocol.optimizer == "schedule":
        return students.follow(x, y, lr)
    return students.train(x, y, protocol, lr=None if lr is None else lr[:, 0, 0], saving=saving)


def evaluate(net, x, y, real, protocol, seed, lr=None, start=None, conv_dtype="float32"):
    """Test accuracies (M, num_nets) in percent, on the CPU, of `trained` students."""
    students = trained(net, x, y, real, protocol, seed, lr, start, conv_dtype=conv_dtype)
    return students.accuracy(real.test_x, real.test_y).view(len(x), protocol.num_nets).cpu()
