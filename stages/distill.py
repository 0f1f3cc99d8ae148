"""Distil one cell, all its seeds: `python -m stages.distill CELL`. Interrupted, it goes on from its last checkpoint."""

import shutil
from dataclasses import asdict

from lib import cost
from lib.data.real import Batches
from lib.files import write_json
from lib.krr import centred_one_hot
from lib.loop import run
from lib.methods import METHODS
from lib.params import ParamsError, singular_kernel
from lib.report.figures import save_gallery
from lib.rng import generator
from lib.students import evaluate
from lib.synthetic import SyntheticSet, initial_set, save_set

from .checkpoints import checkpoint_folder
from .common import DISTILLED, device_of, main, provenance, real_set, stop_on_signals, tracker


def stage(params, key):
    """Distil one cell of params.yaml into OUT/seedN.safetensors, history.json and a gallery."""
    cell, device = params.cells[key], device_of(params)
    cfg, prov = cell.distill, provenance(device)
    print(f"{key}: {cell}\n{prov}", flush=True)
    real = real_set(params, cell, device)
    if must := singular_kernel(cfg, real.shape, real.num_classes):  # a folder's classes are known only now
        raise ParamsError(f"params.yaml: cells.{key}.distill.ipc: found {cfg.ipc}; {must}")
    work = METHODS[cell.method].step_flops(cfg, real.shape, cfg.ipc * real.num_classes)
    print(cost.describe(work, cfg.steps, len(cfg.seeds), cfg.conv_dtype, cost.matmul_rate(cfg.conv_dtype, device)), flush=True)
    checkpoints, stop = checkpoint_folder(key, cell), stop_on_signals()
    with tracker("distill", key, {**asdict(cfg), "dataset": cell.dataset}, prov) as track:
        runs = {seed: one_seed(params, key, seed, real, checkpoints, track, stop) for seed in cfg.seeds}
    write_json(DISTILLED / cell.suite / key / "history.json", {"cell": key, "runs": runs, **prov})
    shutil.rmtree(checkpoints)


def one_seed(params, key, seed, real, checkpoints, track, stop):
    """One run: its set, its best set where the cell asks for it, and its gallery -> what history.json says of it."""
    cell = params.cells[key]
    cfg, protocol, net = cell.distill, params.protocols[cell.distill.watch_protocol], cell.evaluate.nets[0]
    syn = SyntheticSet(*initial_set(real, cfg.ipc, seed), cfg.learn_labels)
    method = METHODS[cell.method](cfg, syn, seed, params.runtime.compile)
    batches = Batches(len(real.train_x), cfg.real_batch, generator(seed, "batches", device=real.train_x.device))

    def watch():
        x, y = syn.snapshot()
        return evaluate(net, x[None], y[None], real, protocol, seed).mean().item()

    progress = run(
        f"{key} seed {seed}", method, batches, real, centred_one_hot(real.train_y, real.num_classes), cfg, watch,
        checkpoints / f"seed{seed}.safetensors", lambda step, metrics: track.log(step, metrics, f"seed{seed}/"),
        params.runtime.checkpoint_minutes, stop,
    )  # fmt: skip
    out = DISTILLED / cell.suite / key / f"seed{seed}"
    x, y = syn.snapshot()
    save_set(out.with_suffix(".safetensors"), x, y, cell=key, seed=seed, step=progress.step)
    if best := progress.best:
        save_set(out.with_name(f"seed{seed}-best.safetensors"), best["x"], best["y"], cell=key, seed=seed, step=best["step"])
    save_gallery(out.with_suffix(".png"), real.preprocess.invert(x.double()), real.num_classes)
    track.artifact(out.with_suffix(".png"))
    return {"history": progress.history, "losses": progress.losses, "wall_s": round(progress.wall_s, 1), "best_step": best and best["step"]}


if __name__ == "__main__":
    main(stage, "cells")
