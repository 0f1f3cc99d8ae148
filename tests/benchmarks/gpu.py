"""All that a CUDA GPU is asked, in one command of under ten minutes; run it again to go on with the long run.

    python -m tests.benchmarks.gpu pack .gpu                                   # here, where the datasets are prepared
    python -m tests.benchmarks.gpu run .gpu --minutes 9 --out OUT/gpu.json     # there

What it needs there: this repository; `.gpu` (12 MB for MNIST: images, whitening, settings of the steps; CIFAR-10 would
be 150 MB); torch, numpy, scipy, scikit-learn, safetensors, pillow, tqdm, pyyaml, and pydantic, which can be carried as
wheels. It imports neither DVC nor MLflow nor tensorflow-datasets. What it brings back: gpu.json, and set.safetensors
beside it. The checkpoint stays in `.gpu`.

1. Parity: the traces (tests/golden) on the GPU in float64, their random numbers drawn on the host, against the stored
   ones; and FRePo's loss and gradients in float32 against float64.
2. Steps of every method at published sizes: milliseconds kernel by kernel and as CUDA graphs, the share of what bounds
   them (`cost --gpu`, for an H100), memory.
3. With the time that is left, the packed cell's distillation from its checkpoint, in the mode that was fastest; its
   set is evaluated by the cell's protocol.
"""

import argparse
import copy
import json
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from lib.autodiff import captured
from lib.config.settings import Settings
from lib.data.labels import centred_one_hot, initial_labels
from lib.data.preprocess import Preprocess
from lib.data.real import RealSet
from lib.methods import METHODS
from lib.methods.example import example, work_of_step
from lib.methods.frepo import meta_loss
from lib.networks import build, layers
from lib.rng import generator
from lib.synthetic.initial import initial_set
from lib.synthetic.set import SyntheticSet, rendered, save_set, stacked
from lib.training import loop
from lib.training.batches import batches_for
from lib.training.checkpoint import Checkpoint
from lib.training.compute import allow_tf32, device_named
from lib.training.cost import matmul_rate, seconds
from lib.training.ends import Stopped
from lib.training.students import evaluate
from tests.golden import data, traces

RUN = "frepo-frepo-mnist-ipc1"
STEPS = (
    "frepo-frepo-cifar10-ipc1", "isa-isa-cifar10-ipc1", "matching-dc-cifar10-ipc1", "matching-dsa-cifar10-ipc1",
    "matching-dm-cifar10-ipc1", "dd-dd-mnist-ipc10-fixed", "dd-sldd-mnist-ipc10-random", "dd-rat-cifar10-ipc10",
    "tdd-sldd-trec6-ipc1-fixed-random", "mtt-mtt-cifar10-ipc1", "edf-datm-cifar10-ipc10",
    "edf-edf-in1k_imagenette-ipc1",
)  # fmt: skip
OF_CONVOLUTIONS = ("frepo", "isa", "dc", "dsa", "dm")  # methods whose networks run in conv_dtype
TRACED = (*METHODS, "protocol", "experts")
BOUNDS = {"float64": 1e-7, "float32": 1e-3}  # relative; a CPU's float32 is within 1.1e-4 of its float64


# Here


def pack(folder, cell=RUN, steps=STEPS):
    """Write what `run` needs into a folder: settings as JSON, and the cell's images and whitening."""
    from lib.config.load import load_params
    from lib.config.recipes import recipes
    from lib.data.real import load_arrays
    from stages.common import PREPARED, PREPROCESSING
    from stages.work import example_of

    params, folder = load_params(), Path(folder)
    planned, row = recipes(params), params.cells[cell]
    folder.mkdir(parents=True, exist_ok=True)
    text = {key: {**example_of(params, key), "flops": flops_of(params, key)} for key in steps}
    run = {"distill": planned["distill"][cell], "evaluate": planned["evaluate"][cell]}
    (folder / "settings.json").write_text(json.dumps({"steps": text, "run": run}, default=plain))
    arrays = {split: load_arrays(PREPARED / row.dataset, split) for split in ("train", "test")}
    arrays = {f"{split}_{name}": array for split, pair in arrays.items() for name, array in zip("xy", pair)}
    np.savez_compressed(folder / "images.npz", **arrays)
    whitening = PREPROCESSING / f"{row.preprocessing}.safetensors"
    (folder / "whitening.safetensors").write_bytes(whitening.read_bytes())


def plain(value):
    """A model of settings as JSON."""
    return value.model_dump() if hasattr(value, "model_dump") else vars(value)


def flops_of(params, key):
    from stages.work import work_of_cell

    return work_of_cell(params, key)[0]


# There


class HostGenerator(torch.Generator):
    """A generator that says it is on the GPU and draws on the host."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.says = torch.device(device)
        return self

    def __init__(self, device="cpu"):
        pass

    device = property(lambda self: self.says)


class HostDraws(TorchFunctionMode):
    """Random numbers of the GPU are drawn on the host and copied."""

    DRAWS = {torch.rand, torch.randn, torch.randint, torch.randperm}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensor = args[0] if args and isinstance(args[0], torch.Tensor) else None
        device = torch.device(kwargs.get("device") or (tensor.device if tensor is not None else "cpu"))
        if device.type == "cpu" or not (kwargs.get("generator") or func in self.DRAWS):
            return func(*args, **kwargs)
        if tensor is None:
            return func(*args, **kwargs | {"device": "cpu"}).to(device)
        host = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        func(host, *args[1:], **kwargs)
        return tensor.copy_(host)


def truncated(tensor, sigma, generator):
    """The stored traces' truncated normal numbers."""
    host = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    torch.nn.init.trunc_normal_(host, 0.0, sigma, -2 * sigma, 2 * sigma, generator=generator)
    return tensor.copy_(host)


def parity_of_traces(device, names):
    """{trace: its largest relative difference to the stored one, or the error that it raised}."""
    found, stored = {}, traces.stored_traces()
    for name in names:
        with (
            patch.object(torch, "Generator", HostGenerator),
            patch.object(layers, "truncated_by_inverse_", truncated),
            patch.object(data, "DEVICE", device),
            HostDraws(),
        ):
            try:
                numbers = traces.trace(name)
                found[name] = max(abs(a - b) / max(1, abs(b)) for a, b in zip(numbers, stored[name], strict=True))
            except Exception as error:
                traceback.print_exc()
                found[name] = f"{type(error).__name__}: {error}"
    return found


def parity_of_float32(device, batch=256):
    """Relative differences of FRePo's loss and of both gradients to the same numbers in float64 on the CPU."""
    shape = (3, 32, 32)
    net = build("conv3-batch", shape, 10).reset(generator(0, "net")).eval()
    x, y = torch.randn(10, *shape, generator=generator(1, "x")), initial_labels(torch.arange(10), 10)
    real = torch.randn(batch, *shape, generator=generator(2, "real"))
    targets = centred_one_hot(torch.arange(batch) % 10, 10)

    def gradients(device, dtype):
        f = copy.deepcopy(net).to(device, dtype)
        leaf_x, leaf_y = (t.to(device, dtype).requires_grad_() for t in (x, y))
        with torch.no_grad():
            phi = f.features(real.to(device, dtype))
        loss, _ = meta_loss(f.features, leaf_x, leaf_y, phi, targets.to(device, dtype), flip=True)
        return [t.detach().double().cpu() for t in (loss, *torch.autograd.grad(loss, (leaf_x, leaf_y)))]

    exact, fast = gradients("cpu", torch.float64), gradients(device, torch.float32)
    return {k: ((a - b).norm() / a.norm()).item() for k, a, b in zip(("loss", "x_gradient", "y_gradient"), exact, fast)}


def time_of_step(step, dtype, graphs, device, repeats):
    """Seconds of a method's step at full size, the most bytes in use, and the least that an H100 needs."""
    cfg = Settings.of(step["cfg"]).changed(conv_dtype=dtype)
    if "pool_size" in step["cfg"]:
        cfg = cfg.changed(pool_size=1)  # each member has graphs of its own
    sizes = step["method"], cfg, tuple(step["shape"]), step["classes"], step["train"], step["pool"]
    allow_tf32(dtype)
    with nullcontext() if graphs else patch.dict(captured.GRAPHS, clear=True):
        torch.cuda.reset_peak_memory_stats()
        method, batch = example(*sizes, device)
        took = seconds(lambda i: method.step(i, *batch()), device, repeats)
        memory = torch.cuda.max_memory_allocated()
    least = work_of_step(*sizes, graphs=graphs).least(step["flops"], dtype)
    return {"dtype": dtype, "graphs": graphs, "seconds": took, "least": least, "bytes": memory}


def steps(settings, device, repeats, until):
    """Rows of `time_of_step` for each method, until the time is over: {cell: [row, ...]}."""
    rows = {}
    for key, step in settings.items():
        dtypes = ("float32", "tf32", "bfloat16") if step["method"] in OF_CONVOLUTIONS else ("float32",)
        for dtype, graphs in ((dtype, graphs) for dtype in dtypes for graphs in (False, True)):
            if time.monotonic() > until:
                return rows
            try:
                row = time_of_step(step, dtype, graphs, device, repeats)
            except Exception as error:
                traceback.print_exc()
                rows.setdefault(key, []).append({"dtype": dtype, "graphs": graphs, "error": str(error)})
                continue
            rows.setdefault(key, []).append(row)
            how = f"{dtype}{' as graphs' if graphs else ''}"
            share, memory = f"{row['least'] / row['seconds']:.0%} of the bound", f"{row['bytes'] / 1e9:.2f} GB"
            print(f"{key:34} {how:19} {1e3 * row['seconds']:9.2f} ms, {share}, {memory}", flush=True)
    return rows


def real_set(folder, classes, device):
    """The packed images, whitened on the device."""
    preprocess = Preprocess.load(folder / "whitening.safetensors").to(device)
    with np.load(folder / "images.npz", allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files}
    images = [preprocess.apply(tensors[f"{split}_x"].float() / 255) for split in ("train", "test")]
    manifest = {"num_classes": classes}
    return RealSet(images[0], tensors["train_y"], images[1], tensors["test_y"], preprocess, manifest)


def go_on(folder, recipe, device, seconds, out, dtype):
    """Distil the packed cell for so long, from its checkpoint on, convolutions in a dtype; then evaluate the set."""
    distill, judge = (Settings.of(recipe[stage]) for stage in ("distill", "evaluate"))
    allow_tf32(dtype)
    cfg = distill.cell.distill.changed(eval_at=(), eval_every=0, conv_dtype=dtype)
    real = real_set(folder, 10, device)
    syn = SyntheticSet(*initial_set(real, cfg, 0), cfg.learn_labels)
    method, stop = METHODS[distill.cell.method](cfg, syn, 0), threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()

    def accuracy(net, protocol):
        x, y, lr, start = stacked([rendered(syn.snapshot())])
        return evaluate(net, x, y, real, protocol, 0, lr, start)[0]

    checkpoint, batches = Checkpoint(folder / "checkpoint.safetensors", distill.key), batches_for(real, cfg, 0)
    try:
        loop.run(distill.key, method, batches, cfg, lambda: 0.0, checkpoint, stop=stop)
    except Stopped as words:
        print(words, flush=True)
    finally:
        timer.cancel()
    progress = checkpoint.load()["progress"]
    save_set(Path(out).with_name("set.safetensors"), [syn.snapshot()], cell=distill.key, steps=[progress["step"]])
    allow_tf32("float32")
    found = {net: accuracy(net, judge.protocol).tolist() for net in judge.evaluate.nets}
    return {
        "cell": distill.key,
        "step": progress["step"],
        "of": cfg.steps,
        "wall_s": progress["wall_s"],
        "accuracy": found,
    }


def fastest(rows):
    """(dtype, graphs) of FRePo's fastest step, of the rows of `steps`; float32 as graphs where there are none."""
    found = [row for key, each in rows.items() if "-frepo-" in key for row in each if "seconds" in row]
    best = min(found, key=lambda row: row["seconds"], default={"dtype": "float32", "graphs": True})
    return best["dtype"], best["graphs"]


def run(folder, out, minutes=9.0, only_run=False, repeats=9, names=None, size=8192):
    """The three parts; the results are written after each. names: of traces; size: of the timed matrix product."""
    began, device, folder = time.monotonic(), device_named("cuda"), Path(folder)
    settings = json.loads((folder / "settings.json").read_text())
    result = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    if only_run and Path(out).exists():
        result = json.loads(Path(out).read_text())

    def keep(**part):
        result.update(part)
        Path(out).write_text(json.dumps(result, indent=1))

    keep()
    if not only_run:
        keep(float32=parity_of_float32(device))
        print(f"FRePo in float32: {result['float32']}, bound {BOUNDS['float32']}", flush=True)
        keep(traces=parity_of_traces(device, names or [n for n in traces.CASES if n.split(":")[0] in TRACED]))
        within = BOUNDS["float64"]
        wrong = {n: found for n, found in result["traces"].items() if isinstance(found, str) or found > within}
        print(f"{len(result['traces'])} traces in float64; beyond {within}: {wrong}", flush=True)
        keep(rates={dtype: matmul_rate(dtype, device, n=size) for dtype in ("float32", "bfloat16")})
        keep(steps=steps(settings["steps"], device, repeats, began + 35 * minutes))  # half of the time, and a little
        keep(mode=fastest(result["steps"]))
    dtype, graphs = result.get("mode", ("float32", True))
    if not graphs:
        captured.GRAPHS.clear()
    left = 60 * minutes - (time.monotonic() - began) - 45  # for the evaluation
    if left > 0:
        keep(run=go_on(folder, settings["run"], device, left, out, dtype))
        print(result["run"], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing, running = commands.add_parser("pack"), commands.add_parser("run")
    for command in (packing, running):
        command.add_argument("folder", help="with what is carried")
    packing.add_argument("--cell", default=RUN, help="of the long run: FRepo or ISA, on images of ten classes")
    running.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    running.add_argument("--only-run", action="store_true", help="go on with the long run alone")
    running.add_argument("--out", default="gpu.json")
    given = vars(parser.parse_args())
    if given.pop("command") == "pack":
        return pack(**given)
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is available here")
    run(**given)


if __name__ == "__main__":
    main()
