"""What a step takes of a GPU, counted on the meta device, where tensors have shapes and no numbers.

Counted are kernels, launches (one for all kernels of a CUDA graph), bytes that they read and write, and bytes in use at
once. A GPU needs at least the longest of three times: for the launches, to move the bytes, to compute the FLOPs.
"""

import weakref
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..autodiff.captured import GRAPHS

H100 = {"float32": 67e12, "tf32": 494e12, "bfloat16": 989e12, "fast": 989e12}  # FLOP/s of its data sheet, dense, SXM
H100_BYTES = 3.35e12  # a second, of its data sheet
LAUNCH = 5e-6  # seconds, of a kernel from PyTorch on a processor of today

aten = torch.ops.aten
NO_KERNELS = {
    aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten.detach.default, aten.alias.default, aten._unsafe_view.default,
    aten.lift_fresh.default, aten.lift.default, aten._reshape_alias.default, aten.is_same_size.default,
}  # fmt: skip


class Replayed:
    """A function whose calls the Work counts as one launch."""

    def __init__(self, work, function, args):
        self.work, self.function, self.args, self.out = work, function, args, function(*args)

    def replay(self):
        launches = self.work.launches
        self.out = self.function(*self.args)
        self.work.launches = launches + 1


class Work(TorchDispatchMode):
    """Counts operators on the meta device while it is active: kernels, launches, bytes, peak: the most bytes in use.

    graphs: whether functions are captured as CUDA graphs, as on a GPU.
    Bytes are those of float32 where convolutions are to run in bfloat16. Their workspaces are not counted. Adam's step
    is counted tensor by tensor, where a GPU takes it for all at once.
    """

    def __init__(self, graphs=True):
        super().__init__()
        self.kernels = self.launches = self.bytes = self.in_use = self.peak = 0
        self.known = weakref.WeakSet()  # storages
        self.graphs = patch.dict(GRAPHS, {"meta": self.graph} if graphs else {})

    def __enter__(self):
        self.graphs.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.graphs.stop()
        return super().__exit__(*error)

    def graph(self, function, args):
        """In place of a CUDA graph: a replay is a launch; what a capture takes, once, is not counted."""
        counted = self.kernels, self.launches, self.bytes
        graph = Replayed(self, function, args)
        self.kernels, self.launches, self.bytes = counted
        return graph

    def restart(self):
        """Count from here on; what is in use stays."""
        self.kernels, self.launches, self.bytes, self.peak = 0, 0, 0, self.in_use
        return self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        outs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.device.type == "meta"]
        for t in outs:
            self.use(t.untyped_storage())
        if outs and not func.is_view and func not in NO_KERNELS:
            read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            self.kernels += 1
            self.launches += 1
            self.bytes += sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in (*read, *outs))
        return out

    def use(self, storage):
        """Count a storage that is new as in use, until it is freed."""
        if storage in self.known:
            return
        size = storage.nbytes()
        self.known.add(storage)
        self.in_use += size
        self.peak = max(self.peak, self.in_use)
        weakref.finalize(storage, self.free, size)

    def free(self, size):
        self.in_use -= size

    def seconds(self, flops, dtype):
        """What an H100 needs for the launches, for the bytes, and for so many FLOPs in a dtype."""
        return self.launches * LAUNCH, self.bytes / H100_BYTES, flops / H100[dtype]

    def least(self, flops, dtype):
        """The longest of the three."""
        return max(self.seconds(flops, dtype))

    def describe(self, flops, dtype):
        """What bounds these operators, with so many FLOPs in a dtype, on an H100: a sentence."""
        whats = f"{self.launches} launches of {self.kernels} kernels", f"{self.bytes / 1e9:.3g} GB moved"
        times = zip((*whats, f"{flops / 1e9:.3g} GFLOP"), self.seconds(flops, dtype))
        parts = ", ".join(f"{what} {1000 * seconds:.3g} ms" for what, seconds in times)
        least, binds = max(zip(self.seconds(flops, dtype), ("launches", "memory", "arithmetic")))
        bound = f"at least {1000 * least:.3g} ms, bound by {binds}"
        return f"on an H100: {parts}; {bound}; {self.peak / 1e9:.3g} GB in use"
