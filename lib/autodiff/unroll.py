"""A network's training as a differentiable function of its start and of its training set, in constant memory.

Training by gradient descent is a recursion state <- step(t, state, inputs). Back-propagation through time (reference
sheets of dataset distillation, section 2, and of trajectory matching, section 6) would keep the graph of every step.
`unroll` keeps only the states and rebuilds each step's graph on the way back: exact, and as large as one step.
"""

import torch
from torch.func import functional_call, vmap

from .captured import Captured


class Flat:
    """A network as a function of one flat weight vector, in the order of its parameters; buffers do not change."""

    def __init__(self, net):
        self.net = net
        self.shapes = {name: p.shape for name, p in net.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    def __len__(self):
        return sum(self.sizes)

    def weights(self, generator):
        """Fresh weights (P,) drawn from `generator`; the module holds the same values."""
        self.net.reset(generator)
        return torch.cat([p.detach().flatten() for p in self.net.parameters()])

    def one(self, theta, x):
        """Outputs (B, C) of one network, theta (P,), on x (B, ...)."""
        params = {name: p.view(s) for p, (name, s) in zip(theta.split(self.sizes), self.shapes.items())}
        return functional_call(self.net, params, (x,))

    def __call__(self, theta, x):
        """Outputs (K, B, C) of K networks, theta (K, P), on shared x (B, ...)."""
        if len(theta) == 1:
            return self.one(theta[0], x)[None]
        return vmap(self.one, (0, None), randomness="different")(theta, x)


def gradient(loss, theta, frozen=False):
    """d loss(theta) / d theta, itself differentiable in grad mode.

    frozen: as if theta were a constant when this is differentiated (TESLA's approximation: no Hessian-vector products).
    """
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        if frozen or not recording:
            theta = theta.detach().requires_grad_()
        return torch.autograd.grad(loss(theta), theta, create_graph=recording)[0]


class Core:
    """The part of a step that has a step's work: function(*state, *arguments) -> the next state's tensors.

    It is differentiable, of tensors alone and the same for all steps, so that a GPU can replay it and its
    vector-Jacobian product as CUDA graphs (`capture`).
    """

    def __init__(self, function, capture=True):
        self.function = function
        self.forward, self.backward = Captured(self._forward, capture), Captured(self._backward, capture)

    @torch.no_grad()
    def _forward(self, *tensors):
        return self.function(*tensors)

    def _backward(self, needed, adjoint, *tensors):
        """The adjoint of those of state and arguments that are `needed`; the last `adjoint` tensors: the result's."""
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(need) for t, need in zip(tensors, needed)]
            outputs = self.function(*leaves)
            options = {"allow_unused": True, "materialize_grads": True}
            return torch.autograd.grad(outputs, [t for t in leaves if t.requires_grad], tensors[-adjoint:], **options)


class Step:
    """A step for `unroll`: a Core's, with what arguments(t, *inputs) takes of the inputs, differentiably."""

    def __init__(self, core, arguments):
        self.core, self.arguments = core, arguments

    def __call__(self, t, state, *inputs):
        return self.core.forward(*state, *self.arguments(t, *inputs))

    def pullback(self, t, state, inputs, adjoint, totals):
        """The adjoint before step t; adds the step's gradients by its inputs to `totals`, None where none is needed."""
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_(total is not None) for x, total in zip(inputs, totals)]
            arguments = self.arguments(t, *inputs)
        needed = (*[True] * len(state), *(argument.requires_grad for argument in arguments))
        values = [argument.detach() for argument in arguments]
        found = self.core.backward(needed, len(adjoint), *state, *values, *adjoint)
        outputs, leaves = ([t for t in tensors if t.requires_grad] for tensors in (arguments, inputs))
        if outputs:
            options = {"allow_unused": True, "materialize_grads": True}
            grads = torch.autograd.grad(outputs, leaves, found[len(state) :], **options)
            for total, grad in zip((total for total in totals if total is not None), grads):
                total += grad
        return found[: len(state)]


class _Unroll(torch.autograd.Function):
    """The two passes of `unroll`; the first `count` tensors are the state, the others the inputs."""

    @staticmethod
    def forward(ctx, step, steps, count, *tensors):
        state, inputs = tensors[:count], tensors[count:]
        ctx.step, ctx.inputs, ctx.states = step, inputs, []
        for t in range(steps):
            ctx.states.append(state)
            state = step(t, state, *inputs)
        return tuple(s.clone() for s in state) if not steps else state

    @staticmethod
    def backward(ctx, *adjoint):
        needed = ctx.needs_input_grad[3 + len(adjoint) :]
        totals = [torch.zeros_like(x) if need else None for x, need in zip(ctx.inputs, needed)]
        if hasattr(ctx.step, "pullback"):
            for t in reversed(range(len(ctx.states))):
                adjoint = ctx.step.pullback(t, ctx.states[t], ctx.inputs, adjoint, totals)
            return None, None, None, *adjoint, *totals
        inputs = [x.detach().requires_grad_(need) for x, need in zip(ctx.inputs, needed)]
        leaves = [x for x in inputs if x.requires_grad]
        for t in reversed(range(len(ctx.states))):
            with torch.enable_grad():
                state = [s.detach().requires_grad_() for s in ctx.states[t]]
                outputs = ctx.step(t, tuple(state), *inputs)
                options = {"allow_unused": True, "materialize_grads": True}
                grads = torch.autograd.grad(outputs, (*state, *leaves), adjoint, **options)
            adjoint = grads[: len(state)]
            for total, grad in zip((total for total in totals if total is not None), grads[len(state) :]):
                total += grad
        return None, None, None, *adjoint, *totals


def unroll(step, steps, state, *inputs):
    """The state after `steps` calls state = step(t, state, *inputs); differentiable in the first state and the inputs.

    state: a tuple of tensors. step: differentiable, with the same result whenever it is called with the same t, so its
    random numbers are drawn before. Memory: all states and the graph of one step.
    A step may have its own vector-Jacobian product, pullback(t, state, inputs, adjoint, totals) -> the adjoint before
    it (Step; by hand in layerwise.py). It adds the gradients by the inputs to `totals`, None where not needed.
    """
    return _Unroll.apply(step, steps, len(state), *state, *inputs)
