"""What distilling will cost, before it is started: `python -m stages.cost SUITE`."""

from lib.cost import describe, matmul_rate
from lib.methods import METHODS
from lib.params import shape_of
from lib.schema import KNOWN_SOURCES

from .common import device_of, main


def stage(params, suite):
    """Print each cell's work and the least time that it takes on this machine."""
    device, rates = device_of(params), {}
    for key, cell in params.cells.items():
        cfg, dataset = cell.distill, params.datasets[cell.dataset]
        if cell.suite != suite or not dataset.source:
            continue
        if cfg.conv_dtype not in rates:
            rates[cfg.conv_dtype] = matmul_rate(cfg.conv_dtype, device)
        work = METHODS[cell.method].step_flops(cfg, shape_of(cell, params.datasets, params.preprocessing), KNOWN_SOURCES[dataset.source][1] // cfg.class_steps)
        runs = len(cfg.seeds) * cfg.class_steps
        print(f"{key}: {describe(work, cfg.steps, runs, cfg.conv_dtype, rates[cfg.conv_dtype])}", flush=True)


if __name__ == "__main__":
    main(stage, "suites")
