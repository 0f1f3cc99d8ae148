"""Seconds per outer iteration of FRePo and ISA at the paper's size (width 128, batch 1024), with the work's floor.

    python -m tests.benchmarks.frepo_step                 # CPU: float32 and bfloat16
    python -m tests.benchmarks.frepo_step --device cuda   # kernel by kernel, and as CUDA graphs

ISA's iteration is timed in the same run and given over FRePo's. The floor is the iteration's floating-point work over
the machine's own matrix-product rate, measured in the same run. Images are random numbers of the datasets' shapes: the
time does not depend on their values.
"""

import argparse
import json
from unittest.mock import patch

import torch

from lib.autodiff import captured
from lib.config import models
from lib.config.load import load_params
from lib.data.labels import centred_one_hot, initial_labels
from lib.methods.frepo import FRePo
from lib.methods.isa import ISA
from lib.rng import generator
from lib.synthetic.set import SyntheticSet
from lib.training.compute import keep_freed_memory
from lib.training.cost import matmul_rate, seconds_in_turns
from stages.common import provenance

CASES = {
    "mnist ipc 1": ((1, 28, 28), 1, False),
    "cifar10 ipc 1": ((3, 32, 32), 1, True),
    "cifar10 ipc 10": ((3, 32, 32), 10, True),
}


def make(method, cfg, shape, device):
    """A method on a random synthetic set of `cfg.ipc` images for each of ten classes."""
    gen = generator(0, "benchmark", device=device)
    labels = initial_labels(torch.arange(10).repeat_interleave(cfg.ipc), 10).to(device)
    return method(cfg, SyntheticSet(torch.randn(10 * cfg.ipc, *shape, generator=gen, device=device), labels), 0)


def measure(name, dtype, graphs, device, repeats, rates):
    """graphs: captured.GRAPHS, or {} for kernel by kernel."""
    with patch.dict(captured.GRAPHS, graphs, clear=True):
        return measured(name, dtype, bool(graphs), device, repeats, rates)


def measured(name, dtype, as_graphs, device, repeats, rates):
    shape, ipc, flip = CASES[name]
    defaults = load_params().cells["reduced-frepo-cifar10-ipc1"].distill
    cfg = defaults.changed(ipc=ipc, flip=flip, conv_dtype=dtype, pool_size=2, reset_after=10**6)
    method = make(FRePo, cfg, shape, device)
    isa = make(ISA, models.ISA(**cfg.model_dump() | {"method": "isa", "epsilon": 0.5, "topk": 0.8}), shape, device)
    gen = generator(1, "benchmark", device=device)
    x = torch.randn(cfg.real_batch, *shape, generator=gen, device=device)
    targets = centred_one_hot(torch.randint(10, (cfg.real_batch,), generator=gen, device=device), 10)
    member = method.pool[0]
    parts = [
        lambda i: method.step(i, x, targets),
        lambda i: isa.step(i, x, targets),
        lambda i: method.target_features(member.net, x),
        lambda i: method.online_step(member),
    ]
    step, isa_step, target, online = seconds_in_turns(parts, device, repeats)
    floor = method.step_flops(cfg, shape, 10) / rates[dtype]
    return {
        "case": name, "dtype": dtype, "as_graphs": as_graphs,
        "seconds": step, "floor_s": floor, "over_floor": step / floor,
        "isa_over_frepo": isa_step / step,
        "share_target": target / step, "share_online": online / step, "share_meta": 1 - (target + online) / step,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", help="also write the rows to this file")
    args = parser.parse_args()
    keep_freed_memory()
    device = torch.device(args.device)
    modes = [{}] if device.type == "cpu" else [{}, dict(captured.GRAPHS)]
    rates = {dtype: matmul_rate(dtype, device) for dtype in ("float32", "bfloat16")}
    print({k: f"{v / 1e9:.0f} GFLOP/s" for k, v in rates.items()})
    rows = []
    for name in CASES:
        for dtype in rates:
            for mode in modes:
                row = measure(name, dtype, mode, device, args.repeats, rates)
                rows.append(row)
                shares = ", ".join(f"{k} {row[f'share_{k}']:.0%}" for k in ("target", "meta", "online"))
                times = f"{row['seconds']:.4f} s, {row['over_floor']:.2f} of the floor"
                isa = f"ISA takes {row['isa_over_frepo']:.3f} of it"
                print(f"{name:15} {dtype:9} {'as graphs' if mode else '':9} {times}; {isa}; {shares}", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({**provenance(device), "rates": rates, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
