"""What distilling will cost, before it is started: `python -m stages cost SUITE`."""

from lib.config.checks import shape_of
from lib.config.load import load_params
from lib.data.sources import SOURCES
from lib.methods import METHODS
from lib.training.cost import describe, matmul_rate
from lib.training.experts import expert_bytes, expert_flops

from .inputs import device_of, with_precision

SUBSET = {"classes": 10, "train": 13000}  # about, of a subset of ImageNet


def stage(recipe, runtime):
    """Print each cell's work and the least time that it takes on this machine; its experts' before it, once."""
    params = load_params()
    tables, device, rates, described = vars(params), device_of(runtime), {}, {"none"}

    def source_of(row):
        dataset = params.datasets[row.dataset]
        return SUBSET if dataset.subset else SOURCES[dataset.source]

    for key, cell in params.cells.items():
        if cell.suite != recipe.key or params.datasets[cell.dataset].folder:
            continue
        cfg = with_precision(key, cell, device).distill
        for each in {cfg.conv_dtype, "float32"} - rates.keys():
            rates[each] = matmul_rate(each, device)
        if cell.experts not in described:
            described.add(cell.experts)
            row = params.experts[cell.experts]
            source, shape = source_of(row), shape_of(tables, row)
            work = describe(expert_flops(row, shape, source["train"]), 1, row.count, "float32", rates["float32"])
            disk = row.count * expert_bytes(row, shape, source["classes"]) / 1e9
            print(f"experts {cell.experts}: {work}; {disk:.1f} GB on disk", flush=True)
        flops = METHODS[cell.method].step_flops(
            cfg, shape_of(tables, cell), source_of(cell)["classes"] // cfg.class_steps
        )
        runs = len(cfg.seeds) * cfg.class_steps
        print(f"{key}: {describe(flops, cfg.steps, runs, cfg.conv_dtype, rates[cfg.conv_dtype])}", flush=True)
