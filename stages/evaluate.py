"""Judge a cell's distilled sets on every network of its list: `python -m stages evaluate CELL`. Judged ones stay."""

import time

import torch

from lib.evaluation.accuracy import by_size, stack_accuracies, whole_set_accuracy
from lib.evaluation.baselines import real_baselines
from lib.evaluation.perturbation import perturbed_accuracies
from lib.files import read_json, write_json
from lib.records import write_metrics
from lib.synthetic.set import stacked
from lib.training.checkpoint import Saving
from lib.training.students import threads_for

from .checkpoints import Workplace
from .common import DISTILLED, EVALUATED, provenance, tracker
from .distilled import sets_of
from .how_far import say_how_far
from .identity import inputs_of_evaluation
from .inputs import device_of, experts_of, real_set
from .precision import judged_in


def stage(recipe, runtime):
    """Train fresh networks on each seed's set, and on the real images it started from, by the cell's protocol."""
    key, cell, device, protocol = recipe.key, recipe.cell, device_of(runtime), recipe.protocol
    recipe, real = judged_in(recipe, device), real_set(cell, device)
    folder, seeds, nets = DISTILLED / cell.suite / key, cell.distill.seeds, recipe.evaluate.nets
    sets = sets_of(cell, protocol, folder, real, device)
    threads_for(nets, real.shape, len(sets["distilled"][0].x), protocol.num_nets * len(seeds), device)
    prov = provenance(device) | {"conv_dtype": recipe.evaluate.conv_dtype}
    print(f"{key}: {recipe.evaluate} {protocol}\n{prov}", flush=True)
    _, starts = experts_of(recipe, runtime, protocol.num_nets, device)
    stacks, minutes = {kind: stacked(each) for kind, each in sets.items()}, runtime.checkpoint_minutes
    work = Workplace(*inputs_of_evaluation(recipe, sorted(folder.glob("*.safetensors"))))
    missing = [net for net in nets if not work.finished(net)]
    print(f"networks that are there: {[net for net in nets if net not in missing]}; to judge: {missing}", flush=True)
    with tracker("evaluate", key, {**vars(protocol), "dataset": cell.dataset}, prov) as track:
        for net in missing:
            groups = {f"{net} on {kinds[0]}": {kind: stacks[kind] for kind in kinds} for kinds in by_size(stacks)}
            savings = [Saving(work.checkpoint(name), minutes) for name in groups]
            rows = judged(net, recipe, sets, [*zip(groups.values(), savings)], real, starts)
            track.log(0, {f"{net}/{kind}": value for kind, value in means(rows).items()})
            write_json(path := work.done / f"{net}.json", rows)
            work.finish(net, dict(prov), [path])
            for saving in savings:
                saving.checkpoint.remove()
    record = {"cell": key, "seeds": seeds, "nets": {net: read_json(work.done / f"{net}.json") for net in nets}, **prov}
    accuracy = {net: {kind: round(mean, 2) for kind, mean in means(record["nets"][net]).items()} for net in nets}
    write_metrics(EVALUATED / cell.suite / f"{key}.json", {"accuracy": accuracy}, record)
    say_how_far(cell.suite)


def judged(net, recipe, sets, groups, real, starts):
    """What a network's accuracies are on each kind of set, {kind: {"accuracy": [seed][network], ...}}, and the time.

    groups: of kinds of sets of one size, ({kind: sets of all seeds, stacked}, the Saving of their training).
    """
    cfg, dtype, started, rows = recipe.cell.distill, recipe.evaluate.conv_dtype, time.monotonic(), {}
    for stacks, saving in groups:
        rows |= stack_accuracies(net, stacks, real, recipe.protocol, starts, saving, dtype)
    for kind, row in rows.items():
        spread = (f"{name} {each.mean():.2f} % +- {each.std(correction=0):.2f}" for name, each in row.items())
        print(f"{net:14} {kind:16} {', '.join(spread)}", flush=True)
        rows[kind] = {name: each.tolist() for name, each in row.items()}  # krr: [seed]
    if recipe.evaluate.baselines:
        rows["baselines"] = real_baselines(net, sets["distilled"], real, cfg, starts, recipe.protocol.num_nets)
    if sets["distilled"][0].start is not None:
        rows["perturbed"] = perturbed_accuracies(net, sets["distilled"], real, 0)
    if whole := vars(recipe).get("whole"):
        rows["whole_set"] = {"accuracy": whole_set_accuracy(net, real, cfg.labels, whole, dtype).tolist()}
        print(f"{net:14} {'whole_set':16} {means(rows)['whole_set']:.2f} %", flush=True)
    return {**rows, "wall_s": round(time.monotonic() - started, 1)}


def means(rows):
    """{kind of set: mean accuracy in percent} of what `judged` returns."""
    kinds = [kind for kind, row in rows.items() if kind not in ("baselines", "perturbed", "wall_s")]
    return {kind: torch.tensor(rows[kind]["accuracy"]).mean().item() for kind in kinds}
