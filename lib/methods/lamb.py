"""LAMB (You et al., 2020, arXiv 1904.00962) as optax has it: FRePo's optimiser of the synthetic set."""

import torch

BETAS, EPS = (0.9, 0.999), 1e-6


class Lamb(torch.optim.Optimizer):
    """Adam's direction u for each tensor p, as long as p: p <- p - lr * |p| / |u| * u.

    No weight decay, no clipping, no limit on |p| / |u|, which counts as 1 where either is 0.
    """

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(self._direction(p), alpha=-group["lr"])

    def _direction(self, p):
        state = self.state[p]
        if not state:
            state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        state["step"] += 1
        (first, second), step = BETAS, state["step"].item()
        mean = state["exp_avg"].lerp_(p.grad, 1 - first)
        square = state["exp_avg_sq"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
        u = (mean / (1 - first**step)).div_((square.sqrt() / (1 - second**step) ** 0.5).add_(EPS))
        lengths = p.norm(), u.norm()
        return u.mul_(torch.where(torch.stack(lengths).all(), lengths[0] / lengths[1], 1.0))
