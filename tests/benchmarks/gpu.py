"""All that a CUDA GPU is asked, in one command of under ten minutes; run it again to go on with the long run.

    python -m tests.benchmarks.gpu --minutes 9 --out gpu.json

1. Parity: loss and gradients of the paper's network on the GPU against float64 on the CPU (bound: 1e-4 relative).
2. The step: milliseconds per iteration, kernel by kernel and as CUDA graphs, and the share of the matrix-product rate.
3. With the time that is left, the cell `--cell`, from its last checkpoint; the set so far is evaluated by its protocol.

The third part needs data/prepared/DATASET and data/preprocessing/NAME.safetensors (`dvc repro whiten@cifar10-zca`, or
carried here).
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from lib.autodiff import captured
from lib.config.load import load_params
from lib.data.labels import centred_one_hot, initial_labels
from lib.data.real import load_real
from lib.methods.frepo import meta_loss
from lib.networks import build
from lib.rng import generator
from lib.tensors import load_state
from lib.training.loop import Progress
from lib.training.students import evaluate
from stages.identity import owner

from .frepo_step import CASES, matmul_rate, measure

BOUND = 1e-4


def parity(device, batch=256):
    """Relative differences of the loss and of both gradients to the same numbers in float64 on the CPU."""
    shape = (3, 32, 32)
    net = build("conv3-batch", shape, 10).reset(generator(0, "net")).eval()
    x, y = torch.randn(10, *shape, generator=generator(1, "x")), initial_labels(torch.arange(10), 10)
    real, targets = (
        torch.randn(batch, *shape, generator=generator(2, "real")),
        centred_one_hot(torch.arange(batch) % 10, 10),
    )

    def gradients(device, dtype):
        f = copy.deepcopy(net).to(device, dtype)
        leaf_x, leaf_y = (t.to(device, dtype).requires_grad_() for t in (x, y))
        with torch.no_grad():
            phi = f.features(real.to(device, dtype))
        loss, _ = meta_loss(f.features, leaf_x, leaf_y, phi, targets.to(device, dtype), flip=True)
        return [t.detach().double().cpu() for t in (loss, *torch.autograd.grad(loss, (leaf_x, leaf_y)))]

    exact, fast = gradients("cpu", torch.float64), gradients(device, torch.float32)
    return {k: ((a - b).norm() / a.norm()).item() for k, a, b in zip(("loss", "x_gradient", "y_gradient"), exact, fast)}


def go_on(key, device, seconds):
    """Run the cell's distill stage for `seconds`, then evaluate the set of its last checkpoint."""
    params = load_params()
    cell = params.cells[key]
    process = subprocess.Popen([sys.executable, "-m", "stages", "distill", key])
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # it saves a checkpoint; the next call goes on from there
        process.wait()
    done = Path("build/distill") / cell.suite / key
    if (done / "history.json").exists():
        return {"cell": key, "finished": True}
    found = sorted(Path(".checkpoints", key).glob("*/*.safetensors"), key=lambda p: p.stat().st_mtime)
    if not found:
        return {"cell": key, "finished": False, "step": 0}
    state = load_state(found[-1], owner(found[-1].stem, found[-1].parent.name), device)
    progress = Progress(**state["progress"])
    real = load_real(
        Path("data/prepared") / cell.dataset, Path("data/preprocessing") / f"{cell.preprocessing}.safetensors", device
    )
    x, y = (state["method"]["syn"][k][None] for k in "xy")
    accuracy = evaluate(cell.evaluate.nets[0], x, y, real, params.protocols[cell.evaluate.protocol], seed=0)
    return {
        "cell": key, "finished": False, "step": progress.step, "wall_s": progress.wall_s, "history": progress.history,
        "accuracy_mean": accuracy.mean().item(), "accuracy_std": accuracy.std(correction=0).item(),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--cell", default="frepo-frepo-cifar10-ipc1")
    parser.add_argument("--only-cell", action="store_true", help="skip parity and the step, when they are measured")
    parser.add_argument("--out", default="gpu.json")
    args = parser.parse_args()
    started, device = time.monotonic(), torch.device("cuda")
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is available here")
    torch.backends.cudnn.allow_tf32 = False
    result = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    if not args.only_cell:
        result["parity"] = parity(device)
        print(
            "parity with float64:",
            result["parity"],
            "within" if max(result["parity"].values()) <= BOUND else "NOT within",
            BOUND,
            flush=True,
        )
        rates = {dtype: matmul_rate(dtype, device) for dtype in ("float32", "bfloat16")}
        result["rates"], result["steps"] = rates, []
        for name in [n for n in CASES if "cifar10" in n]:
            for graphs in ({}, dict(captured.GRAPHS)):
                row = measure(name, "bfloat16", graphs, device, 50, rates)
                result["steps"].append(row)
                took = f"{1000 * row['seconds']:.3f} ms, {1 / row['over_floor']:.0%} of the bf16 rate"
                print(f"{name}{' as graphs' if graphs else ''}: {took}", flush=True)
    left = args.minutes * 60 - (time.monotonic() - started) - 60  # a minute for the evaluation
    if left > 30:
        result["run"] = go_on(args.cell, device, left)
        print(result["run"], flush=True)
    Path(args.out).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
