"""Distil one cell, all its seeds: `python -m stages distill CELL`. Goes on from checkpoints; finished seeds stay."""

from lib.config.limits import check_against_data
from lib.data.real import part_of
from lib.methods import METHODS
from lib.records import write_record
from lib.report.figures import save_preview
from lib.synthetic.initial import run_name
from lib.synthetic.set import SyntheticSet, rendered, save_set, stacked
from lib.training import cost
from lib.training.batches import batches_for
from lib.training.compute import use_threads
from lib.training.loop import run
from lib.training.students import evaluate

from .checkpoints import Workplace
from .common import DISTILLED, provenance, tracker
from .identity import inputs_of_cell
from .inputs import device_of, experts_of, real_set, start_of
from .parts import share
from .precision import distilled_in
from .signals import stop_on_signals


def stage(recipe, runtime, part=None):
    """Distil one cell of params.yaml into OUT/seedN.safetensors, history.json and a gallery."""
    device = device_of(runtime)
    recipe = distilled_in(recipe, device)
    key, cell, cfg = recipe.key, recipe.cell, recipe.cell.distill
    real, out = real_set(cell, device), DISTILLED / cell.suite / key
    check_against_data(key, cfg, real)
    flops = METHODS[cell.method].step_flops(cfg, real.shape, real.num_classes // cfg.class_steps)
    use_threads(flops, device)
    work, prov = Workplace(*inputs_of_cell(recipe)), provenance(device) | {"conv_dtype": cfg.conv_dtype}
    seeds = share(cfg.seeds, part)
    missing = [seed for seed in seeds if not work.finished(f"seed{seed}")]
    there = f"seeds that are there: {sorted({*seeds} - {*missing})}; to distil: {missing}"
    runs, rate, stop = len(missing) * cfg.class_steps, cost.matmul_rate(cfg.conv_dtype, device, 1), stop_on_signals()
    print(f"{key}: {cell}\n{prov}\n{there}\n{cost.describe(flops, cfg.steps, runs, cfg.conv_dtype, rate)}", flush=True)
    with tracker("distill", key, {**vars(cfg), "dataset": cell.dataset}, prov) as track:
        for seed in missing:
            done = [one_run(recipe, runtime, seed, i, real, work, track, stop) for i in range(cfg.class_steps)]
            path = work.done / f"seed{seed}.safetensors"
            files = [*save_seed(path, done, cell=key, seed=seed), save_preview(path, [last for last, _ in done], real)]
            work.finish(f"seed{seed}", {"runs": [progress.record() for _, progress in done], **prov}, files)
            track.artifact(files[-1])
    if not part:
        seeds = dict(zip(map(str, seeds), work.deliver([f"seed{seed}" for seed in seeds], out)))
        write_record(out / "history.json", {"cell": key, "identity": work.identity, "seeds": seeds})


def one_run(recipe, runtime, seed, step, real, work, track, stop):
    """The run of a seed and a class step -> what is stored of its set, and its Progress."""
    cfg, protocol, name = recipe.cell.distill, recipe.protocol, run_name(seed, step)
    real = part_of(real, cfg, seed, step)
    experts, starts = experts_of(recipe, runtime, protocol.num_nets, real.train_x.device)
    syn = SyntheticSet(*start_of(cfg, real, name, experts.get("experts")), cfg.learn_labels)
    method = METHODS[recipe.cell.method](cfg, syn, name, **experts)
    batches = batches_for(real, cfg, name, experts.get("experts"))

    def accuracy():
        x, y, lr, start = stacked([rendered(syn.snapshot())])
        return evaluate(recipe.net, x, y, real, protocol, name, lr, starts if start is None else start).mean().item()

    def log(step, metrics):
        track.log(step, metrics, f"seed{name}/")

    title, checkpoint = f"{recipe.key} seed {name}", work.checkpoint(f"seed{name}")
    progress = run(title, method, batches, cfg, accuracy, checkpoint, log, runtime.checkpoint_minutes, stop)
    return syn.snapshot(), progress


def save_seed(path, done, **meta):
    """Write a seed's set, of all its class steps, and where the cell asks for it the best one on the way -> paths."""
    kinds = {path: [(last, progress.step) for last, progress in done]}
    if best := [(progress.best["set"], progress.best["step"]) for _, progress in done if progress.best]:
        kinds[path.with_name(f"{path.stem}-best.safetensors")] = best
    for each, parts in kinds.items():
        save_set(each, [part for part, _ in parts], steps=[step for _, step in parts], **meta)
    return list(kinds)
