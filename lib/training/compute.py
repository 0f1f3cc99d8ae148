"""A pass through a network: its FLOPs, its precision, and how many images to send at once."""

import ctypes
from contextlib import nullcontext
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..autodiff.captured import GRAPHS
from ..networks import build
from ..tensors import memory_of
from .cost import matmul_rate

# Numbers in the widest layer of one forward pass. On a CPU they stay in the cache (8 MiB, measured best at width 128);
# on a GPU they fill 2 GiB, which keeps it busy, or less: other layers and gradients need as much again, many times.
CPU_NUMBERS = {"float32": 2**21, "bfloat16": 2**22}
CUDA_NUMBERS, CUDA_BYTES = 2**29, 128  # at most; of the GPU's memory for each number
THREADED_FLOPS = 2e9  # of a step, from which on several threads pay (python -m tests.benchmarks.threads)
ALL_THREADS = torch.get_num_threads()
DTYPES = ("float32", "bfloat16")  # that convolutions run in, on any device
FAST = "fast, which takes the faster of bfloat16 and float32, or float32"


def device_named(name, capture=True):
    """The torch device that `runtime.device` names; auto: a GPU if there is one. ValueError for a missing GPU.

    capture: `runtime.capture`, whether it replays functions as CUDA graphs.
    """
    wanted = name.replace("auto", "cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"found {wanted!r}; no CUDA device is available here: use auto or cpu")
    allow_tf32("float32")  # a cell's float32 means float32
    if not capture:
        GRAPHS.clear()
    torch.backends.cudnn.benchmark = True  # shapes repeat: the fastest algorithm for each is found once
    keep_freed_memory()
    return torch.device(wanted)


def precision(wanted, device):
    """The dtype that `conv_dtype` stands for on this device; ValueError where it is not for it, or slower than float32.

    A processor without instructions for bfloat16 is slower in it by a factor of hundreds.
    """
    if wanted == "float32" or (wanted == "tf32" and device.type == "cuda"):
        return wanted
    if wanted == "tf32":
        raise ValueError(f"found tf32, which only GPUs compute in; must be {FAST}")
    rates = {dtype: matmul_rate(dtype, device, n=256 if device.type == "cpu" else 8192) for dtype in DTYPES}
    if wanted == "fast":
        return max(rates, key=rates.get)
    if rates[wanted] < rates["float32"] / 2:
        gflops = {dtype: f"{rate / 1e9:.3g} GFLOP/s" for dtype, rate in rates.items()}
        both = f"{gflops[wanted]} in it, {gflops['float32']} in float32"
        raise ValueError(f"found {wanted}; this device computes {both}; must be {FAST}")
    return wanted


def allow_tf32(dtype):
    """Have a GPU's convolutions round the factors of their products to 10 bits where the named dtype is tf32."""
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"


def use_threads(step_flops, device):
    """Run small steps on one thread of a CPU: with several, they wait for each other longer than they compute.

    step_flops: of a step, or of one update of the networks that are trained together.
    """
    if device.type == "cpu":
        torch.set_num_threads(1 if step_flops < THREADED_FLOPS else ALL_THREADS)


def keep_freed_memory():
    """Have glibc keep freed memory: by default large blocks go back to the system, which costs a tenth of a step."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another system
        return
    trim_threshold, mmap_threshold = -1, -3  # mallopt's names for them
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that it takes


def numbers_per_pass(device, dtype="float32"):
    """How many numbers a network's widest layer may have in one pass."""
    if device.type == "cpu":
        return CPU_NUMBERS[dtype]
    return min(CUDA_NUMBERS, memory_of(device) // CUDA_BYTES)


def images_per_pass(net, shape, device, dtype="float32"):
    """How many images of `shape` (K, H, W) to send through a network at once, if they are independent."""
    return max(numbers_per_pass(device, dtype) // widest_layer(net, shape), 1)


def autocast(device, dtype):
    """A context in which convolutions on the device run in the named dtype; those on meta stay float32."""
    plain = dtype in ("float32", "tf32") or device.type == "meta"
    return nullcontext() if plain else torch.autocast(device.type, dtype=getattr(torch, dtype))


@cache
def widest_layer(net, shape):
    """The largest number of outputs of one of a network's layers for an image."""
    sizes = []

    def note(module, inputs, output):
        if isinstance(output, torch.Tensor):  # not the pair that an attention layer gives
            sizes.append(output.numel())

    with torch.device("meta"):
        network = build(net, shape, 10).eval()
        for module in network.modules():
            module.register_forward_hook(note)
        network(torch.empty(1, *shape))
    return max(sizes)


@cache
def forward_flops(net, shape):
    """FLOPs of one image's forward pass, counted on the meta device."""
    with torch.device("meta"):
        network = build(net, shape, 10).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, *shape))
    return counter.get_total_flops()


def at_least_float32(x):
    """x in float32, or in its own precision if that is higher."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
