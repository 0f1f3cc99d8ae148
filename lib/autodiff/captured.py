"""Functions of tensors that a GPU replays as CUDA graphs: one launch in place of hundreds, each of which takes 5 us.

On a CPU they are called as they are.
"""

import warnings

import torch
from torch.utils._pytree import tree_map

WARM_UPS = 3  # calls before a capture, in which libraries choose their algorithms and allocate what they keep


class CudaGraph:
    """The kernels that function(*args) launches, to be launched again at once; `out`: its results, in place.

    All graphs share one pool of memory, so that the next replay of any may overwrite them: `Captured` copies them.
    """

    pool = None

    def __init__(self, function, args):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function(*args)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph, CudaGraph.pool = torch.cuda.CUDAGraph(), CudaGraph.pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(self.graph, pool=CudaGraph.pool):
            self.out = function(*args)

    def replay(self):
        self.graph.replay()


GRAPHS = {"cuda": CudaGraph}  # by the device's type; where there is none, functions are called as they are


class Captured:
    """A function that is captured once for the shapes of its tensors and the values of its other arguments.

    It returns tensors, alone or in tuples, depends on nothing but its arguments and on tensors that stay where they
    are, and decides nothing by a tensor's values. changes: of the same arguments, the tensors that it changes in place.
    on: whether it may be captured. A capture that fails is told once; the function is then called as it is.
    """

    def __init__(self, function, on=True, changes=lambda *args: ()):
        self.function, self.on, self.changes, self.graphs = function, on, changes, {}

    def on_device(self, device):
        """Whether calls with tensors of the device are replayed."""
        return self.on and device.type in GRAPHS

    def __call__(self, *args):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if not self.on_device(tensors[0].device):
            return self.function(*args)
        key = tuple((a.shape, a.stride(), a.dtype) if isinstance(a, torch.Tensor) else a for a in args)
        if key not in self.graphs and not self.capture(key, args, tensors[0].device):
            return self.function(*args)
        static, graph = self.graphs[key]
        for ours, given in zip(static, tensors):
            ours.copy_(given)
        graph.replay()
        return tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, graph.out)

    def capture(self, key, args, device):
        """Capture the function for these arguments -> whether that went well."""
        copies = [arg.detach().clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        changed = self.changes(*args)
        before = [tensor.detach().clone() for tensor in changed]
        try:
            graph = GRAPHS[device.type](self.function, copies)
        except RuntimeError as error:
            self.on = False
            name = getattr(self.function, "__qualname__", self.function)
            reason = str(error).partition("\n")[0]
            warnings.warn(f"{name}: not captured as a CUDA graph, and slower without: {reason}", stacklevel=2)
            return False
        finally:  # the warm-ups changed them
            with torch.no_grad():
                for tensor, value in zip(changed, before):
                    tensor.copy_(value)
        self.graphs[key] = [copy for copy in copies if isinstance(copy, torch.Tensor)], graph
        return True
