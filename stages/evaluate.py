"""Judge a cell's distilled sets on every network of its list: `python -m stages evaluate CELL`."""

import time
from dataclasses import asdict

import torch

from lib.baselines import real_baselines, when_moved
from lib.files import write_json
from lib.students import krr_accuracy, trained
from lib.synthetic import DistilledSet, load_set, real_subsets, stacked

from .common import DISTILLED, EVALUATED, device_of, provenance, real_set, tracker
from .trained import experts_of

PUBLISHED_THRESHOLD = 0.5  # of a single logit: what DD's and TDD's code has in place of 0 (the sheet, section 15)


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
                students = trained(net, x, y, real, protocol, 0, lr, start if starts is None else starts.expand(len(x), -1, -1))
                found = {"accuracy": students.accuracy(real.test_x, real.test_y).view(len(x), -1).cpu()}
                if y.shape[-1] == 1:
                    found["at_half"] = students.accuracy(real.test_x, real.test_y, PUBLISHED_THRESHOLD).view(len(x), -1).cpu()
                if not scheduled:
                    found["krr"] = krr_accuracy(net, x, y, real, seed=0)
                for i, kind in enumerate(group):
                    own = {name: each.split(len(seeds))[i] for name, each in found.items()}  # [seed][network]; krr: [seed]
                    rows[kind] = {name: each.tolist() for name, each in own.items()}
                    track.log(0, {f"{net}/{kind}": own["accuracy"].mean().item()})
                    spread = ", ".join(f"{name} {each.mean():.2f} % +- {each.std(correction=0):.2f}" for name, each in own.items())
                    print(f"{net:14} {kind:16} {spread}", flush=True)
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
