"""Distil one cell, all its seeds: `python -m stages distill CELL`. Interrupted, it goes on from its last checkpoint; seeds that are there stay."""

import shutil
from dataclasses import asdict, replace

from lib import cost
from lib.data.real import batches_for, part_of
from lib.data.trajectories import INDEX
from lib.files import read_json, sha256, write_json
from lib.loop import run
from lib.methods import METHODS
from lib.params import check_against_data
from lib.report.figures import save_preview
from lib.rng import generator
from lib.students import evaluate
from lib.synthetic import SyntheticSet, rendered, run_name, save_set, stacked

from .checkpoints import checkpoint_folder, kept_seeds
from .common import DISTILLED, EXPERTS, device_of, provenance, real_set, stop_on_signals, tracker
from .trained import experts_of, start_of


def stage(params, key):
    """Distil one cell of params.yaml into OUT/seedN.safetensors, history.json and a gallery."""
    cell, device = params.cells[key], device_of(params)
    cfg, prov, out = cell.distill, provenance(device), DISTILLED / cell.suite / key
    print(f"{key}: {cell}\n{prov}", flush=True)
    real = real_set(params, cell, device)
    check_against_data(key, cfg, real)
    row = replace(cell, distill=replace(cfg, seeds=()), evaluate=None)  # more seeds leave the others what they are
    further = asdict(params.protocols[cfg.watch_protocol]), cell.evaluate.nets[0], cell.experts and read_json(EXPERTS / cell.experts / INDEX)
    checkpoints, stop = checkpoint_folder(key, row, *further), stop_on_signals()
    records = kept_seeds(out, cfg.seeds, checkpoints.name)
    missing = [seed for seed in cfg.seeds if str(seed) not in records]
    print(f"seeds that are there: {', '.join(records) or 'none'}; to distil: {missing}", flush=True)
    work = METHODS[cell.method].step_flops(cfg, real.shape, real.num_classes // cfg.class_steps)
    print(cost.describe(work, cfg.steps, len(missing) * cfg.class_steps, cfg.conv_dtype, cost.matmul_rate(cfg.conv_dtype, device, 1)), flush=True)
    with tracker("distill", key, {**asdict(cfg), "dataset": cell.dataset}, prov) as track:
        for seed in missing:
            done = [one_run(params, key, seed, step, real, checkpoints, track, stop) for step in range(cfg.class_steps)]
            path = out / f"seed{seed}.safetensors"
            files = save_seed(path, done, cell=key, seed=seed)
            records[str(seed)] = {"runs": [progress.record() for _, progress in done], "files": files, **prov}
            track.artifact(save_preview(path, [last for last, _ in done], real))
    write_json(out / "history.json", {"cell": key, "identity": checkpoints.name, "seeds": {str(seed): records[str(seed)] for seed in cfg.seeds}})
    shutil.rmtree(checkpoints)


def one_run(params, key, seed, step, real, checkpoints, track, stop):
    """The run of a seed and a class step -> its set (x, y) and its Progress."""
    cell = params.cells[key]
    cfg, protocol, net = cell.distill, params.protocols[cell.distill.watch_protocol], cell.evaluate.nets[0]
    real, name = part_of(real, cfg, seed, step), run_name(seed, step)
    experts, starts = experts_of(params, cell, protocol.num_nets, real.train_x.device)
    syn = SyntheticSet(*start_of(cell, real, name, experts.get("experts")), getattr(cfg, "learn_labels", False))
    method = METHODS[cell.method](cfg, syn, name, params.runtime.compile, **experts)
    batches = batches_for(real, cfg, generator(name, "batches", device=real.train_x.device), experts.get("experts"))

    def watch():
        x, y, lr, start = stacked([rendered(syn.snapshot())])
        return evaluate(net, x, y, real, protocol, name, lr, starts if start is None else start).mean().item()

    progress = run(
        f"{key} seed {name}", method, batches, cfg, watch,
        checkpoints / f"seed{name}.safetensors", lambda at, metrics: track.log(at, metrics, f"seed{name}/"),
        params.runtime.checkpoint_minutes, stop,
    )  # fmt: skip
    return syn.snapshot(), progress


def save_seed(path, done, **meta):
    """Write a seed's set, of all its class steps, and its best watched set, where the cell asks for it -> {file: checksum}."""
    kinds = {path: [(last, progress.step) for last, progress in done]}
    if best := [(progress.best["set"], progress.best["step"]) for _, progress in done if progress.best]:
        kinds[path.with_name(f"{path.stem}-best.safetensors")] = best
    for each, parts in kinds.items():
        save_set(each, [part for part, _ in parts], steps=[step for _, step in parts], **meta)
    return {each.name: sha256(each) for each in kinds}
