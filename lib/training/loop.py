"""The outer loop, once for every method: budget, progress, evaluation, checkpoints and resume.

It knows neither DVC nor MLflow: the stage gives it a file for the checkpoint and a function that takes metrics.
"""

import time
from dataclasses import dataclass, field

import torch

from ..files import FileError
from ..progress import progress_bar
from .ends import NonFiniteLoss, Stopped

FETCH_EVERY = 50  # steps between fetches of the metrics from the device


@dataclass
class Progress:
    """What a run has measured; part of its checkpoint."""

    step: int = 0
    wall_s: float = 0.0  # of the steps alone, without evaluations
    cpu_s: float = 0.0  # of all processors: what was computed, whatever ran beside it
    history: list = field(default_factory=list)  # {"step", "accuracy", "wall_s", "cpu_s"} of each evaluation
    losses: list = field(default_factory=list)  # of each fetch: [step, mean of each metric since the last], loss first
    best: dict | None = None  # {"step", "accuracy", "set"} of the highest accuracy, if cfg.select is best_test
    pending: list = field(default_factory=list)  # metrics of the steps since the last fetch, on the device

    def record(self):
        """What is reported of a finished run, as JSON."""
        best_step, seconds = self.best and self.best["step"], self.seconds()
        return {"history": self.history, "losses": self.losses, **seconds, "best_step": best_step}

    def seconds(self):
        return {"wall_s": round(self.wall_s, 1), "cpu_s": round(self.cpu_s, 1)}


class Clock:
    """Adds the seconds since it was started to a Progress, when it is read."""

    def __init__(self, progress):
        self.progress = progress
        self.start()

    def start(self):
        self.wall, self.cpu = time.monotonic() - self.progress.wall_s, time.process_time() - self.progress.cpu_s

    def read(self):
        self.progress.wall_s, self.progress.cpu_s = time.monotonic() - self.wall, time.process_time() - self.cpu


def evaluation_steps(cfg):
    """Steps after which the run is evaluated: `eval_at` (0: its start), every `eval_every`, and the last."""
    steps = set(cfg.eval_at or ()) | {cfg.steps}
    if cfg.eval_every:
        steps |= set(range(cfg.eval_every, cfg.steps, cfg.eval_every))
    return steps


def run(name, method, batches, cfg, evaluate, checkpoint, log=lambda step, metrics: None, minutes=5.0, stop=None):
    """Run `method` for `cfg.steps` outer steps -> Progress.

    batches.next() gives what the method's step takes; evaluate() gives the current set's accuracy in percent, after
    each of `evaluation_steps`; log(step, metrics) is called at each fetch and evaluation. checkpoint: a Checkpoint,
    saved every `minutes`; the run goes on from it. stop: a threading.Event that ends the run with Stopped, after a
    last checkpoint. NonFiniteLoss stops the run and leaves the last good checkpoint.
    """
    stateful = {"method": method, "batches": batches}
    progress = resume(checkpoint, stateful, cfg.steps)
    due, saved_at, clock = evaluation_steps(cfg), time.monotonic(), Clock(progress)

    def look(done):
        clock.read()
        accuracy = evaluate()
        clock.start()
        progress.history.append({"step": done, "accuracy": accuracy, **progress.seconds()})
        if cfg.select == "best_test" and (progress.best is None or accuracy > progress.best["accuracy"]):
            progress.best = {"step": done, "accuracy": accuracy, "set": method.syn.snapshot()}
        log(done, {"test_accuracy": accuracy})

    if progress.step == 0 and 0 in due:
        look(0)
    with progress_bar(total=cfg.steps, initial=progress.step, desc=name, unit="step", smoothing=0.05) as bar:
        for step in range(progress.step, cfg.steps):
            progress.pending.append(method.step(step, *batches.next()))
            progress.step = done = step + 1
            bar.update()
            if len(progress.pending) == FETCH_EVERY or done in due:
                metrics = fetch(name, progress, checkpoint)
                log(done, metrics)
                latest = f"{progress.history[-1]['accuracy']:.1f}%" if progress.history else "-"
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", acc=latest, refresh=False)
            if done in due:
                look(done)
            clock.read()
            stopping = stop is not None and stop.is_set()
            if time.monotonic() - saved_at > minutes * 60 or done == cfg.steps or stopping:
                check_finite(name, progress, checkpoint)
                states = {key: part.state_dict() for key, part in stateful.items()}
                checkpoint.save({**states, "progress": vars(progress)})
                saved_at = time.monotonic()
            if stopping:
                raise Stopped(f"{name}: stopped after step {done} of {cfg.steps}; run it again to go on from there")
    return progress


def check_finite(name, progress, checkpoint):
    """Bring the pending losses to the host; NonFiniteLoss if one is not finite or a step size is not positive."""
    if not progress.pending:
        return
    losses = torch.stack([metrics["loss"] for metrics in progress.pending]).double().cpu()
    if "step_size" in progress.pending[0]:
        check_step_size(name, progress, torch.stack([m["step_size"] for m in progress.pending]).double().cpu())
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        i = int(bad[0])
        earlier = f"{progress.losses[-1][1]:.6g} (mean of earlier steps)" if progress.losses else "none"
        last = f"{losses[i - 1].item():.6g}" if i else earlier
        kept = (
            f"the last good checkpoint is kept at {checkpoint.path}" if checkpoint.exists() else "no checkpoint was due"
        )
        raise NonFiniteLoss(
            f"{name}: the loss is {losses[i].item()} at step {progress.step - len(losses) + i + 1}; "
            f"the last finite value was {last}; {kept}. "
            "A lower learning rate of the images, conv_dtype: float32 or (FRePo, ISA) krr_dtype: float64 usually help"
        )


def check_step_size(name, progress, sizes):
    """Raise NonFiniteLoss if a learned step size is not positive; one that explodes shows in the loss."""
    for i, size in enumerate(sizes.tolist()):
        if size <= 0:
            step = progress.step - len(sizes) + i + 1
            raise NonFiniteLoss(
                f"{name}: the learned step size is {size:.3g} at step {step}: it must stay above 0; "
                "lower lr_lr or lr_img, or raise lr_start"
            )


def fetch(name, progress, checkpoint):
    """Turn the pending metrics into one entry of `progress.losses` -> their means by name."""
    check_finite(name, progress, checkpoint)
    means = {key: torch.stack([m[key] for m in progress.pending]).double().mean().item() for key in progress.pending[0]}
    progress.losses.append([progress.step, *means.values()])
    progress.pending = []
    return means


def resume(checkpoint, stateful, steps):
    """Load a checkpoint into the objects `stateful` {name: object} -> Progress, a fresh one where there is none."""
    state, device = checkpoint.load(), stateful["method"].syn.y.device
    if state is None:
        return Progress()
    try:
        for name, part in stateful.items():
            part.load_state_dict(state[name])
        progress = Progress(**state["progress"])
        progress.pending = [{name: m.to(device) for name, m in metrics.items()} for metrics in progress.pending]
        if not 0 < progress.step <= steps:
            raise ValueError(f"it is of step {progress.step} of {steps}")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        message = f"{checkpoint.path}: not a checkpoint of this cell ({error}); delete it to start the run anew"
        raise FileError(message) from None
    print(f"{checkpoint.path}: going on after step {progress.step}", flush=True)
    return progress
