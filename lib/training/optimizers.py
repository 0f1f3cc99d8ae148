"""Optimisers of networks whose state is there from the start and stays where it lies, as a CUDA graph needs it."""

import torch


def adam(params, lr, betas=(0.9, 0.999)):
    """PyTorch's Adam in one kernel."""
    params = list(params)
    device = params[0].device
    fused, capturable = device.type != "meta", device.type == "cuda"  # meta has no such kernel
    optimizer = torch.optim.Adam(params, rate(lr, device), betas, fused=fused, capturable=capturable)
    for p in params:
        step = torch.zeros((), dtype=torch.float32, device=device if fused else "cpu")
        optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimizer


def sgd(params, lr, momentum, weight_decay):
    """PyTorch's SGD with momentum in one kernel."""
    params = list(params)
    lr = rate(lr, params[0].device)
    optimizer = torch.optim.SGD(params, lr, momentum, weight_decay=weight_decay, fused=True)
    for p in params:
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def rate(lr, device):
    """A learning rate as an optimiser takes it: on a GPU as a tensor, which `set_rate` can change in a CUDA graph."""
    return torch.tensor(float(lr), device=device) if device.type == "cuda" else lr


def set_rate(optimizer, lr):
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def state_of(optimizer):
    """All tensors of an optimiser's state."""
    return [tensor for state in optimizer.state.values() for tensor in state.values()]


@torch.no_grad()
def load_state(optimizer, saved):
    """Take over the values of a saved `state_dict()`; where it lacks some, they are those of the start."""
    forget(optimizer)
    ours = optimizer.state_dict()["state"]
    for index, state in saved["state"].items():
        for name, value in state.items():
            ours[index][name].copy_(value)


@torch.no_grad()
def forget(optimizer):
    """Put an optimiser's state back to its start."""
    for tensor in state_of(optimizer):
        tensor.zero_()
