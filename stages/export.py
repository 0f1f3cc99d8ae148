"""A cell's distilled images for other programs: `python -m stages export CELL --to folder|npz|safetensors`."""

from pathlib import Path
from statistics import fmean, pstdev

from lib.config.settings import ParamsError
from lib.data.preprocess import Preprocess
from lib.data.real import manifest_of
from lib.files import FileError
from lib.records import Evaluation, History, read_metrics, read_record
from lib.report.export import export_set
from lib.synthetic.set import load_set

from .common import DISTILLED, EVALUATED, PREPARED, PREPROCESSING
from .distilled import sets_at


def stage(recipe, runtime, to, out, seed):
    """Write the set of one seed (None: the cell's first) into a new folder `out` (None: build/export/...)."""
    key, cell = recipe.key, recipe.cell
    seeds, folder = cell.distill.seeds, DISTILLED / cell.suite / key
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise ParamsError(f"--seed: found {seed}; {key} has the seeds {', '.join(map(str, seeds))}")
    (path,) = sets_at(folder, [seed])
    manifest = manifest_of(PREPARED / cell.dataset)
    if manifest.get("text"):
        words = f"its words are in {path.with_suffix('.json')}"
        raise FileError(f"{path}: holds sentences as vectors of words, and export writes images; {words}")
    preprocess = Preprocess.load(PREPROCESSING / f"{cell.preprocessing}.safetensors")
    distilled = load_set(path, manifest["shape"], manifest["num_classes"])
    made = read_record(folder / "history.json", History)["seeds"][str(seed)]
    facts = {
        "key": key,
        "seed": seed,
        "cell": cell.plain(),
        "protocol": recipe.protocol.plain(),
        "accuracy": accuracies(EVALUATED / cell.suite / f"{key}.json", seed),
        "made": {name: made[name] for name in ("date", "commit", "device", "torch")},
    }
    out = Path(out or f"build/export/{key}-seed{seed}-{to}")
    export_set(out, to, distilled, preprocess, manifest, facts)
    print(f"{out}: {len(distilled.x)} images and their card, README.md")


def accuracies(path, seed):
    """The accuracy of a seed's set on each network that has judged it, for the card; none where there is no record."""
    record = read_metrics(path, Evaluation) if path.is_file() else {"seeds": []}
    if seed not in record["seeds"]:
        return []
    number = record["seeds"].index(seed)
    found = {net: rows["distilled"]["accuracy"][number] for net, rows in record["nets"].items()}
    return [{"net": net, "mean": fmean(a), "std": pstdev(a), "count": len(a)} for net, a in found.items()]
