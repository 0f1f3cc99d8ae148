"""The first losses of DC and DM on CIFAR-10 at full width, beside the original code's logs (matching sheet, 8).

    python -m tests.benchmarks.loss_curves --json reports/benchmarks/loss_curves-cpu.json

Needs `dvc repro prepare@cifar10 whiten@cifar10`. Each curve is one seed; the logs are of one run, or of two users'
(both given). DC's logged loss at an iteration is the mean over its `outer` updates. 50 minutes on 2 CPU cores for all;
name the curves you want.
"""

import argparse
import json
import time

import torch

from lib.config.load import load_params
from lib.methods import METHODS
from lib.synthetic.initial import initial_set
from lib.synthetic.set import SyntheticSet
from lib.training.batches import batches_for
from stages.common import provenance
from stages.inputs import device_of, real_set

CURVES = {  # name: (method, ipc, start, {iteration: logged losses})
    "dc-ipc1-real": ("dc", 1, "real", {0: (296.4,), 50: (243.0,), 100: (220.6,)}),
    "dc-ipc10-noise": ("dc", 10, "noise", {0: (224.7,), 10: (148.3, 145.9)}),
    "dm-ipc10-real": ("dm", 10, "real", {0: (23.7,), 100: (8.2,)}),
    "dm-ipc10-noise": ("dm", 10, "noise", {0: (57.9,), 100: (13.2,)}),
}


def curve(name, dtype, params, real, seed, until):
    """Losses by iteration, up to the last that was logged or `until`."""
    method, ipc, init, logged = CURVES[name]
    cfg = params.cells[f"matching-{method}-cifar10-ipc{ipc}"].distill.changed(init=init, conv_dtype=dtype)
    syn = SyntheticSet(*initial_set(real, cfg, seed))
    run = METHODS[method](cfg, syn, seed)
    batches = batches_for(real, cfg, seed)
    outer, losses, started = getattr(cfg, "outer", 1), [], time.monotonic()
    for iteration in range(min(max(logged), until) + 1):
        updates = [run.step(iteration * outer + t, *batches.next())["loss"] for t in range(outer)]
        losses.append(torch.stack(updates).mean().item())
        if iteration in logged:
            known = ", ".join(map(str, logged[iteration]))
            print(f"{name} {dtype}: iteration {iteration}: {losses[-1]:.1f}; logged {known}", flush=True)
    return {
        "curve": name,
        "dtype": dtype,
        "seed": seed,
        "losses": losses,
        "logged": logged,
        "wall_s": round(time.monotonic() - started, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="*", default=list(CURVES), help=f"of {', '.join(CURVES)}")
    parser.add_argument("--dtype", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--until", type=int, default=10**9, help="the last iteration, where the logs go on for longer than you want to"
    )
    parser.add_argument("--json", help="also write the curves to this file, beside what it holds")
    args = parser.parse_args()
    params = load_params()
    device = device_of(params.runtime)
    real = real_set(params.cells["matching-dm-cifar10-ipc10"], device)
    for name in args.curves:
        for dtype in args.dtype:
            row = {**curve(name, dtype, params, real, args.seed, args.until), **provenance(device)}
            if args.json:
                try:
                    with open(args.json) as file:
                        rows = json.load(file)
                except FileNotFoundError:
                    rows = []
                with open(args.json, "w") as file:
                    json.dump([*rows, row], file, indent=1)


if __name__ == "__main__":
    main()
