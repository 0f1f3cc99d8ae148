"""Seconds per update of the images of DC, DSA and DM, CIFAR-10, width 128, 256 real images a class; the plain loop's.

    python -m tests.benchmarks.matching_step                 # CPU: float32 and bfloat16
    python -m tests.benchmarks.matching_step --device cuda

The plain loop, written here as the original scripts are structured, goes class by class: a permutation of the class's
indices on the host, one pass of all 256 images, one of the synthetic images, the loss fetched from the device; memory
is the library's. Both run in turns in one process. The floor is the update's floating-point work over the machine's own
matrix-product rate, measured in the same run. An update is the first of its network: no epochs of the network in
between. Images are random numbers: the time does not depend on their values.
"""

import argparse
import ctypes
import json

import numpy as np
import torch
import torch.nn.functional as F

from lib.augment import dsa
from lib.config.load import load_params
from lib.data.labels import initial_labels
from lib.methods import METHODS
from lib.rng import generator
from lib.synthetic.set import SyntheticSet
from lib.training.compute import keep_freed_memory
from lib.training.cost import matmul_rate, seconds_in_turns
from stages.common import provenance

SHAPE, CLASSES, REAL = (3, 32, 32), 10, 5000
CASES = [("dc", 1), ("dc", 10), ("dsa", 1), ("dsa", 10), ("dm", 1), ("dm", 10)]


class PlainConvNet(torch.nn.Module):
    """ConvNet of three blocks from the library's layers, as the original code stacks them."""

    def __init__(self, width=128):
        super().__init__()
        blocks = []
        for channels in (SHAPE[0], width, width):
            blocks += [
                torch.nn.Conv2d(channels, width, 3, padding=1),
                torch.nn.GroupNorm(width, width),
                torch.nn.ReLU(inplace=True),
                torch.nn.AvgPool2d(2),
            ]
        self.features = torch.nn.Sequential(*blocks, torch.nn.Flatten())
        self.classifier = torch.nn.Linear(width * 16, CLASSES)

    def forward(self, x):
        return self.classifier(self.features(x))


def library_memory():
    """Have glibc give freed memory back above its own highest threshold, as it does where nobody asked for anything."""
    ctypes.CDLL("libc.so.6").mallopt(-1, 64 * 2**20)


def plain(method, cfg, x, real):
    """One update as the originals form it, on the leaf x (C * ipc, K, H, W); real (C * REAL, K, H, W)."""
    device = real.device
    indices = [np.arange(c * REAL, (c + 1) * REAL) for c in range(CLASSES)]
    optimizer = torch.optim.SGD([x], cfg.lr_img, momentum=0.5)
    gen, host = generator(0, "plain", device=device), generator(0, "plain")

    def step(i):
        library_memory()
        net = PlainConvNet().to(device).train()
        net.requires_grad_(method != "dm")
        loss = torch.zeros((), device=device)
        for c in range(CLASSES):
            images = real[np.random.permutation(indices[c])[: cfg.real_batch]]
            syn = x[c * cfg.ipc : (c + 1) * cfg.ipc]
            if method != "dc":
                drawn = dsa.draw("dsa", 1, 1, gen, host)
                images, syn = dsa.apply(images[None], drawn)[0], dsa.apply(syn[None], drawn)[0]
            if method == "dm":
                loss = loss + (net.features(images).detach().mean(0) - net.features(syn).mean(0)).square().sum()
                continue
            labels = [torch.full((len(batch),), c, device=device) for batch in (images, syn)]
            ours = torch.autograd.grad(F.cross_entropy(net(images), labels[0]), list(net.parameters()))
            theirs = torch.autograd.grad(
                F.cross_entropy(net(syn), labels[1]), list(net.parameters()), create_graph=True
            )
            for g_r, g_s in zip(ours, theirs):
                if g_r.ndim > 1:
                    a, b = g_r.flatten(1), g_s.flatten(1)
                    loss = loss + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure(name, ipc, dtypes, device, repeats, rates):
    cfg = load_params().cells[f"matching-{name}-cifar10-ipc{ipc}"].distill
    cfg = cfg.changed(**({} if name == "dm" else {"outer": 1}))
    gen = generator(0, "benchmark", device=device)
    real = torch.randn(CLASSES * REAL, *SHAPE, generator=gen, device=device)
    start = torch.randn(CLASSES * ipc, *SHAPE, generator=gen, device=device)
    labels = initial_labels(torch.arange(CLASSES).repeat_interleave(ipc), CLASSES, "one_hot").to(device)
    members = torch.arange(CLASSES * REAL, device=device).view(CLASSES, REAL)

    def ours(dtype):
        method = METHODS[name](cfg.changed(conv_dtype=dtype), SyntheticSet(start, labels), 0)

        def step(i):
            keep_freed_memory()
            chosen = members.gather(
                1, torch.rand(members.shape, generator=gen, device=device).topk(cfg.real_batch).indices
            )
            return method.step(i, real, chosen)

        return step

    runs = [plain(name, cfg, start.clone().requires_grad_(), real), *(ours(dtype) for dtype in dtypes)]
    loop, *times = seconds_in_turns(runs, device, repeats)
    rows = []
    for dtype, own in zip(dtypes, times):
        floor = METHODS[name].step_flops(cfg, SHAPE, CLASSES) / rates[dtype]
        rows.append(
            {
                "method": name,
                "ipc": ipc,
                "dtype": dtype,
                "seconds": own,
                "plain_s": loop,
                "over_plain": own / loop,
                "floor_s": floor,
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="also write the rows to this file")
    args = parser.parse_args()
    device, rows = torch.device(args.device), []
    rates = {dtype: matmul_rate(dtype, device) for dtype in ("float32", "bfloat16")}
    print({k: f"{v / 1e9:.0f} GFLOP/s" for k, v in rates.items()})
    for name, ipc in CASES:
        for row in measure(name, ipc, list(rates), device, args.repeats, rates):
            rows.append(row)
            times = f"{row['seconds']:.4f} s, {row['seconds'] / row['floor_s']:.2f} of the floor"
            loop = f"the plain loop {row['plain_s']:.4f} s: {row['over_plain']:.2f} of it"
            print(f"{name:4} ipc {ipc:3} {row['dtype']:9} {times}; {loop}", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({**provenance(device), "rates": rates, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
