"""The outer loop, once for every method: budget, progress, evaluation, checkpoints and resume.

It knows neither DVC nor MLflow: the stage hands it a folder for checkpoints and a function that takes metrics.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from ..files import FileError, load_state, save_state

FETCH_EVERY = 50  # steps between fetches of the metrics from the device


class NonFiniteLoss(Exception):
    """The loss of a run is no longer a number; the message says where and what was kept."""


class Stopped(Exception):
    """A run that was asked to stop, after it saved all it needs to go on."""


@dataclass
class Progress:
    """What a run has measured so far; part of its checkpoint."""

    step: int = 0
    wall_s: float = 0.0
    history: list = field(default_factory=list)  # {"step", "accuracy", ...} of each evaluation
    losses: list = field(
        default_factory=list
    )  # [step, mean of each metric since the last] of each fetch, the loss first
    best: dict | None = None  # {"step", "accuracy", "set"}: of the highest accuracy on the way, where it is asked for
    pending: list = field(default_factory=list)  # metrics of the steps since the last fetch, on the device

    def record(self):
        """What is told of the run once it is done, as JSON."""
        return {
            "history": self.history,
            "losses": self.losses,
            "wall_s": round(self.wall_s, 1),
            "best_step": self.best and self.best["step"],
        }


def evaluation_steps(cfg):
    """Steps after which the run is evaluated: `eval_at`, every `eval_every`, and the last."""
    steps = set(cfg.eval_at or ()) | {cfg.steps}
    if cfg.eval_every:
        steps |= set(range(cfg.eval_every, cfg.steps, cfg.eval_every))
    return steps


def run(name, method, batches, cfg, evaluate, checkpoint, log=lambda step, metrics: None, minutes=5.0, stop=None):
    """Run `method` for `cfg.steps` outer steps -> Progress.

    batches: its next() gives what the method's step takes; evaluate(): accuracy in percent of the current synthetic set, called
    after `evaluation_steps`; checkpoint: a file that is written every `minutes` and gone on from if it exists; log(step, metrics):
    called at each fetch and evaluation; stop: a threading.Event that ends the run with Stopped after a last checkpoint.
    NonFiniteLoss stops the run and leaves the last good checkpoint.
    """
    parts = {"method": method, "batches": batches}
    progress = resume(checkpoint, parts) if Path(checkpoint).exists() else Progress()
    due, saved_at, started = evaluation_steps(cfg), time.monotonic(), time.monotonic() - progress.wall_s
    with tqdm(total=cfg.steps, initial=progress.step, desc=name, unit="step", smoothing=0.05, mininterval=0.5) as bar:
        for step in range(progress.step, cfg.steps):
            progress.pending.append(method.step(step, *batches.next()))
            progress.step = done = step + 1
            bar.update()
            if len(progress.pending) == FETCH_EVERY or done in due:
                metrics = fetch(name, progress, checkpoint)
                log(done, metrics)
                bar.set_postfix(
                    loss=f"{metrics['loss']:.4f}",
                    acc=f"{progress.history[-1]['accuracy']:.1f}%" if progress.history else "-",
                )
            if done in due:
                accuracy = evaluate()
                progress.history.append({"step": done, "accuracy": accuracy})
                if cfg.select == "best_test" and (progress.best is None or accuracy > progress.best["accuracy"]):
                    progress.best = {"step": done, "accuracy": accuracy, "set": method.syn.snapshot()}
                log(done, {"test_accuracy": accuracy})
            progress.wall_s = time.monotonic() - started
            asked = stop is not None and stop.is_set()
            if time.monotonic() - saved_at > minutes * 60 or done == cfg.steps or asked:
                check_finite(name, progress, checkpoint)
                save_state(
                    checkpoint, {**{k: part.state_dict() for k, part in parts.items()}, "progress": vars(progress)}
                )
                saved_at = time.monotonic()
            if asked:
                raise Stopped(f"{name}: stopped after step {done} of {cfg.steps}; run it again to go on from there")
    return progress


def check_finite(name, progress, checkpoint):
    """Bring the pending losses to the host and refuse what is not finite -> losses (n,) float64."""
    if not progress.pending:
        return torch.empty(0, dtype=torch.float64)
    loss = torch.stack([m["loss"] for m in progress.pending]).double().cpu()
    if "step_size" in progress.pending[0]:
        check_step_size(name, progress, torch.stack([m["step_size"] for m in progress.pending]).double().cpu())
    bad = (~loss.isfinite()).nonzero()
    if len(bad):
        i = int(bad[0])
        earlier = f"{progress.losses[-1][1]:.6g} (mean of earlier steps)" if progress.losses else "none"
        last = f"{loss[i - 1].item():.6g}" if i else earlier
        kept = (
            f"the last good checkpoint is kept at {checkpoint}"
            if Path(checkpoint).exists()
            else "no checkpoint had been due yet"
        )
        raise NonFiniteLoss(
            f"{name}: the loss is {loss[i].item()} at step {progress.step - len(loss) + i + 1}; the last finite value was {last}; {kept}. "
            "A lower learning rate of the images, conv_dtype: float32 or (FRePo, ISA) krr_dtype: float64 are what usually helps"
        )
    return loss


def check_step_size(name, progress, sizes):
    """Refuse a learned step size that is no longer above 0; one that explodes is seen by the loss."""
    for i, size in enumerate(sizes.tolist()):
        if size <= 0:
            at = progress.step - len(sizes) + i + 1
            raise NonFiniteLoss(
                f"{name}: the learned step size is {size:.3g} at step {at}: it must stay above 0; lower lr_lr or lr_img, or raise lr_start"
            )


def fetch(name, progress, checkpoint):
    """Turn the pending metrics into one entry of `progress.losses` -> their means by name."""
    check_finite(name, progress, checkpoint)
    means = {key: torch.stack([m[key] for m in progress.pending]).double().mean().item() for key in progress.pending[0]}
    progress.losses.append([progress.step, *means.values()])
    progress.pending = []
    return means


def resume(checkpoint, parts):
    """Load a checkpoint into `parts` -> Progress."""
    device = parts["batches"].generator.device
    state = load_state(checkpoint, device)
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        progress = Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(
            f"{checkpoint}: not a checkpoint of this cell ({error}); delete it to start the run anew"
        ) from None
    print(f"{checkpoint}: going on after step {progress.step}", flush=True)
    return progress
