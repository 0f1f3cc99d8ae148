"""Class-incremental learning from a cell's distilled memory and from real ones: `python -m stages continual CELL`."""

import time

import torch

from lib.data.real import class_groups
from lib.evaluation.continual import accuracies, curve, forgetting, herded_memory
from lib.records import write_metrics
from lib.synthetic.initial import real_subsets
from lib.synthetic.set import load_set
from lib.training.students import threads_for

from .common import DISTILLED, EVALUATED, provenance, tracker
from .distilled import sets_at
from .inputs import device_of, real_set


def stage(recipe, runtime):
    """Train fresh networks after each step on the memory so far, for each class order and each kind of memory."""
    key, row, cell, device = recipe.key, recipe.row, recipe.cell, device_of(runtime)
    cfg, protocol, real, started = cell.distill, recipe.protocols.protocol, real_set(cell, device), time.monotonic()
    threads_for([row.net], real.shape, protocol.batch, protocol.num_nets, device)
    folder, prov = DISTILLED / cell.suite / key, provenance(device)
    print(f"{key}: {row} {protocol}\n{prov}", flush=True)
    memories = {
        "distilled": [load_set(path, real.shape, real.num_classes, device)[:2] for path in sets_at(folder, cfg.seeds)],
        "random": [real_subsets(real, cfg, seed) for seed in cfg.seeds],
        "herding": [herded_memory(row.net, real, cfg, seed, recipe.protocols.herding) for seed in cfg.seeds],
    }
    if row.blocked:
        memories["blocked"] = memories["distilled"]
    tested = real.test_y.bincount(minlength=real.num_classes)
    groups = [class_groups(real.num_classes, cfg.class_steps, seed) for seed in cfg.seeds]
    sizes = torch.stack([tested[torch.tensor(order)].sum(1).cpu() for order in groups])  # (orders, steps) test images
    kinds, means = {}, {"accuracy": {}, "forgetting": {}}
    with tracker("continual", key, {**vars(protocol), **vars(row)}, prov) as track:
        for kind, sets in memories.items():
            x, y = (torch.stack(tensors) for tensors in zip(*sets))
            protocol = recipe.protocols.protocol.changed(**({"shuffle": False} if kind == "blocked" else {}))
            table = accuracies(row.net, x, y, real, cfg, cfg.seeds, protocol, seed=0)
            curves = torch.stack([curve(*each) for each in zip(table, sizes)])  # (orders, networks, steps)
            lost = forgetting(table)
            kinds[kind] = {"curves": curves.tolist(), "forgetting": lost.tolist()}
            mean = curves.mean((0, 1)).tolist()
            means["accuracy"][kind], means["forgetting"][kind] = round(mean[-1], 2), round(lost.mean().item(), 2)
            for t, accuracy in enumerate(mean):
                track.log(t + 1, {f"{kind}/accuracy": accuracy})
            shown = ", ".join(f"{accuracy:.1f}" for accuracy in mean)
            print(f"{kind:10} after each step: {shown} %; forgetting {lost.mean():.1f} points", flush=True)
    record = {"cell": key, "num_classes": real.num_classes, "orders": cfg.seeds, "kinds": kinds}
    record |= {"wall_s": round(time.monotonic() - started, 1), **prov}
    write_metrics(EVALUATED / cell.suite / f"{key}.continual.json", means, record)
