"""The work of cells and of rows of experts, as numbers: floating-point operations, bytes, kernels."""

from lib.config.checks import shape_of
from lib.data.sources import SOURCES
from lib.evaluation.work import flops_of_evaluations
from lib.methods import METHODS
from lib.methods.example import work_of_step
from lib.training.experts import expert_bytes, expert_flops

from .precision import in_precision, with_precision

SUBSET = {"classes": 10, "train": 13000, "test": 500}  # about, of a subset of ImageNet


def work_of_experts(params, key):
    """The FLOPs of an expert, 1, how many they are, their dtype, bytes on the disk of all; None if not known."""
    row = params.experts[key]
    source, shape = source_of(params, row), shape_of(vars(params), row)
    if not source:
        return None
    size = row.count * expert_bytes(row, shape, source["classes"])
    return expert_flops(row, shape, source["train"]), 1, row.count, "float32", size


def work_of_cell(params, key, device=None):
    """The FLOPs of a step of a cell's distillation, its steps, runs, dtype (on a device); None if not known."""
    source = source_of(params, params.cells[key])
    if source is None:
        return None
    cell = with_precision(key, params.cells[key], device) if device else params.cells[key]
    cfg, shape = cell.distill, shape_of(vars(params), cell)
    flops = METHODS[cell.method].step_flops(cfg, shape, source["classes"] // cfg.class_steps)
    return flops, cfg.steps, len(cfg.seeds) * cfg.class_steps, cfg.conv_dtype


def work_of_evaluations(params, key, device=None):
    """(FLOPs, dtype) of a cell's evaluations during its runs, and of those of its finished sets; None if not known."""
    cell, source = params.cells[key], source_of(params, params.cells[key])
    if source is None:
        return None
    during, last = flops_of_evaluations(cell, params.protocols, shape_of(vars(params), cell), source)
    judge = in_precision(cell.evaluate, f"{key}.evaluate", device) if device else cell.evaluate
    return (during, "float32"), (last, judge.conv_dtype)


def step_on_gpu(params, key, counted):
    """What a step of a cell's distillation takes of an H100, as a sentence; None if not known.

    counted: the Work of steps by what it depends on, which is added to.
    """
    if (sizes := example_of(params, key)) is None:
        return None
    if (what := str(sizes)) not in counted:
        counted[what] = work_of_step(*sizes.values())
    method, cfg, shape, classes, *_ = sizes.values()
    return counted[what].describe(METHODS[method].step_flops(cfg, shape, classes), cfg.conv_dtype)


def example_of(params, key):
    """What lib.methods.example takes of a cell, by name; None if not known."""
    cell, source = params.cells[key], source_of(params, params.cells[key])
    if source is None:
        return None
    cfg = cell.distill.changed(seeds=None, eval_protocol=None, eval_at=None, eval_every=0)
    sizes = {"method": cell.method, "cfg": cfg, "shape": shape_of(vars(params), cell)}
    sizes |= {"classes": source["classes"] // cfg.class_steps, "train": source["train"], "pool": 0}
    if cell.experts != "none" and cfg.batches != "segments":
        sizes["pool"] = params.experts[cell.experts].count - params.experts[cell.experts].held_out
    return sizes


def source_of(params, row):
    """How many `classes` and `train`ing examples a row's dataset has; None for a folder of the user's own."""
    dataset = params.datasets[row.dataset]
    return None if dataset.folder else SUBSET if dataset.subset else SOURCES[dataset.source]
