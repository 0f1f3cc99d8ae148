"""Class-incremental learning from a cell's distilled memory and from real ones: `python -m stages continual CELL`."""

import time
from dataclasses import asdict

import torch

from lib.continual import accuracies, curve, forgetting, herded_memory
from lib.data.real import class_groups
from lib.files import write_json
from lib.synthetic import load_set, real_subsets

from .common import DISTILLED, EVALUATED, device_of, provenance, real_set, tracker


def stage(params, key):
    """Train fresh networks after each step on what the steps so far have left, for each class order and each kind of memory."""
    row, cell, device = params.continual[key], params.cells[key], device_of(params)
    cfg, protocol, prov = cell.distill, params.protocols[row.protocol], provenance(device)
    print(f"{key}: {row} {protocol}\n{prov}", flush=True)
    real, folder, started = real_set(params, cell, device), DISTILLED / cell.suite / key, time.monotonic()
    memories = {
        "distilled": [load_set(folder / f"seed{s}.safetensors", real.shape, real.num_classes, device)[:2] for s in cfg.seeds],
        "random": [real_subsets(real, cfg, s) for s in cfg.seeds],
        "herding": [herded_memory(row.net, real, cfg, s, params.protocols[row.herding]) for s in cfg.seeds],
    }
    sizes = [[sum((real.test_y == c).sum().item() for c in group) for group in class_groups(real.num_classes, cfg.class_steps, s)] for s in cfg.seeds]
    kinds = {}
    with tracker("continual", key, {**asdict(protocol), **asdict(row)}, prov) as track:
        for kind, sets in memories.items():
            x, y = (torch.stack(tensors) for tensors in zip(*sets))
            table = accuracies(row.net, x, y, real, cfg, cfg.seeds, protocol, seed=0)
            curves = torch.stack([curve(one, torch.tensor(size)) for one, size in zip(table, sizes)])  # (orders, networks, steps)
            kinds[kind] = {"curves": curves.tolist(), "forgetting": forgetting(table).tolist()}
            for t, accuracy in enumerate(curves.mean((0, 1)).tolist()):
                track.log(t + 1, {f"{kind}/accuracy": accuracy})
            shown = ", ".join(f"{v:.1f}" for v in curves.mean((0, 1)))
            print(f"{kind:10} after each step: {shown} %; forgetting {forgetting(table).mean():.1f} points", flush=True)
    measured = {"cell": key, "num_classes": real.num_classes, "orders": list(cfg.seeds), "kinds": kinds, "wall_s": round(time.monotonic() - started, 1), **prov}
    write_json(EVALUATED / cell.suite / f"{key}.continual.json", measured)
