"""The JSON files that stages write for each other: what each kind holds, and one way to write and to read them.

A record is written with the digest of its content: a bit that changes afterwards is found when the record is read, also
where DVC does not look. Those of earlier versions have none; they are held to their kind alone.
"""

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .files import REMEDY, FileError, read_json, write_json

DIGEST = "digest"
FileName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]  # of a file in the record's own folder
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Counts = list[Annotated[int, Field(ge=0)]]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """What a file holds: these entries and no others, of these types; a number is finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Made(Record):
    """Where and with what something was computed."""

    device: str
    commit: str
    torch: str
    date: str


class Manifest(Record):
    """manifest.json of a prepared dataset."""

    name: str
    source: str
    num_classes: Positive
    class_names: list[str]
    class_counts: Counts  # training examples
    num_train: Positive
    num_test: Positive
    archives: list[FileName]
    repacked: bool
    sha256: dict[FileName, Sha256]  # of the arrays
    shape: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None  # (K, H, W) of images
    mean: list[float] | None = None
    std: list[Annotated[float, Field(gt=0)]] | None = None
    imagenet: Counts | None = None  # ImageNet's index of each class
    classes: Counts | None = None  # those that have images, where some have none
    splits: dict[str, str | list[str]] | None = None
    notes: list[str] | None = None
    text: bool = False
    words: Positive | None = None
    longest: Positive | None = None

    @model_validator(mode="after")
    def agrees(self):
        sizes = {"class_names": self.class_names, "class_counts": self.class_counts}
        for name, values in sizes.items():
            if len(values) != self.num_classes:
                raise ValueError(f"{name} has {len(values)} entries for {self.num_classes} classes")
        if not self.text and None in (self.shape, self.mean, self.std):
            raise ValueError("a dataset of images has shape, mean and std")
        return self


class Finished(Record):
    """NAME.record.json of what is finished in .checkpoints, beside its files."""

    model_config = ConfigDict(extra="allow")
    files: Annotated[dict[FileName, Sha256], Field(min_length=1)]


class Expert(Made):
    file: FileName
    sha256: Sha256
    train: list[float]  # accuracies in percent after each epoch
    test: list[float]


class Experts(Record):
    """index.json of a row of experts."""

    identity: str
    net: str
    shape: list[Positive]
    num_classes: Positive
    epochs: Annotated[Counts, Field(min_length=1)]  # of the snapshots
    experts: Annotated[list[Expert], Field(min_length=1)]

    @model_validator(mode="after")
    def agrees(self):
        if self.epochs != sorted(set(self.epochs)):
            raise ValueError(f"epochs {self.epochs} do not rise")
        names = [f"expert{number:04}.safetensors" for number in range(len(self.experts))]
        if [expert.file for expert in self.experts] != names:
            raise ValueError(f"the experts' files are not {names[0]}, ... in order")
        return self


class Evaluated(Record):
    """An evaluation during a run."""

    step: Annotated[int, Field(ge=0)]
    accuracy: float
    wall_s: Seconds | None = None
    cpu_s: Seconds | None = None


class Run(Record):
    history: list[Evaluated]
    losses: list[list[float]]
    wall_s: Seconds
    cpu_s: Seconds | None = None
    best_step: int | None = None


class Seed(Made):
    runs: Annotated[list[Run], Field(min_length=1)]
    files: Annotated[dict[FileName, Sha256], Field(min_length=1)]
    conv_dtype: str | None = None


class History(Record):
    """history.json of a distilled cell."""

    cell: str
    identity: str
    seeds: dict[Annotated[str, Field(pattern=r"^\d+$")], Seed]


class Accuracies(Record):
    accuracy: Annotated[list[list[float]], Field(min_length=1)]  # (seeds, networks), percent
    at_half: list[list[float]] | None = None
    krr: list[float] | None = None


class Judged(Record):
    """What came of the sets on one network."""

    distilled: Accuracies
    real_subset: Accuracies
    best_checkpoint: Accuracies | None = None
    whole_set: dict[str, list[float]] | None = None
    baselines: dict[str, list[float]] | None = None
    perturbed: dict[str, list[list[float]]] | None = None
    wall_s: Seconds = 0.0


class Evaluation(Made):
    """The record of an evaluation, build/evaluate/SUITE/CELL.json."""

    cell: str
    seeds: Counts
    conv_dtype: str = "float32"
    nets: Annotated[dict[str, Judged], Field(min_length=1)]

    @model_validator(mode="after")
    def agrees(self):
        for net, kinds in self.nets.items():
            if len(kinds.distilled.accuracy) != len(self.seeds):
                raise ValueError(f"{net} has accuracies of {len(kinds.distilled.accuracy)} of {len(self.seeds)} seeds")
        return self


class Curves(Record):
    curves: list[list[list[float]]]  # (orders, networks, steps)
    forgetting: list[list[float]]


class Continual(Made):
    cell: str
    num_classes: Positive
    orders: Counts
    kinds: Annotated[dict[str, Curves], Field(min_length=1)]
    wall_s: Seconds


class Attacked(Record):
    kind: str
    updates: Positive
    accuracy: list[float]
    attacks: dict[str, list[dict[str, float]]]


class Membership(Made):
    cell: str
    chunks: Counts
    rows: Annotated[list[Attacked], Field(min_length=1)]
    wall_s: Seconds


class Scores(Made):
    cell: str
    net: str
    rows: Annotated[list[dict[str, float]], Field(min_length=1)]
    full: float
    teacher: float
    wall_s: Seconds


class External(Made):
    """The record of a set of other people, reports/external/ROW.json."""

    row: str
    dataset: str
    file: str
    images: Positive
    nets: Annotated[dict[str, Annotated[list[float], Field(min_length=1)]], Field(min_length=1)]
    notes: list[str]
    wall_s: Seconds


class Figure(BaseModel):
    model_config = ConfigDict(extra="allow")
    file: FileName


class Row(BaseModel):
    """A row of results.json: a cell on a network."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    cell: str
    suite: str
    method: str
    dataset: str
    ipc: int
    network: str
    accuracy_mean: float
    accuracy_std: float
    real_subset_mean: float
    seeds: Counts
    judged: str


class SuiteResults(Record):
    """results.json of a suite."""

    suite: str
    rows: list[Row]
    continual: list[dict]
    membership: list[dict]
    scores: list[dict]
    sentences: dict[str, list]
    curves: dict[str, dict[str, list[Evaluated]]] = {}
    figures: list[Figure]
    provenance: list[str]


def sealed(value):
    """A JSON-able dict with the digest of its content."""
    text = json.dumps(value, sort_keys=True)
    return {**value, DIGEST: hashlib.sha256(text.encode()).hexdigest()}


def checked(path, value, kind):
    """The record that `sealed` gave, without its digest; FileError where it is no `kind`, or not as it was written."""
    try:
        if isinstance(value, dict) and DIGEST in value:
            content = {name: entry for name, entry in value.items() if name != DIGEST}
            if sealed(content) != value:
                raise FileError(f"{path}: damaged: it differs from the digest that it was written with; {REMEDY}")
            value = content
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        words = f"{where}: {first['msg']}" if where else first["msg"]
        raise FileError(f"{path}: not what it should hold: {words}; {REMEDY}") from None
    return value


def write_record(path, record):
    write_json(path, sealed(record))


def read_record(path, kind):
    """The dict of a file that `write_record` wrote, of one of the kinds above."""
    return checked(path, read_json(path), kind)


def write_metrics(path, means, record):
    """Write means, scalars by name, for DVC's tables, and the whole record in a list, which the tables leave out."""
    write_json(path, {**means, "measured": [sealed(record)]})


def read_metrics(path, kind):
    """The record of a metrics file."""
    value = read_json(path)
    measured = value.get("measured") if isinstance(value, dict) else None
    if not isinstance(measured, list) or len(measured) != 1:
        raise FileError(f"{path}: not what it should hold: one record under measured; {REMEDY}")
    return checked(path, measured[0], kind)
