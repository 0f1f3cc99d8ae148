"""What distilling will cost, before it is started: `python -m stages cost SUITE`."""

from functools import cache

from lib.config.checks import shape_of
from lib.config.load import load_params
from lib.data.sources import SOURCES
from lib.methods import METHODS
from lib.training.cost import describe, matmul_rate
from lib.training.experts import expert_bytes, expert_flops

from .inputs import device_of, with_precision

SUBSET = {"classes": 10, "train": 13000}  # about, of a subset of ImageNet
NOT_KNOWN = "cost: not known before `prepare` has counted the pictures of the folder"
rate_of = cache(matmul_rate)  # measured once for each dtype


def stage(recipe, runtime):
    """Print each cell's work and the least time that it takes on this machine; its experts' before it, once."""
    params, device, described = load_params(), device_of(runtime), {"none"}
    for key, cell in params.cells.items():
        if cell.suite != recipe.key:
            continue
        if cell.experts not in described:
            described.add(cell.experts)
            print(f"experts {cell.experts}: {cost_of_experts(params, cell.experts, device)}", flush=True)
        print(f"{key}: {cost_of_cell(params, key, device)}", flush=True)


def cost_of_experts(params, key, device):
    """The work of a row of experts and their room on the disk, as a sentence."""
    if not (work := work_of_experts(params, key)):
        return NOT_KNOWN
    return f"{describe(*work[:4], rate_of('float32', device))}; {work[4] / 1e9:.1f} GB on disk"


def work_of_experts(params, key):
    """The FLOPs of an expert, 1, how many they are, their dtype, bytes on the disk of all; None if not known."""
    row = params.experts[key]
    source, shape = source_of(params, row), shape_of(vars(params), row)
    if not source:
        return None
    size = row.count * expert_bytes(row, shape, source["classes"])
    return expert_flops(row, shape, source["train"]), 1, row.count, "float32", size


def cost_of_cell(params, key, device, repeats=9):
    """The work of a cell's distillation, all seeds, as a sentence. repeats: of the product that the rate is of."""
    work = work_of_cell(params, key, device)
    return describe(*work, rate_of(work[-1], device, repeats)) if work else NOT_KNOWN


def work_of_cell(params, key, device=None):
    """The FLOPs of a step of a cell's distillation, its steps, runs, dtype (on a device); None if not known."""
    source = source_of(params, params.cells[key])
    if source is None:
        return None
    cell = with_precision(key, params.cells[key], device) if device else params.cells[key]
    cfg, shape = cell.distill, shape_of(vars(params), cell)
    flops = METHODS[cell.method].step_flops(cfg, shape, source["classes"] // cfg.class_steps)
    return flops, cfg.steps, len(cfg.seeds) * cfg.class_steps, cfg.conv_dtype


def source_of(params, row):
    """How many `classes` and `train`ing examples a row's dataset has; None for a folder of the user's own."""
    dataset = params.datasets[row.dataset]
    return None if dataset.folder else SUBSET if dataset.subset else SOURCES[dataset.source]
