"""A pass through a network: its floating-point work, and how many images to send at once."""

import ctypes
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from .networks import build

# Pixels of one forward pass. On a CPU the first layer's activations then stay in the cache (8 MiB at width 128, measured
# best there); on a GPU they fill 2 GiB, enough to keep it busy and to fit a small card with the gradient's copies.
CPU_PIXELS = {"float32": 16 * 32 * 32, "bfloat16": 32 * 32 * 32}
CUDA_PIXELS = 4 * 2**20


def keep_freed_memory():
    """Have glibc keep what is freed: by default every large block goes back to the system and is cleared anew, a tenth of a step."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another system
        return
    trim_threshold, mmap_threshold = -1, -3  # mallopt's names for them
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that it takes


def images_per_pass(shape, device, dtype="float32"):
    """How many images (K, H, W) to send through a network at once where no gradient joins them."""
    pixels = CPU_PIXELS[dtype] if device.type == "cpu" else CUDA_PIXELS
    return max(pixels // (shape[1] * shape[2]), 1)


@cache
def forward_flops(net, shape):
    """Floating-point operations of one image's forward pass, counted without computing it."""
    with torch.device("meta"):
        network = build(net, shape, 10).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, *shape))
    return counter.get_total_flops()
