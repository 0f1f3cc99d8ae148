"""Trajectory matching: time and memory of an outer step, and ten experts at once against one by one.

    python -m tests.benchmarks.trajectories [--device cuda]

An outer step of MTT on CIFAR-10's shape (ConvNet of depth 3 and width 128, 10 images): the exact adjoint in constant
memory, TESLA's approximation, and the whole graph of all inner steps as the original keeps it, each in a process of its
own. The floor is the forward and backward passes over the machine's matrix-product rate. Experts: milliseconds of an
update of ten of them. Images are random.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

import torch

CELL, SHAPE, CLASSES = "mtt-mtt-cifar10-ipc1", (3, 32, 32), 10


def whole_graph(method, start, target):
    """The original's way: every inner step's graph is kept until the end."""
    from lib.augment import dsa
    from lib.training.losses import cross_entropy

    chosen, theta = method.minibatches(), start.clone().requires_grad_()
    method.optimizer.zero_grad()
    for own in chosen:
        draw = dsa.draw(method.cfg.augment, 1, len(own), method.rngs["augment"], method.rngs["family"])
        loss = cross_entropy(method.net.one(theta, dsa.apply(method.syn.x[own][None], draw)[0]), method.syn.y[own])
        theta = theta - method.syn.rates[0, 0] * torch.autograd.grad(loss, theta, create_graph=True)[0]
    method.update(method.distance(theta, start, target))


def work(kind, steps, device, net, repeats):
    """A process that times outer steps and writes their median seconds and the most memory that they took, in MiB."""
    from lib.config.load import load_params
    from lib.methods import METHODS
    from lib.rng import generator
    from lib.synthetic.set import SyntheticSet
    from lib.training.compute import keep_freed_memory

    keep_freed_memory()
    cfg = load_params().cells[CELL].distill.changed(net=net, inner_steps=steps)
    cfg = cfg.changed(gradient="tesla" if kind == "tesla" else "exact")
    torch.manual_seed(0)
    syn = SyntheticSet(torch.randn(CLASSES, *SHAPE, device=device), torch.eye(CLASSES, device=device), False)
    method = METHODS["mtt"](cfg, syn, 0)
    start = method.net.weights(generator(0, "w", device=device)).clone()
    target = start + 0.01 * torch.randn_like(start)
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        whole_graph(method, start, target) if kind == "whole graph" else method.step(0, start, target)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    peak = (
        torch.cuda.max_memory_allocated() / 2**20
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    )
    print(
        json.dumps(
            {
                "seconds": median(times[1:] if repeats > 1 else times),
                "mebi": peak,
                "weights_mebi": steps * start.numel() * 4 / 2**20,
            }
        )
    )


def experts(device, net, count, batch, repeats):
    """Milliseconds of an update of each of `count` experts: (together, one by one)."""
    from lib.config.models import Experts
    from lib.data.real import RealSet
    from lib.training.cost import seconds_in_turns
    from lib.training.experts import Group

    x, y = torch.randn(4 * batch, *SHAPE, device=device), torch.arange(4 * batch, device=device) % CLASSES
    real = RealSet(x, y, x[:batch], y[:batch], None, {"num_classes": CLASSES})
    how = {"optimizer": "sgd", "lr": 0.01, "batch": batch, "augment": "dsa"}
    cfg = Experts(dataset="-", preprocessing="-", net=net, count=count, epochs=1, keep=0, **how)
    together, alone = [Group(cfg, 0, count, real)], [Group(cfg, i, 1, real) for i in range(count)]
    found = seconds_in_turns(
        [lambda i, groups=groups: [group.epoch() for group in groups] for groups in (together, alone)], device, repeats
    )
    return [1000 * each / 4 for each in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--net", default="convnet3-instance")
    parser.add_argument("--inner", type=int, nargs="+", default=[20, 50, 80])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.worker:
        return work(args.worker, args.inner[0], device, args.net, args.repeats)
    from lib.training.compute import forward_flops
    from lib.training.cost import matmul_rate

    speed, rows = matmul_rate("float32", device), []
    print(f"{speed / 1e9:.0f} GFLOP/s")

    def write():
        if args.json:
            with open(args.json, "w") as file:
                json.dump({"device": args.device, "net": args.net, "flops": speed, "rows": rows}, file, indent=1)

    for steps in args.inner:
        floor = 9 * steps * CLASSES * forward_flops(args.net, SHAPE) / speed
        for kind in ("adjoint", "tesla", "whole graph"):
            asked = f"--device {args.device} --net {args.net} --repeats {args.repeats} --inner {steps} --worker".split()
            command = [sys.executable, "-m", "tests.benchmarks.trajectories", *asked, kind]
            done = subprocess.run(command, capture_output=True, text=True)
            found = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip().splitlines()[-1]}
            rows.append({"inner_steps": steps, "kind": kind, "floor_seconds": floor, **found})
            text = (
                "{seconds:.2f} s, {mebi:.0f} MiB (weights {weights_mebi:.0f})".format(**found)
                if "mebi" in found
                else found["error"]
            )
            print(f"N = {steps} {kind:12} {text}; floor {floor:.2f} s", flush=True)
            write()
    for net, batch in ((args.net, 256), ("convnet2-w32-instance", 128), ("lenet_dd", 256)):
        together, alone = experts(device, net, 10, batch, args.repeats)
        rows.append({"experts": 10, "net": net, "batch": batch, "together_ms": together, "one_by_one_ms": alone})
        times = f"{together:.0f} ms together, {alone:.0f} ms one by one: {together / alone:.2f}"
        print(f"10 experts {net} batch {batch}: {times}", flush=True)
        write()


if __name__ == "__main__":
    main()
