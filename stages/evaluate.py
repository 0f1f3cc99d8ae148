"""Judge a cell's distilled sets on every network of its list: `python -m stages.evaluate CELL`."""

import time
from dataclasses import asdict

import torch

from lib.files import write_json
from lib.students import evaluate, krr_accuracy
from lib.synthetic import initial_sets, load_set

from .common import DISTILLED, EVALUATED, device_of, main, provenance, real_set, tracker


def stage(params, key):
    """Train fresh networks on each seed's set, and on the real images it started from, by the cell's protocol."""
    cell = params.cells[key]
    device, folder, cfg = device_of(params), DISTILLED / cell.suite / key, cell.evaluate
    prov, protocol = provenance(device), params.protocols[cfg.protocol]
    print(f"{key}: {cfg} {protocol}\n{prov}", flush=True)
    real = real_set(params, cell, device)
    kinds = {"distilled": "seed{}.safetensors", "best_checkpoint": "seed{}-best.safetensors"}
    if cell.distill.select == "last":
        del kinds["best_checkpoint"]
    seeds = cell.distill.seeds
    sets = {kind: [load_set(folder / name.format(s), real.shape, real.num_classes, device)[:2] for s in seeds] for kind, name in kinds.items()}
    sets["real_subset"] = [initial_sets(real, cell.distill, s) for s in seeds]
    x, y = (torch.stack([pair[i] for group in sets.values() for pair in group]) for i in (0, 1))
    results = {}
    with tracker("evaluate", key, {**asdict(protocol), "dataset": cell.dataset}, prov) as track:
        for net in cfg.nets:
            started = time.monotonic()
            accuracy = evaluate(net, x, y, real, protocol, seed=0)
            krr = krr_accuracy(net, x, y, real, seed=0)
            rows = {}
            for i, kind in enumerate(sets):
                part = slice(i * len(seeds), (i + 1) * len(seeds))
                rows[kind] = {"accuracy": accuracy[part].tolist(), "krr": krr[part].tolist()}  # [seed][network], [seed]
                track.log(0, {f"{net}/{kind}": accuracy[part].mean().item()})
                mean, std = accuracy[part].mean(), accuracy[part].std(correction=0)
                print(f"{net:14} {kind:16} {mean:6.2f} % +- {std:.2f}   KRR {krr[part].mean():6.2f} %", flush=True)
            results[net] = {**rows, "wall_s": round(time.monotonic() - started, 1)}
    write_json(EVALUATED / cell.suite / f"{key}.json", {"cell": key, "seeds": list(seeds), "nets": results, **prov})


if __name__ == "__main__":
    main(stage, "cells")
