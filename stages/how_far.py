"""How far a suite is, said at the end of each of its cells."""

from lib.config.settings import read_recipe
from lib.progress import duration
from lib.records import Evaluation, History, read_metrics, read_record

from .common import DISTILLED, EVALUATED


def say_how_far(suite):
    """Print how many cells of a suite have been evaluated, and about how long the others take, by the mean of these."""
    cells = vars(read_recipe("report", suite).cells)
    done = [key for key in cells if (EVALUATED / suite / f"{key}.json").exists()]
    seconds = 0
    for key in done:
        seeds = read_record(DISTILLED / suite / key / "history.json", History)["seeds"].values()
        nets = read_metrics(EVALUATED / suite / f"{key}.json", Evaluation)["nets"].values()
        seconds += sum(run["wall_s"] for seed in seeds for run in seed["runs"]) + sum(net["wall_s"] for net in nets)
    left = len(cells) - len(done)
    about = f"; the other {left} take about {duration(left * seconds / len(done))} at their mean" if left else ""
    print(f"suite {suite}: {len(done)} of {len(cells)} cells are evaluated{about}", flush=True)
