"""Train many networks ("students") on distilled sets at once, and measure them on the test set.

The students of one architecture are stacked and run under `torch.func.vmap`; each has its own initial weights,
augmentation and (where shuffled) order. Evaluation, baselines and the evaluations during distillation all use this.
Source of the protocol: reference sheet of FRePo, section 9.
"""

from math import cos, pi

import torch
from torch.func import functional_call, vmap

from . import augment
from .cost import forward_flops
from .krr import krr_predict, squared_error
from .networks import build
from .rng import generator

CPU_BATCHED_FLOPS = 2e8  # of one student's step: beyond it a CPU's arithmetic binds, and grouped convolutions only cost
EVAL_BATCH = {"cpu": 250, "cuda": 2000}


def learning_rate(protocol, step):
    """Linear warm-up from 0, then cosine from `lr` down to `lr * lr_final`."""
    if step < protocol.warmup:
        return protocol.lr * step / protocol.warmup
    progress = (step - protocol.warmup) / max(protocol.steps - protocol.warmup, 1)
    return protocol.lr * (protocol.lr_final + (1 - protocol.lr_final) * 0.5 * (1 + cos(pi * progress)))


class Students:
    """S networks of one architecture. Student s trains on set `set_of[s]` and its weights come from `(seed, s)` alone.

    net: a network's name; set_of: a list of S set indices; seed: an integer; device, dtype: of weights and images.
    """

    def __init__(self, net, shape, num_classes, set_of, seed, device, dtype=torch.float32):
        self.net, self.shape, self.num_classes = net, shape, num_classes
        self.device, self.seed = torch.device(device), seed
        self.set_of = torch.tensor(set_of, device=device)
        self.template = build(net, shape, num_classes).to(device, dtype)
        stacks = {}
        for s in range(len(set_of)):
            self.template.reset(generator(seed, "student", s, device=device))
            for name, tensor in self.template.state_dict().items():
                stacks.setdefault(name, []).append(tensor.clone())
        names = dict(self.template.named_parameters())
        stacks = {name: torch.stack(tensors) for name, tensors in stacks.items()}
        self.params = {name: t.requires_grad_() for name, t in stacks.items() if name in names}
        self.buffers = {name: t for name, t in stacks.items() if name not in names}

    def __len__(self):
        return len(self.set_of)

    def chunks(self, batch):
        """Slices of students that go through the network together."""
        size = len(self)
        if self.device.type == "cpu" and 3 * batch * forward_flops(self.net, self.shape) > CPU_BATCHED_FLOPS:
            size = 1
        return [slice(s, s + size) for s in range(0, len(self), size)]

    def call(self, part, x, shared=False, features=False):
        """Outputs (s, B, C), or features (s, B, F), of the students in slice `part` on x (s, B, ...), or on shared x (B, ...)."""
        method = "features" if features else "forward"
        params = {f"net.{k}": v[part] for k, v in self.params.items()}
        buffers = {f"net.{k}": v[part] for k, v in self.buffers.items()}
        wrapper = _Method(self.template, method)
        if part.stop - part.start == 1:  # one student: plain convolutions are quicker than grouped ones of one group
            state = {k: v[0] for k, v in {**params, **buffers}.items()}
            return functional_call(wrapper, state, (x if shared else x[0],))[None]
        run = vmap(lambda p, b, x: functional_call(wrapper, {**p, **b}, (x,)), (0, 0, None if shared else 0))
        return run(params, buffers, x)

    def train(self, x, y, protocol):
        """Train every student on its set by `protocol` (params.Protocol). x (M, N, K, H, W), y (M, N, C): the M sets."""
        n = x.shape[1]
        batch = min(n, protocol.batch)
        gen = generator(self.seed, "students", device=self.device)
        optimizer = torch.optim.Adam(self.params.values(), protocol.lr, fused=True)
        position, order = n, None
        chunks = self.chunks(batch)
        self.template.train()
        for step in range(protocol.steps):
            indices = []
            while (have := sum(i.shape[1] for i in indices)) < batch:
                if position == n:
                    order, position = self._order(n, protocol.shuffle, gen), 0
                take = min(batch - have, n - position)
                indices.append(order[:, position : position + take])
                position += take
            chosen = torch.cat(indices, 1)
            batch_x, batch_y = x[self.set_of[:, None], chosen], y[self.set_of[:, None], chosen]
            batch_x = augment.apply(batch_x, augment.draw(protocol.augment, (len(self), batch, self.shape[1]), gen))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(protocol, step)
            optimizer.zero_grad()
            for part in chunks:  # the students' losses are independent: their sum has each one's own gradient
                squared_error(self.call(part, batch_x[part]), batch_y[part]).sum().backward()
            optimizer.step()
        return self

    def _order(self, n, shuffle, gen):
        """(S, n) indices of one epoch: the set's own order, or a permutation for each student."""
        if shuffle:
            return torch.rand(len(self), n, generator=gen, device=self.device).argsort(1)
        return torch.arange(n, device=self.device).expand(len(self), n)

    @torch.no_grad()
    def accuracy(self, test_x, test_y):
        """Test accuracy (S,) in percent, over the exact number of test images."""
        self.template.eval()
        return self._score(test_x, test_y, lambda part, x: self.call(part, x, shared=True))

    @torch.no_grad()
    def krr_accuracy(self, x, y, test_x, test_y):
        """Test accuracy (S,) in percent of kernel ridge regression on each student's features from its set."""
        self.template.eval()
        support = {}
        for part in self.chunks(x.shape[1]):
            for s in range(part.start, part.stop):
                one = slice(s, s + 1)
                m = self.set_of[s]
                support[s] = self.call(one, x[m], shared=True, features=True)[0], y[m]

        def predict(part, images):
            phi = self.call(part, images, shared=True, features=True)
            return torch.stack([krr_predict(*support[s], f) for s, f in zip(range(part.start, part.stop), phi)])

        return self._score(test_x, test_y, predict)

    def _score(self, test_x, test_y, predict):
        batch = EVAL_BATCH[self.device.type]
        right = torch.zeros(len(self), device=self.device)
        for part in self.chunks(batch):
            for x, y in zip(test_x.split(batch), test_y.split(batch)):
                right[part] += (predict(part, x).argmax(-1) == y).sum(1)
        return 100 * right / len(test_y)


class _Method(torch.nn.Module):
    """Makes a network's method callable with `functional_call`."""

    def __init__(self, net, method):
        super().__init__()
        self.net, self.method = net, method

    def forward(self, x):
        return getattr(self.net, self.method)(x)


def evaluate(net, x, y, real, protocol, seed):
    """Train `protocol.num_nets` students of `net` on each of the M sets x (M, N, K, H, W), y (M, N, C), all at once.

    Returns test accuracies (M, num_nets) in percent, on the CPU.
    """
    set_of = [m for m in range(len(x)) for _ in range(protocol.num_nets)]
    students = Students(net, real.shape, real.num_classes, set_of, seed, x.device)
    accuracy = students.train(x, y, protocol).accuracy(real.test_x, real.test_y)
    return accuracy.view(len(x), protocol.num_nets).cpu()
