"""What distilling will cost, before it is started: `python -m stages cost SUITE`, with `--gpu` what a GPU needs."""

from functools import cache

from lib.config.load import load_params
from lib.training.cost import describe, describe_evaluations, matmul_rate

from .inputs import device_of
from .work import step_on_gpu, work_of_cell, work_of_evaluations, work_of_experts

NOT_KNOWN = "cost: not known before `prepare` has counted the pictures of the folder"
rate_of = cache(matmul_rate)  # measured once for each dtype


def stage(recipe, runtime, gpu=False):
    """Print each cell's work and the least time that it takes on this machine; its experts' before it, once.

    gpu: and what a step takes of an H100, counted at full size without computing.
    """
    params, device, described, counted = load_params(), device_of(runtime), {"none"}, {}
    for key, cell in params.cells.items():
        if cell.suite != recipe.key:
            continue
        if cell.experts not in described:
            described.add(cell.experts)
            print(f"experts {cell.experts}: {cost_of_experts(params, cell.experts, device)}", flush=True)
        print(f"{key}: {cost_of_cell(params, key, device)}", flush=True)
        if gpu and (step := step_on_gpu(params, key, counted)):
            print(f"    {step}", flush=True)


def cost_of_experts(params, key, device):
    """The work of a row of experts and their room on the disk, as a sentence."""
    if not (work := work_of_experts(params, key)):
        return NOT_KNOWN
    return f"{describe(*work[:4], rate_of('float32', device))}; {work[4] / 1e9:.1f} GB on disk"


def cost_of_cell(params, key, device, repeats=9):
    """The work of a cell, all seeds and evaluations, as a sentence. repeats: of the product that the rate is of."""
    if not (work := work_of_cell(params, key, device)):
        return NOT_KNOWN
    evaluations = work_of_evaluations(params, key, device)
    evaluations = describe_evaluations(*((flops, rate_of(dtype, device, repeats)) for flops, dtype in evaluations))
    return f"{describe(*work, rate_of(work[-1], device, repeats))}; {evaluations}"
