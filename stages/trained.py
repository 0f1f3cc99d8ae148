"""What a cell takes of its experts: their trajectories, or starts for its networks."""

from lib.data.trajectories import Trajectories
from lib.schema import TRAJECTORIES

from .common import EXPERTS


def experts_of(params, cell, num_nets, device):
    """(what the cell's method takes of its experts, by name; the weights (1, num_nets, P) from which evaluations start, or None).

    Evaluations start from trained networks where distillation does, from held-out ones, each as often as it takes to have `num_nets`.
    """
    if cell.experts is None:
        return {}, None
    experts, held_out = Trajectories(EXPERTS / cell.experts), params.experts[cell.experts].held_out
    if isinstance(cell.distill, TRAJECTORIES):
        return {"experts": experts}, None
    starts = None
    if cell.distill.start == "random":
        first = len(experts) - held_out
        starts = experts.last([first + i % held_out for i in range(num_nets)]).to(device)[None]
    return {"experts": experts, "held_out": held_out}, starts
