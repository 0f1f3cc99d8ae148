"""Judge a cell's distilled sets on every network of its list: `python -m stages evaluate CELL`."""

import time
from dataclasses import asdict

import torch

from lib.baselines import real_baselines, when_moved
from lib.files import write_json
from lib.students import evaluate, krr_accuracy
from lib.synthetic import DistilledSet, load_set, real_subsets, stacked

from .common import DISTILLED, EVALUATED, device_of, provenance, real_set, tracker
from .trained import experts_of


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
    sets = {kind: [load_set(folder / name.format(s), real.shape, real.num_classes, device) for s in seeds] for kind, name in kinds.items()}
    sets["real_subset"] = [DistilledSet(*real_subsets(real, cell.distill, s)) for s in seeds]
    scheduled = protocol.optimizer == "schedule"
    for i, own in enumerate(sets["distilled"]):
        if own.lr is not None:  # real images are trained on at the protocol's rate
            sets["real_subset"][i] = sets["real_subset"][i]._replace(lr=torch.full_like(own.lr, protocol.lr), start=own.start)
    _, starts = experts_of(params, cell, protocol.num_nets, device)
    stacks = {kind: stacked(each) for kind, each in sets.items()}
    results = {}
    with tracker("evaluate", key, {**asdict(protocol), "dataset": cell.dataset}, prov) as track:
        for net in cfg.nets:
            started = time.monotonic()
            rows = {}
            for group in by_size(stacks):
                x, y, lr, start = (None if t[0] is None else torch.cat(t) for t in zip(*(stacks[kind] for kind in group)))
                accuracy = evaluate(net, x, y, real, protocol, 0, lr, start if starts is None else starts.expand(len(x), -1, -1))
                krr = torch.full((len(x),), torch.nan) if scheduled else krr_accuracy(net, x, y, real, seed=0)
                for kind, own, own_krr in zip(group, accuracy.split(len(seeds)), krr.split(len(seeds))):
                    rows[kind] = {"accuracy": own.tolist(), "krr": None if scheduled else own_krr.tolist()}  # [seed][network], [seed]
                    track.log(0, {f"{net}/{kind}": own.mean().item()})
                    print(f"{net:14} {kind:16} {own.mean():6.2f} % +- {own.std(correction=0):.2f}   KRR {own_krr.mean():6.2f} %", flush=True)
            if cfg.baselines:
                rows["baselines"] = real_baselines(net, sets["distilled"], real, cell.distill, starts, protocol.num_nets)
            if stacks["distilled"].start is not None:
                rows["moved"] = when_moved(net, sets["distilled"], real, 0)
            results[net] = {**rows, "wall_s": round(time.monotonic() - started, 1)}
    write_json(EVALUATED / cell.suite / f"{key}.json", {"cell": key, "seeds": list(seeds), "nets": results, **prov})


def by_size(stacks):
    """Kinds of sets, in groups of equal size, which are evaluated together: a low-rank set has more images than its memory has pixels for."""
    sizes = {kind: stack.x.shape[1] for kind, stack in stacks.items()}
    return [[kind for kind in stacks if sizes[kind] == size] for size in dict.fromkeys(sizes.values())]
