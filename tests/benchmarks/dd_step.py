"""Seconds and memory of an outer step of DD on MNIST (LeNet, real batch 1024), against the reference's structure.

    python -m tests.benchmarks.dd_step

The reference, written here as the original code is structured: each inner step's graph is kept, each is differentiated
once more on the way back by hand (sheet of dataset distillation, section 2.1), the real batch goes through in one
piece, with the library's own layers and allocator. Both run in
turns, each in a process of its own, so that the memory is its own. T = 3 is the row of 10 images with one start, T = 30
that of 100. The floor is the step's floating-point work over the machine's matrix-product rate, measured in the same
run. Images are random numbers: the time does not depend on their values.
"""

import argparse
import json
import resource
import signal
import subprocess
import sys
import time
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

CELL, SHAPE, BATCH = "dd-dd-mnist-ipc1-fixed", (1, 28, 28), 1024


class Reference:
    """The original's outer step."""

    def __init__(self, minibatches, steps):
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip
        self.shapes = {name: p.shape for name, p in self.net.named_parameters()}
        self.start = torch.cat([p.detach().flatten() for p in self.net.parameters()])
        self.x = [torch.randn(10, *SHAPE).requires_grad_() for _ in range(minibatches)]
        self.rates = torch.full((steps,), -3.9).requires_grad_()
        self.optimizer = torch.optim.Adam([*self.x, self.rates], 0.01, (0.5, 0.999))
        self.labels = torch.arange(10)

    def call(self, theta, x):
        pieces = theta.split([shape.numel() for shape in self.shapes.values()])
        return torch.func.functional_call(
            self.net, {name: p.view(shape) for p, (name, shape) in zip(pieces, self.shapes.items())}, (x,)
        )

    def step(self, real_x, real_y):
        """-> seconds of its parts."""
        times = [time.perf_counter()]
        self.optimizer.zero_grad()
        rates = F.softplus(self.rates)
        theta, kept = self.start.clone().requires_grad_(), []
        for t in range(len(rates)):
            x, rate = self.x[t % len(self.x)], rates[t].detach().requires_grad_()
            loss = F.cross_entropy(self.call(theta, x), self.labels) * rate
            (update,) = torch.autograd.grad(loss, theta, create_graph=True)
            kept.append((theta, update, x, rate))
            theta = (theta.detach() - update.detach()).requires_grad_()
        times.append(time.perf_counter())
        loss = F.cross_entropy(self.call(theta, real_x), real_y.argmax(1))
        (adjoint,) = torch.autograd.grad(loss, theta)
        times.append(time.perf_counter())
        by_rate = []
        while kept:
            theta, update, x, rate = kept.pop()
            by_image, along, by = torch.autograd.grad(update, (x, theta, rate), -adjoint)
            x.grad = by_image if x.grad is None else x.grad + by_image
            adjoint = adjoint + along
            by_rate.append(by)
        rates.backward(torch.stack(by_rate[::-1]))
        self.optimizer.step()
        times.append(time.perf_counter())
        return [b - a for a, b in zip(times, times[1:])]


class Ours:
    """The method's outer step, its parts taken apart."""

    def __init__(self, minibatches, steps):
        from lib.config.load import load_params
        from lib.methods import METHODS
        from lib.synthetic.set import SyntheticSet
        from lib.training.compute import keep_freed_memory

        keep_freed_memory()
        cfg = load_params().cells[CELL].distill
        cfg = cfg.changed(ipc=minibatches, minibatches=minibatches, epochs=steps // minibatches)
        images, labels = torch.randn(10 * minibatches, *SHAPE), torch.eye(10).repeat(minibatches, 1)
        self.dd = METHODS["dd"](cfg, SyntheticSet(images, labels, False), 0)

    def step(self, real_x, real_y):
        dd, times = self.dd, [time.perf_counter()]
        dd.optimizer.zero_grad()
        theta = dd.train(dd.starts())
        times.append(time.perf_counter())
        leaf = theta.detach().requires_grad_()
        dd.outer_loss(leaf.clone(), real_x, real_y)
        times.append(time.perf_counter())
        theta.backward(leaf.grad)
        dd.optimizer.step()
        times.append(time.perf_counter())
        return [b - a for a, b in zip(times, times[1:])]


KINDS = {"ours": Ours, "reference": Reference}


def work(kind, minibatches, steps):
    """A process that does a step for each line that it reads, and writes the parts' seconds and its peak memory."""
    torch.manual_seed(0)
    subject = KINDS[kind](minibatches, steps)
    x, y = torch.randn(BATCH, *SHAPE), torch.eye(10)[torch.arange(BATCH) % 10]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in sys.stdin:
        parts = subject.step(x, y)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps({"parts": parts, "mebi": grown / 1024}), flush=True)


def measure(minibatches, steps, repeats):
    """Steps of both in turns -> {kind: (median seconds, median seconds of each part, peak MiB)}."""
    asked = f"--minibatches {minibatches} --steps {steps} --worker".split()
    command = [sys.executable, "-m", "tests.benchmarks.dd_step", *asked]
    workers = {
        kind: subprocess.Popen([*command, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for kind in KINDS
    }
    found = {kind: [] for kind in workers}
    for _ in range(repeats + 2):
        for kind, process in workers.items():
            process.send_signal(signal.SIGCONT)
            process.stdin.write("\n")
            process.stdin.flush()
            found[kind].append(json.loads(process.stdout.readline()))
            process.send_signal(signal.SIGSTOP)  # its threads would go on waiting for work, busily
    for process in workers.values():
        process.send_signal(signal.SIGCONT)
        process.communicate()
    return {kind: summary(each[2:]) for kind, each in found.items()}


def summary(steps):
    parts = [median(each) for each in zip(*(step["parts"] for step in steps))]
    return {"seconds": median(sum(step["parts"]) for step in steps), "parts": parts, "mebi": steps[-1]["mebi"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--minibatches", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.minibatches, args.steps)
    from lib.config.load import load_params
    from lib.methods import METHODS
    from lib.training.cost import matmul_rate
    from stages.common import provenance

    device, rows = torch.device("cpu"), []
    rate, cfg = matmul_rate("float32", device), load_params().cells[CELL].distill
    print(f"{rate / 1e9:.0f} GFLOP/s", flush=True)
    for minibatches, steps in ((1, 3), (10, 30)):
        found = measure(minibatches, steps, args.repeats)
        floor = METHODS["dd"].step_flops(cfg.changed(ipc=minibatches, epochs=steps // minibatches), SHAPE, 10) / rate
        row = {
            "T": steps,
            "floor_s": floor,
            "ratio": found["ours"]["seconds"] / found["reference"]["seconds"],
            **found,
        }
        rows.append(row)
        for kind, each in found.items():
            parts = zip(("inner steps", "real batch", "back through the steps"), each["parts"])
            shown = ", ".join(f"{name} {1e3 * part_s:.1f}" for name, part_s in parts)
            memory = f"peak memory {each['mebi']:.0f} MiB more"
            print(f"T = {steps:2} {kind:9} {1e3 * each['seconds']:6.1f} ms: {shown}; {memory}", flush=True)
        over = found["ours"]["seconds"] / floor
        print(f"T = {steps:2} ratio {row['ratio']:.2f}; {over:.1f} of the floor", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"rate": rate, "rows": rows, **provenance(device)}, file, indent=1)


if __name__ == "__main__":
    main()
