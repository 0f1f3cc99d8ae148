"""How far each cell is, by files alone: to ask DVC of all cells takes minutes."""

import json
from functools import cache

import torch

from lib.config.recipes import Planner, text_of
from lib.config.settings import Settings
from lib.files import sha256
from lib.records import Evaluation, History, read_metrics, read_record

from .common import DISTILLED, EVALUATED
from .identity import CHECKPOINTS, holds, identities
from .lock import Lock

STATES = ("not-run", "partly", "stale", "distilled", "evaluated")


def paths_of(cells, key):
    """The files that end a cell's distillation and its evaluation."""
    return DISTILLED / cells[key].suite / key / "history.json", EVALUATED / cells[key].suite / f"{key}.json"


class States:
    """The cells of a checked params.yaml beside what is in build/, .checkpoints/ and dvc.lock."""

    def __init__(self, params):
        self.cells, planner = params.cells, Planner(params)
        self.text = cache(lambda stage, key: text_of(getattr(planner, stage)(key, params.cells[key])))  # of a recipe
        self.digest = cache(sha256)  # many cells have the same data
        self.lock = Lock()

    def of(self, key):
        """(one of STATES, what is to be added or ""). partly: or running; stale: made from another recipe."""
        distilled, evaluated = paths_of(self.cells, key)
        history = read_record(distilled, History) if distilled.is_file() else None
        current, seeds = self.is_current(key, history), {*self.cells[key].distill.seeds}
        done = {seed for seed in seeds if history and current and str(seed) in history["seeds"]}
        if done < seeds:
            names = self.identities(key, torch.__version__) if (CHECKPOINTS / key).is_dir() else ()
            found = {path.name for name in names for path in (CHECKPOINTS / key / name).rglob("seed*")}
            done |= {seed for seed in seeds if f"seed{seed}.record.json" in found}
            if done or found:
                return "partly", f"{len(done)} of {len(seeds)} seeds"
        fits = current and (done == seeds or not history)  # an evaluation may be here without its set
        if evaluated.is_file():
            return ("evaluated" if fits and self.is_judged(key) else "stale"), ""
        return ("not-run" if not history else "distilled" if fits else "stale"), ""

    def is_current(self, key, history):
        """Whether a set is of the present recipe: by what is kept of the run, or by dvc.lock without its data."""
        version = next(iter(history["seeds"].values()))["torch"] if history else ""
        names = self.identities(key, version) if history else ()
        if not names:
            return self.lock.ran("distill", key, self.text("distill", key))
        return history["identity"] in names or holds(key, names, history["seeds"])

    def is_judged(self, key):
        """Whether an evaluation is of the present recipe and set: by dvc.lock, or where it has none, by its record."""
        cell = self.cells[key]
        if self.lock.of("evaluate", key):
            return self.lock.judged(cell.suite, key, self.text)
        record = read_metrics(paths_of(self.cells, key)[1], Evaluation)
        return (record["seeds"], [*record["nets"]]) == ([*cell.distill.seeds], [*cell.evaluate.nets])

    def identities(self, key, version):
        """The names of a run of the recipe in .checkpoints, with this torch; none where its data are not here."""
        return identities(Settings.of(json.loads(self.text("distill", key))), version, self.digest)
