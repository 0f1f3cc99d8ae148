"""params.yaml -> frozen dataclasses. Every error of the file is found at once, before any compute.

An error names the key's path, the value found and what is allowed. A cell's `distill` section holds only what differs
from its method's defaults (`methods.NAME`); a section that is read knows every one of its keys.
"""

import difflib
import re
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

import yaml

from .augment import POLICIES
from .networks import build, parse

KEY = re.compile(r"[A-Za-z0-9_-]+")
KNOWN_SOURCES = {  # name -> (channels, classes, smallest training class, training images, test images)
    "digits": (1, 10, 128, 1297, 500),
    "mnist": (1, 10, 5421, 60000, 10000),
    "fashion_mnist": (1, 10, 6000, 60000, 10000),
    "cifar10": (3, 10, 5000, 50000, 10000),
    "cifar100": (3, 100, 500, 50000, 10000),
    "tiny_imagenet": (3, 200, 500, 100000, 10000),
    "imagenette": (3, 10, 858, 9469, 3925),
    "imagewoof": (3, 10, 588, 9025, 3929),
    "imagenet_resized": (3, 1000, 732, 1281167, 50000),
    "caltech_birds2011": (3, 200, 29, 5994, 5794),
}


class ParamsError(Exception):
    """All that is wrong in a parameter file, one line each."""


def check(test, allowed, **kwargs):
    """A dataclass field whose value must pass `test`; `allowed` completes the sentence 'must be ...'."""
    return field(metadata={"test": test, "allowed": allowed}, **kwargs)


def at_least(bound, **kwargs):
    return check(lambda v: v >= bound, f"at least {bound}", **kwargs)


def above_zero(**kwargs):
    return check(lambda v: 0 < v < float("inf"), "above 0 and finite", **kwargs)


def fraction(**kwargs):
    return check(lambda v: 0 <= v <= 1, "between 0 and 1", **kwargs)


def one_of(*choices, **kwargs):
    return check(lambda v: v in choices, f"one of {', '.join(map(str, choices))}", **kwargs)


def items(test, allowed, **kwargs):
    return check(lambda vs: len(vs) > 0 and len(set(vs)) == len(vs) and all(map(test, vs)), allowed, **kwargs)


@dataclass(frozen=True)
class Dataset:
    """Where images come from: a source known by name, or a folder of class folders of the user's own."""

    resolution: int = at_least(4)
    source: str | None = one_of(None, *KNOWN_SOURCES, default=None)
    folder: str | None = None
    channels: int = one_of(1, 3, default=3)  # of a user's own folder


@dataclass(frozen=True)
class Preprocessing:
    """Channel standardisation (measured on the training set where not given; 'none' for [0, 1] pixels), then ZCA."""

    dataset: str
    standardise: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    zca: str = one_of("none", "frepo", "mtt", default="none")
    zca_eps: float = above_zero(default=0.1)
    checkerboard: int = at_least(1, default=1)


@dataclass(frozen=True)
class Protocol:
    """How a network is trained on a distilled set to judge it."""

    num_nets: int = at_least(1)
    steps: int = at_least(1)
    lr: float = above_zero()
    warmup: int = at_least(0)
    lr_final: float = fraction()  # cosine down to this fraction of lr; 1 keeps lr constant
    batch: int = at_least(1)
    shuffle: bool
    augment: str = one_of(*POLICIES)


@dataclass(frozen=True)
class FRePo:
    """FRePo's distillation of one cell; the sheet's section 14 gives the published values."""

    net: str
    ipc: int = at_least(1)
    seeds: tuple[int, ...] = items(lambda s: s >= 0, "a list of distinct integers of at least 0")
    steps: int = at_least(1)
    real_batch: int = at_least(1)
    flip: bool
    learn_labels: bool
    outer_lr: float = above_zero()
    outer_lr_final: float = fraction()
    pool_size: int = at_least(1)
    reset_after: int = at_least(0)
    online_lr: float = above_zero()
    online_batch: int = at_least(1)
    conv_dtype: str = one_of("float32", "bfloat16")
    krr_dtype: str = one_of("float32", "float64")
    watch_protocol: str  # the protocol of the evaluations during distillation
    watch_at: tuple[int, ...] | None
    watch_every: int = at_least(0)  # 0: only at `watch_at`
    select: str = one_of("last", "best_test")  # best_test also keeps the set of the best watched *test* accuracy


@dataclass(frozen=True)
class Evaluate:
    """How the distilled sets of a cell are judged."""

    protocol: str
    nets: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One row of the grid: a method on a dataset with a number of images per class."""

    suite: str
    method: str
    dataset: str
    preprocessing: str
    budget: str = one_of("full", "reduced")  # reduced: not the paper's schedule; never compared as if it were
    distill: FRePo
    evaluate: Evaluate


METHOD_PARAMS = {"frepo": FRePo}


@dataclass(frozen=True)
class Runtime:
    """How to run; nothing here changes a result."""

    archives: str | None  # a folder with the user's own copies of the published archives
    device: str = check(lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v), "auto, cpu, cuda or cuda:N")
    checkpoint_minutes: float = at_least(0)
    compile: str = one_of("none", "default", "reduce-overhead")  # of the networks' passes; the last captures CUDA graphs


@dataclass(frozen=True)
class Params:
    runtime: Runtime
    suites: tuple[str, ...]
    datasets: dict[str, Dataset]
    preprocessing: dict[str, Preprocessing]
    protocols: dict[str, Protocol]
    cells: dict[str, Cell]


def describe(kind):
    """A type as a newcomer would say it."""
    if get_origin(kind) is UnionType:
        return " or ".join(describe(k) for k in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, each {describe(get_args(kind)[0])}"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names[kind]


def coerce(value, kind):
    """`value` as `kind`, or TypeError. An integer is a number; nothing else is converted."""
    if get_origin(kind) is UnionType:
        for option in get_args(kind):
            try:
                return coerce(value, option)
            except TypeError:
                pass
        raise TypeError
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TypeError
        return tuple(coerce(v, get_args(kind)[0]) for v in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError
    return value


class Reader:
    """Reads mappings into dataclasses and gathers what is wrong."""

    def __init__(self):
        self.errors = []

    def error(self, path, value, must):
        self.errors.append(f"{path}: found {value!r}; {must}")

    def mapping(self, node, path):
        if isinstance(node, dict):
            for key in [k for k in node if not isinstance(k, str)]:
                self.error(path, key, "keys must be texts")
            return {k: v for k, v in node.items() if isinstance(k, str)}
        self.error(path, node, "must be a mapping of keys to values")
        return {}

    def section(self, cls, node, path, nested=()):
        """One dataclass from `node`; None if anything in it is wrong. `nested`: keys that the caller reads itself."""
        node = self.mapping(node, path)
        known = {f.name: f for f in fields(cls)}
        before = len(self.errors)
        for key in node:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                self.error(f"{path}.{key}", node[key], f"unknown key{hint}; known are {', '.join(known)}")
        values = {}
        for name, spec in known.items():
            if name in nested:
                continue
            if name not in node:
                if spec.default is MISSING:
                    self.errors.append(f"{path}.{name}: missing; must be {self.allowed(spec)}")
                continue
            try:
                values[name] = coerce(node[name], spec.type)
            except TypeError:
                hint = ""
                if isinstance(node[name], str) and re.fullmatch(r"[\d.]+e[+-]?\d+", node[name], re.I):
                    hint = " (YAML wants a point and a signed exponent in it, as in 3.0e-4)"
                self.error(f"{path}.{name}", node[name], f"must be {self.allowed(spec)}{hint}")
                continue
            if values[name] is not None and not spec.metadata.get("test", lambda v: True)(values[name]):
                self.error(f"{path}.{name}", node[name], f"must be {self.allowed(spec)}")
        return cls(**values) if len(self.errors) == before and not nested else values

    @staticmethod
    def allowed(spec):
        words = describe(spec.type)
        return f"{words}, {spec.metadata['allowed']}" if "allowed" in spec.metadata else words

    def reference(self, path, name, table, what):
        if name in table:
            return True
        self.error(path, name, f"must be one of {what}: {', '.join(table) or '(none)'}")
        return False


def load_params(path="params.yaml"):
    """Read and check a whole parameter file -> Params. ParamsError lists everything that is wrong."""
    try:
        node = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the repository's root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    reader = Reader()
    params = _read(reader, node)
    if reader.errors:
        raise ParamsError("\n".join(f"{path}: {line}" for line in reader.errors))
    return params


def _read(reader, node):
    top = reader.mapping(node, "(top level)")
    tables = ("runtime", "datasets", "preprocessing", "protocols", "methods", "suites", "cells")
    for key in top.keys() - set(tables):
        reader.error(key, "...", f"unknown table; known are {', '.join(tables)}")
    table = {}
    for name in tables:
        if name == "suites":
            continue
        table[name] = reader.mapping(top.get(name), name) if name in top else {}
        if name not in top:
            reader.errors.append(f"{name}: missing; must be a mapping")
        for key in table[name]:
            if not KEY.fullmatch(key):
                reader.error(f"{name}.{key}", key, "a key may hold letters, digits, - and _ alone")
    runtime = reader.section(Runtime, table["runtime"], "runtime")
    suites = top.get("suites")
    if not (isinstance(suites, list) and suites and all(isinstance(s, str) for s in suites)):
        reader.error("suites", suites, "must be a list of names")
        suites = []

    def read_all(cls, name, verify=lambda *args: True):
        parsed = {k: reader.section(cls, v, f"{name}.{k}") for k, v in table[name].items()}
        return {k: v for k, v in parsed.items() if isinstance(v, cls) and verify(reader, v, f"{name}.{k}")}

    datasets = read_all(Dataset, "datasets", _check_dataset)
    preprocessing = read_all(Preprocessing, "preprocessing", lambda *a: _check_preprocessing(*a, table["datasets"], datasets))
    protocols = read_all(Protocol, "protocols", _check_protocol)
    cells = {}
    for key, row in table["cells"].items():
        cell = _read_cell(reader, key, row, table, suites) if KEY.fullmatch(key) else None
        if cell and _check_cell(reader, key, cell, datasets, preprocessing, table["protocols"]):
            cells[key] = cell
    return Params(runtime, tuple(suites), datasets, preprocessing, protocols, cells)


def _read_cell(reader, key, row, table, suites):
    path = f"cells.{key}"
    before = len(reader.errors)
    values = reader.section(Cell, row, path, nested=("distill", "evaluate"))
    if len(reader.errors) > before:
        return None
    reader.reference(f"{path}.suite", values["suite"], suites, "suites")
    for column, known in (("dataset", table["datasets"]), ("preprocessing", table["preprocessing"]), ("method", METHOD_PARAMS)):
        reader.reference(f"{path}.{column}", values[column], known, column + "s")
    if len(reader.errors) > before:
        return None
    defaults = reader.mapping(table["methods"].get(values["method"]), f"methods.{values['method']}")
    for name in ("distill", "evaluate"):
        if name not in row:
            reader.errors.append(f"{path}.{name}: missing; must be a mapping")
            return None
    distill = {**defaults, **reader.mapping(row["distill"], f"{path}.distill")}
    values["distill"] = reader.section(METHOD_PARAMS[values["method"]], distill, f"{path}.distill")
    values["evaluate"] = reader.section(Evaluate, row["evaluate"], f"{path}.evaluate")
    return Cell(**values) if len(reader.errors) == before else None


def _check_dataset(reader, dataset, path):
    if (dataset.source is None) == (dataset.folder is None):
        reader.error(path, {"source": dataset.source, "folder": dataset.folder}, "give exactly one of source and folder")
        return False
    native = {"digits": 8, "mnist": 28, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32, "tiny_imagenet": 64}.get(dataset.source)
    if native and dataset.resolution != native:
        reader.error(f"{path}.resolution", dataset.resolution, f"{dataset.source} has {native} pixels")
        return False
    return True


def _check_preprocessing(reader, pre, path, names, datasets):
    if not reader.reference(f"{path}.dataset", pre.dataset, names, "datasets") or pre.dataset not in datasets:
        return False
    before = len(reader.errors)
    channels = in_shape(datasets[pre.dataset])[0]
    if (pre.mean is None) != (pre.std is None):
        reader.error(path, {"mean": pre.mean, "std": pre.std}, "give both mean and std, or neither (then they are measured)")
    for name in ("mean", "std"):
        value = getattr(pre, name)
        if value is not None and len(value) != channels:
            reader.error(f"{path}.{name}", list(value), f"must have {channels} value(s), one for each channel")
        if value is not None and not pre.standardise:
            reader.error(f"{path}.{name}", list(value), "has no effect with standardise: false; remove it")
    if pre.std is not None and min(pre.std) <= 0:
        reader.error(f"{path}.std", list(pre.std), "must be above 0")
    if datasets[pre.dataset].resolution % pre.checkerboard:
        reader.error(f"{path}.checkerboard", pre.checkerboard, f"must divide the resolution {datasets[pre.dataset].resolution}")
    return len(reader.errors) == before


def _check_protocol(reader, protocol, path):
    if protocol.warmup > protocol.steps:
        reader.error(f"{path}.warmup", protocol.warmup, f"must be at most steps ({protocol.steps})")
        return False
    return True


def in_shape(dataset):
    """(K, H, W) of a dataset's images."""
    channels = KNOWN_SOURCES[dataset.source][0] if dataset.source else dataset.channels
    return channels, dataset.resolution, dataset.resolution


def _check_cell(reader, key, cell, datasets, preprocessing, protocols):
    path, before, distill = f"cells.{key}", len(reader.errors), cell.distill
    expected = f"{cell.suite}-{cell.method}-{cell.dataset}-ipc{distill.ipc}"
    if not key.startswith(f"{cell.suite}-{cell.method}-{cell.dataset}-ipc"):
        reader.error(path, key, f"a cell's key is SUITE-METHOD-DATASET-ipcN, here {expected}")
    reader.reference(f"{path}.distill.watch_protocol", distill.watch_protocol, protocols, "protocols")
    reader.reference(f"{path}.evaluate.protocol", cell.evaluate.protocol, protocols, "protocols")
    if cell.dataset not in datasets or cell.preprocessing not in preprocessing:
        return False
    dataset = datasets[cell.dataset]
    if preprocessing[cell.preprocessing].dataset != cell.dataset:
        reader.error(f"{path}.preprocessing", cell.preprocessing, f"is of {preprocessing[cell.preprocessing].dataset}, not {cell.dataset}")
    classes = 2
    if dataset.source:
        _, classes, smallest, num_train, _ = KNOWN_SOURCES[dataset.source]
        if distill.ipc > smallest:
            reader.error(f"{path}.distill.ipc", distill.ipc, f"must be at most {smallest}, the images of {dataset.source}'s smallest class")
        if distill.real_batch > num_train:
            reader.error(f"{path}.distill.real_batch", distill.real_batch, f"must be at most {num_train}, the training images")
    if any(s > distill.steps for s in distill.watch_at or ()):
        reader.error(f"{path}.distill.watch_at", list(distill.watch_at), f"must not go beyond steps ({distill.steps})")
    nets = [(f"{path}.distill.net", distill.net)] + [(f"{path}.evaluate.nets", n) for n in cell.evaluate.nets]
    for where, name in nets:
        try:
            parse(name)
        except ValueError as error:
            reader.error(where, name, str(error))
    if len(reader.errors) == before:
        _check_networks(reader, path, nets, in_shape(dataset), classes, distill)
    return len(reader.errors) == before


def _check_networks(reader, path, nets, shape, classes, distill):
    for where, name in nets:
        try:
            feature_width(name, shape)
        except ValueError as error:
            reader.error(where, name, str(error))
            return
    if must := singular_kernel(distill, shape, classes):
        reader.error(f"{path}.distill.ipc", distill.ipc, must)


def singular_kernel(distill, shape, classes):
    """What to do where a set of `distill.ipc` images for each of `classes` has a singular kernel; None where it has not."""
    n, width = distill.ipc * classes * (2 if distill.flip else 1), feature_width(distill.net, shape)
    if n < width:
        return None
    doubled = " (with flip: true, which doubles the set)" if distill.flip else ""
    return (
        f"{n} images{doubled} need a network of more than {n} features, {distill.net} has {width}: "
        "the kernel would be singular; lower ipc, set flip: false or take a wider net"
    )


_WIDTHS = {}


def feature_width(net, shape):
    """Features of a network on images of `shape`, without allocating its weights."""
    if (net, shape) not in _WIDTHS:
        import torch

        with torch.device("meta"):
            _WIDTHS[net, shape] = build(net, shape, 2).feature_width
    return _WIDTHS[net, shape]
