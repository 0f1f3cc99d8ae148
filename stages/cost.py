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
    row = params.experts[key]
    source, shape = source_of(params, row), shape_of(vars(params), row)
    if source is None:
        return NOT_KNOWN
    flops = expert_flops(row, shape, source["train"])
    work = describe(flops, 1, row.count, "float32", rate_of("float32", device))
    return f"{work}; {row.count * expert_bytes(row, shape, source['classes']) / 1e9:.1f} GB on disk"


def cost_of_cell(params, key, device, repeats=9):
    """The work of a cell's distillation, all seeds, as a sentence. repeats: of the product that the rate is of."""
    source = source_of(params, params.cells[key])
    if source is None:
        return NOT_KNOWN
    cell = with_precision(key, params.cells[key], device)
    cfg, shape = cell.distill, shape_of(vars(params), cell)
    flops = METHODS[cell.method].step_flops(cfg, shape, source["classes"] // cfg.class_steps)
    rate, runs = rate_of(cfg.conv_dtype, device, repeats), len(cfg.seeds) * cfg.class_steps
    return describe(flops, cfg.steps, runs, cfg.conv_dtype, rate)


def source_of(params, row):
    """How many `classes` and `train`ing examples a row's dataset has; None for a folder of the user's own."""
    dataset = params.datasets[row.dataset]
    return None if dataset.folder else SUBSET if dataset.subset else SOURCES[dataset.source]
