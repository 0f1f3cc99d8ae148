"""A CUDA device on a machine without one: tensors that say `cuda:0`, follow CUDA's rules, and compute on the CPU.

    with Pretended() as machine:
        x = torch.randn(10, device="cuda")
        method.step(...)
    machine.waits    # Counter: what made the host wait for the device, with its line of lib or stages
    machine.kernels  # names of the operators that a device would launch a kernel for, in their order

While it is active
- an operator that takes tensors of both devices raises, as CUDA's does, but for zero-dimensional CPU tensors in
  pointwise operators, and copies from one to the other;
- a generator draws only numbers of its own device;
- a fused optimiser refuses tensors that lie in memory in another order than its parameter;
- counted as waits: item, tolist, bool of a tensor; nonzero, boolean masks as indices, and what else needs a size from
  the device; copies to the host; copies to the device from memory that is not pinned, lists as indices among them.

Code that asks for a tensor's device takes its CUDA branch, and its numbers can be compared with the CPU's. It cannot
tell times, memory, races, or what cuDNN refuses.
"""

import sys
import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

import lib.tensors
import lib.training.compute
from lib.autodiff import captured

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
ACTIVE = []  # the machines that are entered
PINNED = set()  # addresses of host memory that is said to be pinned

ALLOCATIONS = {
    aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten.detach.default, aten.alias.default, aten._unsafe_view.default,
    aten.lift_fresh.default, aten.lift.default, aten._reshape_alias.default, aten.is_same_size.default,
}  # fmt: skip
NEED_A_SIZE = {  # their results' shapes, or a decision of their code, come from the device
    aten.nonzero, aten.masked_select, aten.argwhere, aten._unique2, aten._unique, aten.unique_dim, aten.bincount,
    aten.unique_consecutive, aten.equal, aten.is_nonzero, aten.multinomial, aten.linalg_eigh, aten._linalg_eigh,
    aten.linalg_svd, aten._linalg_svd,
}  # fmt: skip
INDEXED = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPIES = {aten.copy_, aten._to_copy, aten._foreach_copy_}
SCALARS = {aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_, aten.where, aten.lerp, aten.full_like}
FUSED = {aten._fused_adam_: 4, aten._fused_adamw_: 4, aten._fused_sgd_: 3}  # how many of the lists go by a parameter


class RefusedByCuda(RuntimeError):
    """What CUDA would refuse."""


class OnDevice(torch.Tensor):
    """A tensor that says it is on `cuda:0`; `numbers` has its values, on the CPU.

    PyTorch's own code takes it for one on `meta`: a build for CUDA asks a driver about tensors of a CUDA device.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers):
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset(), "dtype": numbers.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, device="meta", **layout)

    def __init__(self, numbers):
        self.numbers = numbers

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = is_cpu = property(lambda self: False)

    def tolist(self):
        return self.cpu().tolist()

    def __getitem__(self, index):
        return super().__getitem__(copied(index))

    def __setitem__(self, index, value):
        super().__setitem__(copied(index), value)

    def __repr__(self):
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return ACTIVE[-1].run(func, args, kwargs or {})


def copied(index):
    """An index whose lists are copied to the device, as CUDA does."""
    if isinstance(index, list):
        return torch.tensor(index).to("cuda")
    return tuple(map(copied, index)) if isinstance(index, tuple) else index


class Generator(torch.Generator):
    """A generator that may say that it is on the device; its numbers are the CPU's."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.says = CUDA if torch.device(device).type == "cuda" else torch.device("cpu")
        return self

    def __init__(self, device="cpu"):
        pass

    device = property(lambda self: self.says)


class Calls(TorchFunctionMode):
    """Rules that operators no longer show: the devices of generators, pinned memory."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if isinstance(generator := kwargs.get("generator"), Generator):
            of = args[0].device if args and isinstance(args[0], torch.Tensor) else "cpu"
            device = torch.device(kwargs.get("device") or of)
            if device.type != generator.device.type:
                raise RefusedByCuda(f"{func.__name__}: a generator of {generator.device} for numbers on {device}")
        if func is torch.Tensor.pin_memory:
            pinned = args[0].clone()
            PINNED.add(pinned.data_ptr())
            return pinned
        return func(*args, **kwargs)


class Autocast(TorchFunctionMode):
    """`torch.autocast("cuda", dtype)` for convolutions and matrix products."""

    LOWERED = {torch.conv2d, torch.nn.functional.conv2d, torch.nn.functional.linear, torch.matmul, torch.mm, torch.bmm}
    LOWERED |= {torch.Tensor.matmul, torch.Tensor.__matmul__}

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def lowered(self, value):
        return value.to(self.dtype) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*(tree_map(self.lowered, args) if func in self.LOWERED else args), **(kwargs or {}))


def autocast(device, dtype):
    return nullcontext() if dtype in ("float32", "tf32") else Autocast(getattr(torch, dtype))


def load_tensors(path, device="cpu", load=lib.tensors.load_tensors):
    """As lib's, whose library asks the driver for the device."""
    tensors, meta = load(path)
    return {name: tensor.to(device) for name, tensor in tensors.items()}, meta


def undisturbed(function):
    """A function that uses the meta device for itself, called without the machine."""

    @wraps(function)
    def call(*args, **kwargs):
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return call


@contextmanager
def replaced(old, new):
    """`new` in place of the function `old`, under every name that a module of lib or stages has for it."""
    modules = [module for name, module in sys.modules.items() if name.startswith(("lib", "stages"))]
    places = [(module, name) for module in modules for name, value in vars(module).items() if value is old]
    for module, name in places:
        setattr(module, name, new)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, old)


def line():
    """The innermost lines of lib or stages that are being executed."""
    stack = [f for f in traceback.extract_stack() if "/lib/" in f.filename or "/stages/" in f.filename]
    ours = [f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in stack if "site-packages" not in f.filename]
    return " < ".join(ours[:-3:-1])


def is_dense(tensor):
    """Whether its memory has no gaps, in some order of its axes."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


class Pretended(TorchDispatchMode):
    """The machine. devices: how many it says it has; all are one memory. total_memory: bytes that each says it has."""

    def __init__(self, devices=1, total_memory=80 * 2**30):
        super().__init__()
        self.devices, self.total_memory, self.waits, self.kernels = devices, total_memory, Counter(), []

    def __enter__(self):
        self.stack = stack = ExitStack()
        says = {"is_available": True, "is_bf16_supported": True, "device_count": self.devices, "synchronize": None}
        says |= {"_lazy_init": None, "get_device_name": "pretended", "get_device_properties": self}
        says |= {"max_memory_allocated": 0, "reset_peak_memory_stats": None}
        for name, value in says.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *args, value=value, **kwargs: value))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        optimizer = sys.modules["torch.optim.optimizer"]
        supported = [*optimizer._foreach_supported_types, OnDevice]
        stack.enter_context(mock.patch.object(optimizer, "_foreach_supported_types", supported))
        # A module's `to` makes new parameters: an old one cannot become a tensor of another class.
        convert = torch.__future__.get_overwrite_module_params_on_conversion()
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, convert)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        torch._C._ensureCUDADeviceGuardSet()
        compute = lib.training.compute
        for function in (compute.widest_layer, compute.forward_flops):
            stack.enter_context(replaced(function, undisturbed(function)))
        stack.enter_context(replaced(compute.autocast, autocast))
        stack.enter_context(mock.patch.dict(captured.GRAPHS, {"cuda": Graph}))
        stack.enter_context(replaced(lib.tensors.load_tensors, load_tensors))
        stack.enter_context(Calls())
        ACTIVE.append(self)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        ACTIVE.pop()
        self.stack.close()
        PINNED.clear()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def wait(self, why):
        self.waits[f"{why} at {line()}"] += 1

    def run(self, func, args, kwargs):
        """One operator: checked, counted, computed on the CPU."""
        flat, form = tree_flatten((args, kwargs))
        ours = [value for value in flat if isinstance(value, OnDevice)]
        wanted = kwargs.get("device") and torch.device(kwargs["device"]).type
        if not ours and wanted in (None, "cpu"):
            return func(*args, **kwargs)
        hosts = [value for value in flat if type(value) is torch.Tensor and value.device.type == "cpu"]
        packet, leaves = func.overloadpacket, bool(ours) and wanted == "cpu"
        there = packet is aten._to_copy and ours and wanted == "cuda" and kwargs.get("dtype") in (None, ours[0].dtype)
        if packet is aten._local_scalar_dense:
            self.wait("item")
            return func(ours[0].numbers)
        if packet is aten.copy_ and not isinstance(args[0], OnDevice):
            leaves = True
        self.check(func, args, kwargs, hosts, leaves)
        numbers = [value.numbers if isinstance(value, OnDevice) else value for value in flat]
        real_args, real_kwargs = tree_unflatten(numbers, form)
        if wanted:
            real_kwargs |= {"device": torch.device("cpu")}
        out = func(*real_args, **(real_kwargs | {"pin_memory": False} if "pin_memory" in kwargs else real_kwargs))
        if not (func.is_view or func in ALLOCATIONS or there):
            self.kernels.append(str(func))
        if leaves:
            return args[0] if packet is aten.copy_ else out
        out = tree_map(lambda value: OnDevice(value) if isinstance(value, torch.Tensor) else value, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if func._schema.returns else None

    def check(self, func, args, kwargs, hosts, leaves):
        """Raise what CUDA would; count what waits."""
        packet = func.overloadpacket
        if leaves:
            return self.wait("copy to the host")
        if packet in NEED_A_SIZE or packet is aten.repeat_interleave and len(args) < 2:
            self.wait(packet.__name__)
        if packet in FUSED:
            check_fused(packet, args)
        if packet in INDEXED:
            return self.check_index(packet, args)
        if hosts and packet in COPIES:
            pinned = all(host.untyped_storage().data_ptr() in PINNED for host in hosts)
            if not (pinned and (kwargs.get("non_blocking") or args[2:3] == (True,))):
                self.wait("copy to the device")
            return
        pointwise = torch.Tag.pointwise in func.tags or packet in SCALARS or packet in FUSED
        if any(host.ndim or not (pointwise or packet.__name__.startswith("_foreach")) for host in hosts):
            shapes = [tuple(host.shape) for host in hosts]
            raise RefusedByCuda(f"{packet.__name__}: CPU tensors {shapes} among those of the device, at {line()}")

    def check_index(self, packet, args):
        tensor, indices, *values = args
        if not isinstance(tensor, OnDevice):
            raise RefusedByCuda(f"{packet.__name__}: a CPU tensor indexed by one of the device, at {line()}")
        fills = bool(values) and values[0].numel() == 1  # a mask that is filled with one number
        for index in indices:
            if isinstance(index, OnDevice) and index.dtype in (torch.bool, torch.uint8) and not fills:
                self.wait("boolean mask")
            elif isinstance(index, torch.Tensor) and not isinstance(index, OnDevice):
                self.wait("index from the host")
        if values and not isinstance(values[0], OnDevice) and values[0].ndim:
            raise RefusedByCuda(f"{packet.__name__}: CPU values put into a tensor of the device, at {line()}")


class Graph:
    """In place of a CUDA graph: what it computes, by calls of the function; and what CUDA asks of a capture.

    Within it nothing may wait, and each call has to launch the same kernels.
    """

    def __init__(self, function, args):
        self.function, self.args, machine = function, args, ACTIVE[-1]
        for _ in range(captured.WARM_UPS):
            function(*args)
        waits, launched = machine.waits.copy(), len(machine.kernels)
        self.out = function(*args)
        self.kernels = machine.kernels[launched:]
        if machine.waits != waits:
            raise RuntimeError(f"operation not permitted when stream is capturing: {machine.waits - waits}")

    def replay(self):
        machine = ACTIVE[-1]
        waits, launched = machine.waits.copy(), len(machine.kernels)
        found = self.function(*self.args)
        if machine.kernels[launched:] != self.kernels or machine.waits != waits:
            raise RefusedByCuda(f"{self.function.__qualname__}: another call would launch other kernels, or wait")
        for old, new in zip(tree_leaves(self.out), tree_leaves(found), strict=True):
            if old is not None:
                old.copy_(new)


def check_fused(packet, args):
    """Raise where an optimiser's tensors of a parameter lie in memory in different orders."""
    for parameter, *others in zip(*(tensors for tensors in args[: FUSED[packet]] if tensors)):
        for other in others:
            pairs = zip(parameter.stride(), other.stride(), parameter.shape)
            if any(a != b for a, b, size in pairs if size > 1) or not is_dense(other):
                strides = f"{parameter.stride()} and {other.stride()}"
                raise RefusedByCuda(f"{packet.__name__}: a parameter and its state have strides {strides}, at {line()}")
