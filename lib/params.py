"""params.yaml -> frozen dataclasses (schema.py). Every error of the file is found at once, before any compute.

An error names the key's path, the value found and what is allowed. A cell's `distill` section holds only what differs
from its method's defaults (`methods.NAME`); a section that is read knows every one of its keys.
"""

import difflib
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

import yaml

from .lowrank import images_per_class
from .networks import TEXT, build, parse
from .schema import (
    KNOWN_SOURCES,
    METHOD_PARAMS,
    TEXT_SOURCES,
    TRAJECTORIES,
    Cell,
    Continual,
    Dataset,
    Evaluate,
    Experts,
    Given,
    Membership,
    Params,
    Preprocessing,
    Protocol,
    Runtime,
    Scores,
    Words,
)  # fmt: skip

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, in C, where PyYAML was built with it
KEY = re.compile(r"[A-Za-z0-9_-]+")


class ParamsError(Exception):
    """All that is wrong in a parameter file, one line each."""


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

    def __init__(self, only):
        self.errors, self.only = [], only

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


def load_params(path="params.yaml", only=None):
    """Read and check a whole parameter file -> Params. ParamsError lists everything that is wrong.

    only: a key; then networks are built, to see whether they fit their images, for its rows alone: building all takes a second.
    """
    try:
        node = yaml.load(Path(path).read_text(), LOADER)
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the repository's root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    reader = Reader(only)
    params = _read(reader, node)
    if reader.errors:
        raise ParamsError("\n".join(f"{path}: {line}" for line in reader.errors))
    return params


def _read(reader, node):
    top = reader.mapping(node, "(top level)")
    tables = (
        "runtime",
        "datasets",
        "preprocessing",
        "protocols",
        "methods",
        "suites",
        "experts",
        "cells",
        "expert_cells",
        "continual",
        "membership",
        "scores",
        "given",
    )
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

    def read_all(cls, name, verify=lambda *args: True, cls_of=lambda row: None):
        parsed = {k: reader.section(cls_of(v) or cls, v, f"{name}.{k}") for k, v in table[name].items()}
        return {k: v for k, v in parsed.items() if is_dataclass(v) and verify(reader, v, f"{name}.{k}")}

    datasets = read_all(Dataset, "datasets", _check_dataset)
    texts = [key for key, row in table["datasets"].items() if isinstance(row, dict) and row.get("source") in TEXT_SOURCES]
    preprocessing = read_all(
        Preprocessing, "preprocessing", lambda *a: _check_preprocessing(*a, table["datasets"], datasets),
        lambda row: Words if isinstance(row, dict) and row.get("dataset") in texts else None,
    )  # fmt: skip
    protocols = read_all(Protocol, "protocols", _check_protocol)
    experts = read_all(Experts, "experts", lambda *a: _check_experts(*a, table, datasets, preprocessing))
    cells, rows = {}, {**table["cells"], **table["expert_cells"]}
    for key in table["cells"].keys() & table["expert_cells"].keys():
        reader.error(f"expert_cells.{key}", key, "is a key of cells too")
    for key, row in rows.items():
        path = f"{'cells' if key in table['cells'] else 'expert_cells'}.{key}"
        cell = _read_cell(reader, path, row, table, suites) if KEY.fullmatch(key) else None
        if (
            cell
            and _check_experts_of(reader, path, cell, table["experts"], experts)
            and _check_cell(reader, path, cell, datasets, preprocessing, table["protocols"], protocols)
        ):
            cells[key] = cell
    for key, cell in cells.items():
        if cell.baseline is not None:
            reader.reference(f"cells.{key}.baseline", cell.baseline, rows, "cells")
    shapes = {key: shape_of(cell, datasets, preprocessing) for key, cell in cells.items()}
    applied = [cells, rows, table["protocols"], protocols, shapes]
    continual = read_all(Continual, "continual", lambda *a: _check_continual(*a, *applied))
    membership = read_all(Membership, "membership", lambda *a: _check_membership(*a, *applied))
    scores = read_all(Scores, "scores", lambda *a: _check_scores(*a, table["experts"], experts, *applied))
    given = read_all(Given, "given", lambda *a: _check_given(*a, table, datasets, preprocessing, protocols))
    return Params(runtime, tuple(suites), datasets, preprocessing, protocols, experts, cells, continual, membership, scores, given)


def _read_cell(reader, path, row, table, suites):
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
    given = {name: getattr(dataset, name) for name in ("source", "folder", "subset")}
    if sum(value is not None for value in given.values()) != 1:
        reader.error(path, given, "give exactly one of source, folder and subset")
        return False
    if (dataset.resolution is None) != (dataset.source in TEXT_SOURCES):
        must = "sentences have none; remove it" if dataset.resolution else "missing; the side of the images in pixels"
        reader.error(f"{path}.resolution", dataset.resolution, must)
        return False
    own = KNOWN_SOURCES[dataset.source][0] if dataset.source else 3
    if dataset.channels and not dataset.folder and (dataset.source in TEXT_SOURCES or dataset.channels < own):
        reader.error(f"{path}.channels", dataset.channels, f"{dataset.source or dataset.subset} has its own; remove it")
        return False
    native = {"digits": 8, "mnist": 28, "fashion_mnist": 28, "svhn": 32, "cifar10": 32, "cifar100": 32, "tiny_imagenet": 64}.get(dataset.source)
    if native and dataset.resolution != native:
        reader.error(f"{path}.resolution", dataset.resolution, f"{dataset.source} has {native} pixels")
        return False
    return True


def _check_preprocessing(reader, pre, path, names, datasets):
    if not reader.reference(f"{path}.dataset", pre.dataset, names, "datasets") or pre.dataset not in datasets:
        return False
    before = len(reader.errors)
    if isinstance(pre, Words):
        return True
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
    if protocol.optimizer == "schedule":
        own = {"steps": 0, "epochs": 0, "batch": 0, "augment": "none", "loss": "cross_entropy"}
        found = {name: getattr(protocol, name) for name in own}
        if found != own:
            reader.error(path, found, f"optimizer schedule goes by the set's own minibatches: these must be {own}")
            return False
    else:
        length, other = ("steps", "epochs") if protocol.optimizer == "adam" else ("epochs", "steps")
        if getattr(protocol, length) < 1 or getattr(protocol, other) or protocol.batch < 1:
            found = {"steps": protocol.steps, "epochs": protocol.epochs, "batch": protocol.batch}
            reader.error(path, found, f"optimizer {protocol.optimizer} takes {length} and batch, at least 1, and no {other}")
            return False
    if protocol.optimizer != "adam" and (protocol.warmup or protocol.lr_final != 1):
        reader.error(path, {"warmup": protocol.warmup, "lr_final": protocol.lr_final}, "belong to optimizer adam; remove them")
        return False
    if protocol.batch_per_class and (protocol.optimizer != "adam" or protocol.batch % protocol.batch_per_class):
        reader.error(f"{path}.batch_per_class", protocol.batch_per_class, f"belongs to optimizer adam and must divide batch ({protocol.batch})")
        return False
    if protocol.warmup > protocol.steps:
        reader.error(f"{path}.warmup", protocol.warmup, f"must be at most steps ({protocol.steps})")
        return False
    return True


def _check_data(reader, row, path, table, datasets, preprocessing):
    """A row's dataset and preprocessing: whether both are known, right in themselves and of each other."""
    known = [
        reader.reference(f"{path}.{column}", getattr(row, column), table[name], name) for column, name in (("dataset", "datasets"), ("preprocessing",) * 2)
    ]
    if not all(known) or row.dataset not in datasets or row.preprocessing not in preprocessing:
        return False
    if preprocessing[row.preprocessing].dataset != row.dataset:
        reader.error(f"{path}.preprocessing", row.preprocessing, f"is of {preprocessing[row.preprocessing].dataset}, not {row.dataset}")
        return False
    return True


def _check_given(reader, row, path, table, datasets, preprocessing, protocols):
    before = len(reader.errors)
    if not _check_data(reader, row, path, table, datasets, preprocessing):
        return False
    if reader.reference(f"{path}.protocol", row.protocol, table["protocols"], "protocols") and row.protocol in protocols:
        if protocols[row.protocol].optimizer != "sgd" or protocols[row.protocol].loss != "cross_entropy":
            reader.error(f"{path}.protocol", row.protocol, "must be a protocol of optimizer sgd and loss cross_entropy")
    for net in row.nets:
        _check_network(reader, f"{path}.nets", net, shape_of(row, datasets, preprocessing))
    return len(reader.errors) == before


def _check_experts(reader, row, path, table, datasets, preprocessing):
    before = len(reader.errors)
    if not _check_data(reader, row, path, table, datasets, preprocessing):
        return False
    if row.held_out >= row.count:
        reader.error(f"{path}.held_out", row.held_out, f"must be below count ({row.count})")
    if row.keep > row.epochs:
        reader.error(f"{path}.keep", row.keep, f"must be at most epochs ({row.epochs})")
    _check_network(reader, f"{path}.net", row.net, shape_of(row, datasets, preprocessing))
    return len(reader.errors) == before


def _check_experts_of(reader, path, cell, names, experts):
    """A cell's row of experts: that it is there, and that it has what the cell takes of it."""
    distill, before, listed = cell.distill, len(reader.errors), path.startswith("expert_cells.")
    if listed != (cell.experts is not None):
        must = "name a row of experts" if listed else "cells with experts are rows of expert_cells: move it there"
        reader.error(f"{path}.experts", cell.experts, must)
    if cell.experts is None:
        if isinstance(distill, TRAJECTORIES):
            reader.error(f"{path}.method", cell.method, "needs experts: make it a row of expert_cells")
        return len(reader.errors) == before
    if not reader.reference(f"{path}.experts", cell.experts, names, "experts") or cell.experts not in experts:
        return False
    row = experts[cell.experts]
    if distill.net != row.net:
        reader.error(f"{path}.distill.net", distill.net, f"must be {row.net}, the network of its experts")
    if isinstance(distill, TRAJECTORIES):
        for column in ("dataset", "preprocessing"):
            if getattr(cell, column) != getattr(row, column):
                reader.error(f"{path}.{column}", getattr(cell, column), f"must be {getattr(row, column)}, as of its experts")
        last = distill.max_start - 1 + distill.expert_epochs
        if last > row.keep + (row.keep + 1 == row.epochs):
            reader.error(
                f"{path}.distill.max_start", distill.max_start, f"needs the experts' epoch {last}; experts.{cell.experts} keeps {row.keep}: raise its keep"
            )
        if distill.max_start <= distill.min_start or distill.max_start_first > distill.max_start or 0 < distill.max_start_first <= distill.min_start:
            found = [distill.min_start, distill.max_start_first, distill.max_start]
            reader.error(f"{path}.distill.max_start", found, "min_start must be below max_start_first (unless 0), and this at most max_start")
        if distill.class_steps > 1 or distill.chunk:
            reader.error(f"{path}.distill.class_steps", distill.class_steps, "must be 1, and chunk 0: the experts have seen all images")
    elif not isinstance(distill, METHOD_PARAMS["dd"]):
        reader.error(f"{path}.method", cell.method, "takes no experts: make it a row of cells")
    elif list(cell.evaluate.nets) != [row.net]:
        reader.error(f"{path}.evaluate.nets", list(cell.evaluate.nets), f"must be [{row.net}], whose weights its networks start from")
    elif distill.start == "random" and not row.held_out:
        reader.error(f"{path}.experts", cell.experts, f"has no held_out experts, from which evaluations start: raise experts.{cell.experts}.held_out")
    return len(reader.errors) == before


def in_shape(dataset):
    """(K, H, W) of a dataset's images."""
    channels = dataset.channels or (KNOWN_SOURCES[dataset.source][0] if dataset.source else 3)
    return channels, dataset.resolution, dataset.resolution


def shape_of(cell, datasets, preprocessing):
    """(K, H, W) of what a cell's networks see: images, or sentences (1, L, D)."""
    pre = preprocessing[cell.preprocessing]
    return (1, pre.length, pre.dim) if isinstance(pre, Words) else in_shape(datasets[cell.dataset])


def _check_cell(reader, path, cell, datasets, preprocessing, protocol_names, protocols):
    key, before, distill = path.split(".", 1)[1], len(reader.errors), cell.distill
    expected = f"{cell.suite}-{cell.method}-{cell.dataset}-ipc{distill.ipc}"
    if not key.startswith(f"{cell.suite}-{cell.method}-{cell.dataset}-ipc"):
        reader.error(path, key, f"a cell's key is SUITE-METHOD-DATASET-ipcN, here {expected}")
    for column, name in (("distill.watch_protocol", distill.watch_protocol), ("evaluate.protocol", cell.evaluate.protocol)):
        if reader.reference(f"{path}.{column}", name, protocol_names, "protocols"):
            _check_loss(reader, f"{path}.{column}", name, protocols, distill)
    _check_baselines(reader, path, cell, protocols)
    if cell.dataset not in datasets or cell.preprocessing not in preprocessing:
        return False
    dataset, shape = datasets[cell.dataset], shape_of(cell, datasets, preprocessing)
    if preprocessing[cell.preprocessing].dataset != cell.dataset:
        reader.error(f"{path}.preprocessing", cell.preprocessing, f"is of {preprocessing[cell.preprocessing].dataset}, not {cell.dataset}")
    classes = 2
    if dataset.source:
        _, classes, smallest, num_train, _ = KNOWN_SOURCES[dataset.source]
        wanted = max(distill.ipc, _real_images(distill, shape))
        if wanted > smallest:
            reader.error(f"{path}.distill.ipc", distill.ipc, f"takes {wanted} real images of each class; {dataset.source}'s smallest has {smallest}")
        batch_of, most = f"{dataset.source}'s smallest class", smallest
        if distill.batches != "by_class":
            batch_of, most = ("the chunk", distill.chunk) if distill.chunk else ("the training images", num_train)
        if distill.real_batch > most:
            reader.error(f"{path}.distill.real_batch", distill.real_batch, f"must be at most {most}, {batch_of}")
        if classes % distill.class_steps:
            reader.error(f"{path}.distill.class_steps", distill.class_steps, f"must divide the {classes} classes of {dataset.source}")
        if distill.chunk and (max(distill.seeds) + 1) * distill.chunk > num_train:
            most = num_train // distill.chunk
            reader.error(f"{path}.distill.chunk", distill.chunk, f"{num_train} training images give {most} chunk(s): seeds must be below {most}")
    if any(s > distill.steps for s in distill.watch_at or ()):
        reader.error(f"{path}.distill.watch_at", list(distill.watch_at), f"must not go beyond steps ({distill.steps})")
    if isinstance(distill, METHOD_PARAMS["isa"]) and distill.topk and int(abs(distill.topk) * distill.real_batch) < 2:
        reader.error(f"{path}.distill.topk", distill.topk, f"must keep at least 2 of the {distill.real_batch} images of real_batch, for a neighbour")
    _check_inner_steps(reader, f"{path}.distill", distill)
    _check_rank(reader, f"{path}.distill", distill, shape)
    _check_schedule(reader, f"{path}.distill", distill, shape, classes if dataset.source else None)
    _check_minibatches(reader, path, cell, shape, classes if dataset.source else None, protocols)
    for name, column in [(distill.net, "distill.net"), *((net, "evaluate.nets") for net in cell.evaluate.nets)]:
        if (parse_arch(name) in TEXT) != isinstance(preprocessing[cell.preprocessing], Words):
            reader.error(f"{path}.{column}", name, f"{', '.join(TEXT)} are for sentences, the other networks for images")
        else:
            _check_network(reader, f"{path}.{column}", name, shape)
    builds = reader.only in (None, key)
    if builds and len(reader.errors) == before and (must := singular_kernel(distill, shape, classes)):
        reader.error(f"{path}.distill.ipc", distill.ipc, must)
    return len(reader.errors) == before


def _check_loss(reader, path, name, protocols, distill):
    """A protocol's loss must fit the labels that the method gives its sets."""
    if name not in protocols:
        return
    must = "squared_error" if distill.labels == "centred" else "cross_entropy"
    if protocols[name].loss != must:
        reader.error(path, name, f"has loss {protocols[name].loss}; this method's {distill.labels} labels need a protocol of {must}")
    if protocols[name].optimizer == "schedule" and not isinstance(distill, METHOD_PARAMS["dd"]):
        reader.error(path, name, "follows a set's own schedule, which only dd and sldd give it")


def _check_baselines(reader, path, cell, protocols):
    protocol = protocols.get(cell.evaluate.protocol)
    if cell.evaluate.baselines and protocol and protocol.optimizer != "schedule":
        reader.error(f"{path}.evaluate.baselines", True, "are of sets with a schedule: take a protocol of optimizer schedule, or false")


def _check_schedule(reader, path, distill, shape, classes):
    """What DD's set is made of; classes: their number, where it is known."""
    if not isinstance(distill, METHOD_PARAMS["dd"]):
        return
    if images_per_class(distill, shape) % distill.minibatches:
        reader.error(f"{path}.minibatches", distill.minibatches, f"must divide the {images_per_class(distill, shape)} images of each class")
    if classes and distill.classes and max(distill.classes) >= classes:
        reader.error(f"{path}.classes", list(distill.classes), f"must be below {classes}")
    if distill.start == "fixed" and distill.nets_per_step > 1:
        reader.error(f"{path}.nets_per_step", distill.nets_per_step, "must be 1 where all networks start from the same weights")
    if distill.class_steps > 1:
        reader.error(f"{path}.class_steps", distill.class_steps, "must be 1: the steps' schedules would not make one")


def _check_inner_steps(reader, path, distill):
    if not isinstance(distill, METHOD_PARAMS["rat"]):
        return
    if distill.window > distill.inner_steps:
        reader.error(f"{path}.window", distill.window, f"must be at most inner_steps ({distill.inner_steps})")
    if distill.inner_batch and not distill.batch_per_class:
        reader.error(f"{path}.inner_batch", distill.inner_batch, "takes batch_per_class, at least 1; or make it 0, for the whole set")


def _check_minibatches(reader, path, cell, shape, classes, protocols):
    """Minibatches of so many images of each of some classes must be in the set, whole; classes: their number, where it is known."""
    distill, count = cell.distill, images_per_class(cell.distill, shape)
    drawn = [("distill.inner_batch", distill.inner_batch, distill.batch_per_class)] if isinstance(distill, METHOD_PARAMS["rat"]) else []
    for column, name in (("distill.watch_protocol", distill.watch_protocol), ("evaluate.protocol", cell.evaluate.protocol)):
        drawn += [(column, protocols[name].batch, protocols[name].batch_per_class)] if name in protocols else []
    for column, batch, per_class in drawn:
        if per_class and distill.class_steps > 1:
            reader.error(f"{path}.{column}", batch, "batch_per_class wants sets of all classes: distill.class_steps must be 1")
        elif per_class and (not batch or batch % per_class or per_class > count or batch // per_class > (classes or batch)):
            must = f"must be batch_per_class ({per_class}; at most {count}, the set's images of a class) for each of at most {classes or 'all'} classes"
            reader.error(f"{path}.{column}", batch, must)


def _check_rank(reader, path, distill, shape):
    if not distill.rank:
        if distill.images:
            reader.error(f"{path}.images", distill.images, "is for a rank alone: pixels have ipc images a class; remove it")
        if distill.init == "svd":
            reader.error(f"{path}.init", distill.init, "is for a rank alone: real or noise")
        return
    if distill.init in ("real", "correct"):
        reader.error(f"{path}.init", distill.init, "a rank starts from noise or from svd, the best factors of real images")
    if distill.rank > min(shape[1:]):
        reader.error(f"{path}.rank", distill.rank, f"must be at most {min(shape[1:])}, the side of the images")
    elif images_per_class(distill, shape) < 1:
        reader.error(f"{path}.rank", distill.rank, "leaves no image in the memory of one image of pixels; lower it, or give images")


def _real_images(distill, shape):
    """Real images of each class that a run starts from."""
    return 0 if distill.init == "noise" else images_per_class(distill, shape)


def parse_arch(name):
    """A network's architecture, or None for what is not a network's name."""
    try:
        return parse(name)[0]
    except ValueError:
        return None


def _check_network(reader, path, name, shape):
    try:
        parse(name)
        if reader.only is None or f".{reader.only}." in path:
            feature_width(name, shape)
    except ValueError as error:
        reader.error(path, name, str(error))


def _check_application(reader, row, path, cells, cell_names, protocol_names, shapes, protocols_of_row):
    """What continual and membership rows share -> the cell that a row is about, or None."""
    key = path.split(".", 1)[1]
    for column in protocols_of_row:
        reader.reference(f"{path}.{column}", getattr(row, column), protocol_names, "protocols")
    if key not in cell_names:
        reader.error(path, key, "a row's key is that of the cell whose distilled sets it is about; there is no such cell")
    if key not in cells:
        return None
    for column in ("suite", "dataset", "preprocessing"):
        if getattr(row, column) != getattr(cells[key], column):
            reader.error(f"{path}.{column}", getattr(row, column), f"must be {getattr(cells[key], column)}, as its cell says")
    _check_network(reader, f"{path}.net", row.net, shapes[key])
    return cells[key]


def _check_continual(reader, row, path, cells, cell_names, protocol_names, protocols, shapes):
    before = len(reader.errors)
    cell = _check_application(reader, row, path, cells, cell_names, protocol_names, shapes, ("protocol", "herding"))
    for column in ("protocol", "herding") if cell else ():
        _check_loss(reader, f"{path}.{column}", getattr(row, column), protocols, cell.distill)
        if getattr(row, column) in protocols and protocols[getattr(row, column)].batch_per_class:
            reader.error(f"{path}.{column}", getattr(row, column), "has batch_per_class, which wants sets of all classes")
    if cell and cell.distill.class_steps == 1:
        reader.error(path, cell.distill.class_steps, "the cell's distill.class_steps must be above 1")
    return len(reader.errors) == before


def _check_membership(reader, row, path, cells, cell_names, protocol_names, protocols, shapes):
    before = len(reader.errors)
    cell = _check_application(reader, row, path, cells, cell_names, protocol_names, shapes, ("protocol", "real_protocol"))
    if cell and cell.distill.labels != "centred":
        reader.error(path, cell.method, "the attacks measure the squared error to FRePo's labels: its cell must be of frepo or isa")
    if cell and not cell.distill.chunk:
        reader.error(path, cell.distill.chunk, "the cell's distill.chunk must be above 0: members are the images that it was distilled from")
    named = [(column, protocols[getattr(row, column)]) for column in ("protocol", "real_protocol") if getattr(row, column) in protocols]
    for column, protocol in named:
        if protocol.optimizer != "adam" or protocol.warmup or protocol.lr_final != 1 or protocol.loss != "squared_error":
            must = "must be an adam protocol of constant rate (warmup: 0, lr_final: 1.0) and squared_error: one training is looked at many times"
            reader.error(f"{path}.{column}", getattr(row, column), must)
    if named and max(row.updates) > (steps := min(protocol.steps for _, protocol in named)):
        reader.error(f"{path}.updates", list(row.updates), f"must not go beyond the steps of its protocols ({steps})")
    return len(reader.errors) == before


def _check_scores(reader, row, path, experts_names, experts, cells, cell_names, protocol_names, protocols, shapes):
    before = len(reader.errors)
    cell = _check_application(reader, row, path, cells, cell_names, protocol_names, shapes, ("hard", "full"))
    teacher = experts.get(row.experts) if reader.reference(f"{path}.experts", row.experts, experts_names, "experts") else None
    if teacher and cell and teacher.preprocessing != row.preprocessing:
        reader.error(f"{path}.experts", row.experts, f"a teacher must know the cell's images: experts of {row.preprocessing}")
    for column in ("hard", "full"):
        protocol = protocols.get(getattr(row, column))
        if protocol and (protocol.optimizer != "sgd" or protocol.loss != "cross_entropy"):
            reader.error(f"{path}.{column}", getattr(row, column), "must be a protocol of optimizer sgd and loss cross_entropy")
    return len(reader.errors) == before


def check_against_data(key, cfg, real):
    """What a user's own folder or a chunk tells only now; ParamsError as of the file. cfg: schema.Distill; real: a RealSet."""
    path = f"params.yaml: cells.{key}.distill"
    if real.num_classes % cfg.class_steps:
        raise ParamsError(f"{path}.class_steps: found {cfg.class_steps}; must divide the {real.num_classes} classes")
    if must := singular_kernel(cfg, real.shape, real.num_classes):
        raise ParamsError(f"{path}.ipc: found {cfg.ipc}; {must}")
    for seed in cfg.seeds:
        labels = real.chunk(seed, cfg.chunk).train_y if cfg.chunk else real.train_y
        smallest = labels.bincount(minlength=real.num_classes).min().item()
        for name, wanted in (("ipc", max(cfg.ipc, _real_images(cfg, real.shape))), ("real_batch", cfg.real_batch if cfg.batches == "by_class" else 0)):
            if wanted > smallest:
                found = getattr(cfg, name)
                raise ParamsError(f"{path}.{name}: found {found}; {wanted} images of a class are taken, the smallest that seed {seed} sees has {smallest}")


def singular_kernel(distill, shape, classes):
    """What to do where FRePo's set of a cell has a singular kernel; None where it has not."""
    if not isinstance(distill, METHOD_PARAMS["frepo"]):
        return None
    n, width = images_per_class(distill, shape) * classes // distill.class_steps * (2 if distill.flip else 1), feature_width(distill.net, shape)
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
