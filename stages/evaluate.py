"""Judge a cell's distilled sets on every network of its list: `python -m stages evaluate CELL`."""

import time

import torch

from lib.evaluation.accuracy import by_size, stack_accuracies, whole_set_accuracy
from lib.evaluation.baselines import real_baselines
from lib.evaluation.perturbation import perturbed_accuracies
from lib.records import write_metrics
from lib.synthetic.initial import real_subsets
from lib.synthetic.set import DistilledSet, load_set, stacked
from lib.training.students import threads_for

from .common import DISTILLED, EVALUATED, provenance, tracker
from .distilled import sets_at
from .how_far import say_how_far
from .inputs import device_of, experts_of, real_set


def stage(recipe, runtime):
    """Train fresh networks on each seed's set, and on the real images it started from, by the cell's protocol."""
    key, cell, device, protocol = recipe.key, recipe.cell, device_of(runtime), recipe.protocol
    real = real_set(cell, device)
    sets = sets_of(cell, protocol, DISTILLED / cell.suite / key, real, device)
    images, networks = len(sets["distilled"][0].x), protocol.num_nets * len(cell.distill.seeds)
    threads_for(recipe.evaluate.nets, real.shape, images, networks, device)
    prov = provenance(device)
    print(f"{key}: {recipe.evaluate} {protocol}\n{prov}", flush=True)
    _, starts = experts_of(recipe, runtime, protocol.num_nets, device)
    stacks, results, means = {kind: stacked(each) for kind, each in sets.items()}, {}, {}
    with tracker("evaluate", key, {**vars(protocol), "dataset": cell.dataset}, prov) as track:
        for net in recipe.evaluate.nets:
            started, rows = time.monotonic(), {}
            for kinds in by_size(stacks):
                rows |= stack_accuracies(net, {kind: stacks[kind] for kind in kinds}, real, protocol, starts)
            means[net] = {kind: round(row["accuracy"].mean().item(), 2) for kind, row in rows.items()}
            for kind, row in rows.items():
                track.log(0, {f"{net}/{kind}": row["accuracy"].mean().item()})
                spread = (f"{name} {each.mean():.2f} % +- {each.std(correction=0):.2f}" for name, each in row.items())
                print(f"{net:14} {kind:16} {', '.join(spread)}", flush=True)
                rows[kind] = {name: each.tolist() for name, each in row.items()}  # [seed][network]; krr: [seed]
            if recipe.evaluate.baselines:
                cfg = cell.distill
                rows["baselines"] = real_baselines(net, sets["distilled"], real, cfg, starts, protocol.num_nets)
            if stacks["distilled"].start is not None:
                rows["perturbed"] = perturbed_accuracies(net, sets["distilled"], real, 0)
            if whole := vars(recipe).get("whole"):
                accuracy = whole_set_accuracy(net, real, cell.distill.labels, whole)
                rows["whole_set"] = {"accuracy": accuracy.tolist()}
                means[net]["whole_set"] = round(accuracy.mean().item(), 2)
                print(f"{net:14} {'whole_set':16} {accuracy.mean():.2f} %", flush=True)
            results[net] = {**rows, "wall_s": round(time.monotonic() - started, 1)}
    record = {"cell": key, "seeds": cell.distill.seeds, "nets": results, **prov}
    write_metrics(EVALUATED / cell.suite / f"{key}.json", {"accuracy": means}, record)
    say_how_far(cell.suite)


def sets_of(cell, protocol, folder, real, device):
    """{kind: a DistilledSet of each seed}: distilled, of the best checkpoint where it was kept, and real images."""
    kinds, seeds = {"distilled": "seed{}.safetensors", "best_checkpoint": "seed{}-best.safetensors"}, cell.distill.seeds
    if cell.distill.select == "last":
        del kinds["best_checkpoint"]
    sets = {
        kind: [load_set(path, real.shape, real.num_classes, device) for path in sets_at(folder, seeds, name)]
        for kind, name in kinds.items()
    }
    subsets = [DistilledSet(*real_subsets(real, cell.distill, seed)) for seed in seeds]
    for i, distilled in enumerate(sets["distilled"]):
        if distilled.lr is not None:  # real images are trained on at the protocol's rate
            lr = torch.full_like(distilled.lr, protocol.lr)
            subsets[i] = subsets[i]._replace(lr=lr, start=distilled.start)
    return {**sets, "real_subset": subsets}
