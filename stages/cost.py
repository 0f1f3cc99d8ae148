"""What distilling will cost, before it is started: `python -m stages cost SUITE`."""

from lib.cost import describe, matmul_rate
from lib.experts import expert_bytes, expert_flops
from lib.methods import METHODS
from lib.params import shape_of
from lib.schema import KNOWN_SOURCES

from .common import device_of

SUBSET = (10, 13000)  # classes and about so many training images of a subset of ImageNet


def stage(params, suite):
    """Print each cell's work and the least time that it takes on this machine, and before the first that needs them, its experts'."""
    device, rates, said = device_of(params), {}, set()
    for key, cell in params.cells.items():
        cfg, dataset = cell.distill, params.datasets[cell.dataset]
        if cell.suite != suite or dataset.folder:
            continue
        classes = SUBSET[0] if dataset.subset else KNOWN_SOURCES[dataset.source][1]
        shape = shape_of(cell, params.datasets, params.preprocessing)
        for dtype in {cfg.conv_dtype, "float32"} - rates.keys():
            rates[dtype] = matmul_rate(dtype, device)
        if cell.experts and cell.experts not in said:
            said.add(cell.experts)
            row = params.experts[cell.experts]
            where = params.datasets[row.dataset]
            count = SUBSET[1] if where.subset else KNOWN_SOURCES[where.source][3]
            size = shape_of(row, params.datasets, params.preprocessing)
            work, disk = expert_flops(row, size, count), row.count * expert_bytes(row, size, classes) / 1e9
            print(f"experts {cell.experts}: {describe(work, 1, row.count, 'float32', rates['float32'])}; {disk:.1f} GB on disk", flush=True)
        work = METHODS[cell.method].step_flops(cfg, shape, classes // cfg.class_steps)
        print(f"{key}: {describe(work, cfg.steps, len(cfg.seeds) * cfg.class_steps, cfg.conv_dtype, rates[cfg.conv_dtype])}", flush=True)
