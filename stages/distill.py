"""Distil one cell, all its seeds: `python -m stages.distill CELL`. Interrupted, it goes on from its last checkpoint."""

import shutil
from dataclasses import asdict

from lib import cost
from lib.data.real import Batches
from lib.files import write_json
from lib.krr import centred_one_hot
from lib.loop import run
from lib.methods import METHODS
from lib.report.figures import save_gallery
from lib.rng import generator
from lib.students import evaluate
from lib.synthetic import SyntheticSet, initial_set, save_set

from .checkpoints import checkpoint_folder
from .common import DISTILLED, device_of, main, provenance, real_set, stop_on_signals, tracker


def stage(params, key):
    """Distil one cell of params.yaml into OUT/seedN.safetensors, history.json and a gallery."""
    cell = params.cells[key]
    cfg, device = cell.distill, device_of(params)
    prov = provenance(device)
    print(f"{key}: {cell}\n{prov}", flush=True)
    real = real_set(params, cell, device)
    work = METHODS[cell.method].step_flops(cfg, real.shape, cfg.ipc * real.num_classes)
    print(cost.describe(work, cfg.steps, len(cfg.seeds), cfg.conv_dtype, cost.matmul_rate(cfg.conv_dtype, device)), flush=True)
    targets = centred_one_hot(real.train_y, real.num_classes)
    checkpoints, out = checkpoint_folder(key, cell), DISTILLED / cell.suite / key
    track = tracker("distill", key, {**asdict(cfg), "dataset": cell.dataset}, prov)
    protocol, watched_net = params.protocols[cfg.watch_protocol], cell.evaluate.nets[0]
    runs, stop = {}, stop_on_signals()
    for seed in cfg.seeds:
        syn = SyntheticSet(*initial_set(real, cfg.ipc, seed), cfg.learn_labels)
        method = METHODS[cell.method](cfg, syn, seed, params.runtime.compile)
        batches = Batches(len(real.train_x), cfg.real_batch, generator(seed, "batches", device=device))

        def watch():
            x, y = syn.snapshot()
            return evaluate(watched_net, x[None], y[None], real, protocol, seed).mean().item()

        progress = run(
            f"{key} seed {seed}", method, batches, real, targets, cfg, watch, checkpoints / f"seed{seed}.safetensors",
            lambda step, metrics: track.log(step, metrics, f"seed{seed}/"), params.runtime.checkpoint_minutes, stop,
        )  # fmt: skip
        x, y = syn.snapshot()
        save_set(out / f"seed{seed}.safetensors", x, y, cell=key, seed=seed, step=progress.step, **prov)
        best = progress.best or {}
        if best:
            save_set(out / f"seed{seed}-best.safetensors", best["x"], best["y"], cell=key, seed=seed, step=best["step"], **prov)
        runs[seed] = {"history": progress.history, "losses": progress.losses, "wall_s": round(progress.wall_s, 1), "best_step": best.get("step")}
        gallery = out / f"seed{seed}.png"
        save_gallery(gallery, real.preprocess.invert(x.double()), real.num_classes)
        track.artifact(gallery)
    write_json(out / "history.json", {"cell": key, "runs": runs, **prov})
    track.close()
    shutil.rmtree(checkpoints)


if __name__ == "__main__":
    main(stage, "cells")
