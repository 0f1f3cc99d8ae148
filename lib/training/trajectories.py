"""Expert trajectories on disk: one safetensors file per expert, and an index with their checksums and learning curves.

Source: reference sheet of trajectory matching, sections 2 and 8. Snapshots are float32 and flat, in the order of the
network's parameters; they are read one at a time from the mapped file.
"""

from pathlib import Path

import torch
from safetensors import safe_open

from ..files import FileError, check_digest
from ..networks import build
from ..records import Experts, read_record, write_record
from ..rng import restore
from ..tensors import save_tensors

INDEX = "index.json"


def expert_name(number):
    return f"expert{number:04}"


def save_expert(folder, number, snapshots):
    """Write one expert's snapshots (n, P) -> the file's path."""
    path = Path(folder) / f"{expert_name(number)}.safetensors"
    save_tensors(path, {"weights": snapshots}, expert=number)
    return path


def save_index(folder, records, **meta):
    """Write the index of the experts' files, in their order.

    records: of each expert, learning curves, provenance and `files`: {file: SHA-256}. meta has `epochs`, those of the
    snapshots, `net` and `shape`.
    """
    experts = []
    for record in records:
        ((file, digest),) = record["files"].items()
        experts.append({"file": file, "sha256": digest, **{name: record[name] for name in record if name != "files"}})
    write_record(Path(folder) / INDEX, {**meta, "experts": experts})


class Trajectories:
    """The experts of a folder. Each file is checked against its checksum when it is first opened."""

    def __init__(self, folder):
        self.folder, self.index, self.files = Path(folder), read_record(Path(folder) / INDEX, Experts), {}
        self.rows = {epoch: row for row, epoch in enumerate(self.index["epochs"])}

    def __len__(self):
        return len(self.index["experts"])

    def of_network(self, net):
        """These experts, if they are networks of this name."""
        if self.index["net"] != net:
            problem = f"its experts are {self.index['net']}, a row of {net} is wanted"
            raise FileError(f"{self.folder}: {problem}; train them again (`dvc repro -f experts@{self.folder.name}`)")
        return self

    def weights(self, expert, epoch):
        """The weights (P,) of an expert after `epoch` epochs, on the CPU; -1: its last."""
        if expert not in self.files:
            entry = self.index["experts"][expert]
            path = self.folder / entry["file"]
            check_digest(path, entry["sha256"], f"train it again (`dvc repro experts@{self.folder.name}`)")
            self.files[expert] = safe_open(path, framework="pt").get_slice("weights")
        row = self.rows.get(self.index["epochs"][-1] if epoch == -1 else epoch)
        if row is None:
            kept = f"it keeps the epochs {self.index['epochs']}"
            raise FileError(f"{self.folder}: has no weights after epoch {epoch}; {kept}: train its row again")
        return self.files[expert][row : row + 1][0]

    def last(self, experts):
        """The last weights (n, P) of the named experts."""
        return torch.stack([self.weights(expert, -1) for expert in experts])


def network_with(index, weights):
    """The network of an index of experts, with flat weights (P,)."""
    net = build(index["net"], tuple(index["shape"]), index["num_classes"])
    torch.nn.utils.vector_to_parameters(weights, net.parameters())
    return net


class Segments:
    """Endless segments of trajectories: weights (P,) at a random epoch and `cfg.expert_epochs` later, on `device`.

    generator: on the CPU, where the files are read. Every expert is taken once before any is taken again. The start
    epoch's bound may grow (`upper`).
    """

    def __init__(self, trajectories, cfg, generator, device="cpu"):
        self.trajectories, self.cfg, self.generator = trajectories, cfg, generator
        self.device, self.left, self.drawn = torch.device(device), torch.empty(0, dtype=torch.long), 0

    def upper(self):
        """Exclusive bound of the start epoch: `max_start_first` to `max_start` in `expand_steps` (EDF's sheet, 5.2)."""
        first, last = self.cfg.max_start_first or self.cfg.max_start, self.cfg.max_start
        if not self.cfg.expand_steps:
            return last
        return min(first + int((last - first) * self.drawn / self.cfg.expand_steps), last)

    def next(self):
        if not len(self.left):
            self.left = torch.randperm(len(self.trajectories), generator=self.generator)
        expert, self.left = self.left[0].item(), self.left[1:]
        start = torch.randint(self.cfg.min_start, self.upper(), (), generator=self.generator).item()
        self.drawn += 1
        pair = (self.trajectories.weights(expert, epoch) for epoch in (start, start + self.cfg.expert_epochs))
        if self.device.type == "cuda":  # from pinned memory: the host does not wait for the copy
            return tuple(weights.pin_memory().to(self.device, non_blocking=True) for weights in pair)
        return tuple(pair)

    def state_dict(self):
        return {"left": self.left, "drawn": self.drawn, "rng": self.generator.get_state()}

    def load_state_dict(self, state):
        self.left, self.drawn = state["left"], state["drawn"]
        restore(self.generator, state["rng"])
