"""A cell's distilled sets, once their files are known to be what `distill` wrote, and real images beside them."""

import torch

from lib.files import check_digest
from lib.records import History, read_record
from lib.synthetic.initial import real_subsets
from lib.synthetic.set import DistilledSet, load_set


def as_written(path):
    """The path of a seed's file, if it has the digest that `distill` wrote into history.json; else FileError."""
    history = path.with_name("history.json")
    seeds = read_record(history, History)["seeds"].values() if history.is_file() else ()
    digests = {name: digest for seed in seeds for name, digest in seed["files"].items()}
    check_digest(path, digests.get(path.name), f"distil the cell: `dvc repro distill@{path.parent.name}`")
    return path


def sets_at(folder, seeds, name="seed{}.safetensors"):
    """The paths of each seed's set, as written."""
    return [as_written(folder / name.format(seed)) for seed in seeds]


def sets_of(cell, protocol, folder, real, device):
    """{kind: a DistilledSet of each seed}: distilled, of the best checkpoint where it was kept, and real images."""
    kinds, seeds = {"distilled": "seed{}.safetensors", "best_checkpoint": "seed{}-best.safetensors"}, cell.distill.seeds
    if cell.distill.select == "last":
        del kinds["best_checkpoint"]
    sets = {
        kind: [load_set(path, real.shape, real.num_classes, device) for path in sets_at(folder, seeds, name)]
        for kind, name in kinds.items()
    }
    subsets = [DistilledSet(*real_subsets(real, cell.distill, seed)) for seed in seeds]
    for i, distilled in enumerate(sets["distilled"]):
        if distilled.lr is not None:  # real images are trained on at the protocol's rate
            lr = torch.full_like(distilled.lr, protocol.lr)
            subsets[i] = subsets[i]._replace(lr=lr, start=distilled.start)
    return {**sets, "real_subset": subsets}
