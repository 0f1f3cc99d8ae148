"""What rows say of each other: generators of (column, what its value must be), or of (column, value, what it must be).

`tables` has the rows of each table that are right in themselves; what names a row that is wrong is not wrong for that.
"""

from ..data.sources import SOURCES, in_shape, is_text
from ..networks import ARCHITECTURES, OWN, parse
from ..synthetic.lowrank import images_per_class
from . import models
from .limits import derived_by_hand, feature_width, has_class_maps, real_images, singular_kernel, try_own

SMOOTHED = "is for one network a step of linear layers, convolutions, group norms and ReLUs, and more than two classes"


def shape_of(tables, row):
    """(K, H, W) of what a row's networks see: images, or sentences (1, L, D); None where its data are wrong."""
    dataset, pre = tables["datasets"].get(row.dataset), tables["preprocessing"].get(row.preprocessing)
    if dataset and pre and pre.dataset == row.dataset:
        return (1, pre.length, pre.dim) if isinstance(pre, models.Words) else in_shape(dataset)


def dataset(tables, key, row):
    given = {name: getattr(row, name) for name in ("source", "folder", "subset")}
    source = SOURCES.get(row.source, {"channels": 3})
    if sum(value is not None for value in given.values()) != 1:
        yield "", given, "give exactly one of source, folder and subset"
    elif (row.resolution is None) != is_text(row):
        yield (
            "resolution",
            "sentences have none; remove it" if is_text(row) else "missing; the side of the images in pixels",
        )
    elif row.resolution != source.get("resolution", row.resolution):
        yield "resolution", f"{row.source} has {source['resolution']} pixels"
    elif row.channels and not row.folder and (is_text(row) or row.channels < source["channels"]):
        yield "channels", f"{row.source or row.subset} has its own; remove it"
    elif row.held_out and is_text(row):
        yield "held_out", "is for images; remove it"
    elif row.source and not 0 <= row.held_out < (most := source["classes"] * source["smallest_class"]):
        yield "held_out", f"must be below {most}: of {row.source}'s smallest class, an image must be left"
    elif row.source and row.held_out % source["classes"]:
        yield "held_out", f"must be a multiple of {source['classes']}: as many of each class"


def preprocessing(tables, key, row):
    data = tables["datasets"].get(row.dataset)
    if data is None or isinstance(row, models.Words):
        return
    if (row.mean is None) != (row.std is None):
        yield "", {"mean": row.mean, "std": row.std}, "give both mean and std, or neither (then they are measured)"
    for name, values in (("mean", row.mean), ("std", row.std)):
        if values is not None and len(values) != (channels := in_shape(data)[0]):
            yield name, f"must have {channels} value(s), one for each channel"
        if values is not None and not row.standardise:
            yield name, "has no effect with standardise: false; remove it"
    if data.resolution % row.checkerboard:
        yield "checkerboard", f"must divide the resolution {data.resolution}"


def protocol(tables, key, row):
    length, other = ("steps", "epochs") if row.optimizer == "adam" else ("epochs", "steps")
    fixed = {"steps": 0, "epochs": 0, "batch": 0, "augment": "none", "loss": "cross_entropy"}
    found = {name: getattr(row, name) for name in fixed}
    if row.optimizer == "schedule" and found != fixed:
        yield "", found, f"optimizer schedule goes by the set's own minibatches: these must be {fixed}"
    if row.optimizer != "schedule" and (getattr(row, length) < 1 or getattr(row, other) or row.batch < 1):
        yield "", found, f"optimizer {row.optimizer} takes {length} and batch, at least 1, and no {other}"
    if row.optimizer != "adam" and (row.warmup or row.lr_final != 1):
        yield "", {"warmup": row.warmup, "lr_final": row.lr_final}, "belong to optimizer adam; remove them"
    elif row.warmup > row.steps > 0:
        yield "warmup", f"must be at most steps ({row.steps})"
    if row.batch_per_class and (row.optimizer != "adam" or row.batch % row.batch_per_class):
        yield "batch_per_class", f"belongs to optimizer adam and must divide batch ({row.batch})"


def network(tables, column, name, row):
    """Whether a network fits the row's images or sentences."""
    shape, (arch, _) = shape_of(tables, row), parse(name)
    if shape and ARCHITECTURES[arch].text not in (None, is_text(tables["datasets"][row.dataset])):
        texts = ", ".join(arch for arch, builder in ARCHITECTURES.items() if builder.text)
        yield column, name, f"{texts} are for sentences, the other networks for images"
    elif shape:
        try:
            if arch == OWN:
                once = column != "distill.net" or isinstance(row.distill, models.FRePo | models.DM)
                try_own(name, shape, twice=not once)
            feature_width(name, shape)
        except ValueError as error:
            yield column, name, str(error)


def own_data(tables, key, row):
    """A preprocessing of the row's own dataset."""
    pre = tables["preprocessing"].get(row.preprocessing)
    if pre and pre.dataset != row.dataset:
        yield "preprocessing", f"is of {pre.dataset}, not {row.dataset}"


def on_labels(tables, row, *columns):
    """Protocols of plain training on labels."""
    for column in columns:
        found = tables["protocols"].get(getattr(row, column))
        if found and (found.optimizer != "sgd" or found.loss != "cross_entropy"):
            yield column, "must be a protocol of optimizer sgd and loss cross_entropy"


def external(tables, key, row):
    yield from own_data(tables, key, row)
    for net in row.nets:
        yield from network(tables, "nets", net, row)
    for column in ("file", "label_file"):
        if getattr(row, column).startswith("~"):
            yield column, "DVC has no ~: write the folder's whole path"
    data = tables["datasets"].get(row.dataset)
    if data and is_text(data) and row.space in ("0..1", "0..255"):
        yield "space", "is of images; sentences are vectors as networks see them: remove it"
    if (judged := tables["protocols"].get(row.protocol)) is None:
        return
    needed = "squared_error" if row.labels == "centred" else "cross_entropy"
    if row.labels != "classes" and judged.loss != needed:
        yield "protocol", f"has loss {judged.loss}; {row.labels} labels need a protocol of {needed}"
    if judged.batch_per_class:
        yield "protocol", "has batch_per_class, which wants sets whose images are in the order of their classes"
    if judged.optimizer == "schedule" and row.lr is not None:
        yield "lr", "is for optimizers sgd and adam; a schedule has the file's rates: remove it"


def experts(tables, key, row):
    yield from own_data(tables, key, row)
    if key == "none":
        yield "", key, "is the word for no experts; take another key"
    if row.held_out >= row.count:
        yield "held_out", f"must be below count ({row.count})"
    if row.count % row.together:
        yield "count", f"must be a multiple of together ({row.together}), how many are trained at once: give both"
    if row.keep > row.epochs:
        yield "keep", f"must be at most epochs ({row.epochs})"
    yield from network(tables, "net", row.net, row)


def experts_of(tables, cell):
    """That a cell's row of experts has what the cell takes of it."""
    cfg, row, matches = cell.distill, tables["experts"].get(cell.experts), cell.distill.batches == "segments"
    if cell.experts == "none" and matches:
        yield "experts", "this method needs a row of experts"
    if row is None:
        return
    if cfg.net != row.net:
        yield "distill.net", f"must be {row.net}, the network of its experts"
    if not matches and not isinstance(cfg, models.DD):
        yield "experts", f"{cell.method} takes no experts; make it none"
    elif not matches and list(cell.evaluate.nets) != [row.net]:
        yield "evaluate.nets", f"must be [{row.net}], whose weights its networks start from"
    elif not matches and cfg.start == "random" and not row.held_out:
        yield "experts", f"has no held_out experts, from which evaluations start: raise experts.{cell.experts}.held_out"
    if not matches:
        return
    for column in ("dataset", "preprocessing"):
        if getattr(cell, column) != getattr(row, column):
            yield column, f"must be {getattr(row, column)}, as of its experts"
    if (last := cfg.max_start - 1 + cfg.expert_epochs) > row.keep + (row.keep + 1 == row.epochs):
        must = f"needs the experts' epoch {last}; experts.{cell.experts} keeps {row.keep}: raise its keep"
        yield "distill.max_start", must
    if not cfg.min_start < (cfg.max_start_first or cfg.max_start) <= cfg.max_start:
        yield "distill.max_start", "min_start must be below max_start_first (unless 0), and this at most max_start"
    if cfg.class_steps > 1 or cfg.chunk:
        yield "distill.class_steps", "must be 1, and chunk 0: the experts have seen all images"


def cell(tables, key, row):
    if found := [*own_data(tables, key, row), *experts_of(tables, row)]:
        yield from found
        return
    if not key.startswith(f"{row.suite}-{row.method}-{row.dataset}-ipc"):
        expected = f"{row.suite}-{row.method}-{row.dataset}-ipc{row.distill.ipc}"
        yield "", key, f"a cell's key is SUITE-METHOD-DATASET-ipcN, here {expected}"
    if row.baseline == key:
        yield "baseline", "is the cell itself; name another, or remove it"
    named = {"distill.eval_protocol": row.distill.eval_protocol, "evaluate.protocol": row.evaluate.protocol}
    named |= {"evaluate.whole": row.evaluate.whole} if row.evaluate.whole else {}
    protocols = {column: tables["protocols"][name] for column, name in named.items() if name in tables["protocols"]}
    for column, each in protocols.items():
        yield from loss(column, each, row.distill)
    judged = protocols.get("evaluate.protocol")
    if row.evaluate.baselines and judged and judged.optimizer != "schedule":
        yield "evaluate.baselines", "are of sets with a schedule: take a protocol of optimizer schedule, or false"
    if (shape := shape_of(tables, row)) is None:
        return
    data = tables["datasets"][row.dataset]
    source = source_of(data)
    classes = source and source["classes"]
    found = [*of_data(row, row.distill, shape, source), *of_method(row.distill, shape, classes, protocols)]
    for column, net in [("distill.net", row.distill.net), *(("evaluate.nets", net) for net in row.evaluate.nets)]:
        found += network(tables, column, net, row)
    yield from found
    if not found and (must := singular_kernel(row.distill, shape, classes or 2)):
        yield "distill.ipc", must
    if not found and row.distill.judge == "experts" and not has_class_maps(net := row.distill.net, shape):
        yield "distill.judge", f"reads class maps off a ReLU of its network, and {net} has none of feature maps"
    if not found and getattr(row.distill, "relu_width", None) and not derived_by_hand(row.distill, shape, classes):
        yield "distill.relu_width", SMOOTHED


def loss(column, protocol, cfg):
    """A protocol's loss must fit the labels that the method gives its sets."""
    must = "squared_error" if cfg.labels == "centred" else "cross_entropy"
    if protocol.loss != must:
        yield column, f"has loss {protocol.loss}; this method's {cfg.labels} labels need a protocol of {must}"
    if protocol.optimizer == "schedule" and not isinstance(cfg, models.DD):
        yield column, "follows a set's own schedule, which only dd and sldd give it"


def source_of(data):
    """What is known of a dataset's source before it is read, less the images that are held out; None of a folder."""
    if (source := SOURCES.get(data.source)) is None:
        return None
    left = {"train": data.held_out, "smallest_class": data.held_out // source["classes"]}
    return source | {name: source[name] - count for name, count in left.items()}


def of_data(row, cfg, shape, source):
    """What a known source's size allows."""
    if any(not 0 <= step <= cfg.steps for step in cfg.eval_at or ()):
        yield "distill.eval_at", f"must be from 0 (the start) to steps ({cfg.steps})"
    if source is None:
        return
    smallest, count, wanted = source["smallest_class"], source["train"], max(cfg.ipc, real_images(cfg, shape))
    if wanted > smallest:
        yield "distill.ipc", f"takes {wanted} real images of each class; {row.dataset}'s smallest has {smallest}"
    batch_of, most = f"{row.dataset}'s smallest class", smallest
    if cfg.batches != "by_class":
        batch_of, most = ("the chunk", cfg.chunk) if cfg.chunk else ("the training images", count)
    if cfg.real_batch > most:
        yield "distill.real_batch", f"must be at most {most}, {batch_of}"
    if source["classes"] % cfg.class_steps:
        yield "distill.class_steps", f"must divide the {source['classes']} classes of {row.dataset}"
    if cfg.chunk and (max(cfg.seeds) + 1) * cfg.chunk > count:
        must = f"{count} training images give {count // cfg.chunk} chunk(s): seeds must be below {count // cfg.chunk}"
        yield "distill.chunk", must


def of_method(cfg, shape, classes, protocols):
    """What a method's settings allow of each other; classes: their number, where it is known."""
    images, drawn = images_per_class(cfg, shape), {}
    yield from rank(cfg, min(shape[1:]), images)
    if isinstance(cfg, models.ISA) and cfg.topk and int(abs(cfg.topk) * cfg.real_batch) < 2:
        yield "distill.topk", f"must keep at least 2 of the {cfg.real_batch} images of real_batch, for a neighbour"
    if isinstance(cfg, models.DD):
        yield from schedule(cfg, images, classes)
    if isinstance(cfg, models.RaT):
        drawn["distill.inner_batch"] = cfg.inner_batch, cfg.batch_per_class
        if cfg.window > cfg.inner_steps:
            yield "distill.window", f"must be at most inner_steps ({cfg.inner_steps})"
        if cfg.inner_batch and not cfg.batch_per_class:
            yield "distill.inner_batch", "takes batch_per_class, at least 1; or make it 0, for the whole set"
    drawn |= {column: (each.batch, each.batch_per_class) for column, each in protocols.items()}
    for column, (batch, each) in drawn.items():
        if each and cfg.class_steps > 1:
            yield column, batch, "batch_per_class wants sets of all classes: distill.class_steps must be 1"
        elif each and (not batch or batch % each or each > images or batch // each > (classes or batch)):
            most = f"for each of at most {classes or 'all'} classes"
            yield (
                column,
                batch,
                f"must be batch_per_class ({each}; at most {images}, the set's images of a class) {most}",
            )


def schedule(cfg, images, classes):
    """What DD's set is made of."""
    if images % cfg.minibatches:
        yield "distill.minibatches", f"must divide the {images} images of each class"
    for name in ("classes", "attack"):
        if classes and (named := getattr(cfg, name)) and max(named) >= classes:
            yield f"distill.{name}", f"must be below {classes}"
    if cfg.start == "fixed" and cfg.nets_per_step > 1:
        yield "distill.nets_per_step", "must be 1 where all networks start from the same weights"
    if cfg.class_steps > 1:
        yield "distill.class_steps", "must be 1: the steps' schedules would not make one"


def rank(cfg, side, images):
    """What low-rank images allow, and pixels do not."""
    if not cfg.rank and cfg.images:
        yield "distill.images", "is for a rank alone: pixels have ipc images a class; remove it"
    if not cfg.rank and cfg.init == "svd":
        yield "distill.init", "is for a rank alone: real or noise"
    if cfg.rank and cfg.init in ("real", "correct"):
        yield "distill.init", "a rank starts from noise or from svd, the best factors of real images"
    if cfg.rank > side:
        yield "distill.rank", f"must be at most {side}, the side of the images"
    elif images < 1:
        yield "distill.rank", "leaves no image in the memory of one image of pixels; lower it, or give images"


def application(tables, key, row):
    """What rows about a cell's sets share."""
    if cell := tables["cells"].get(key):
        for column in ("suite", "dataset", "preprocessing"):
            if getattr(row, column) != getattr(cell, column):
                yield column, f"must be {getattr(cell, column)}, as its cell says"
        yield from network(tables, "net", row.net, cell)


def continual(tables, key, row):
    yield from application(tables, key, row)
    cell = tables["cells"].get(key)
    for column in ("protocol", "herding"):
        if each := tables["protocols"].get(getattr(row, column)):
            yield from loss(column, each, cell.distill) if cell else ()
            if each.batch_per_class:
                yield column, "has batch_per_class, which wants sets of all classes"
    if cell and cell.distill.class_steps == 1:
        yield "", cell.distill.class_steps, "the cell's distill.class_steps must be above 1"


def membership(tables, key, row):
    yield from application(tables, key, row)
    cell = tables["cells"].get(key)
    if cell and cell.distill.labels != "centred":
        yield (
            "",
            cell.method,
            "the attacks measure the squared error to FRePo's labels: its cell must be of frepo or isa",
        )
    if cell and not cell.distill.chunk:
        must = "the cell's distill.chunk must be above 0: members are the images that it was distilled from"
        yield "", cell.distill.chunk, must
    named = {column: tables["protocols"].get(getattr(row, column)) for column in ("protocol", "real_protocol")}
    for column, each in named.items():
        if each and (each.optimizer != "adam" or each.warmup or each.lr_final != 1 or each.loss != "squared_error"):
            must = "must be an adam protocol of constant rate (warmup: 0, lr_final: 1.0) and squared_error"
            yield column, f"{must}: one training is looked at many times"
    if (steps := [each.steps for each in named.values() if each]) and max(row.updates) > min(steps):
        yield "updates", f"must not go beyond the steps of its protocols ({min(steps)})"


def scores(tables, key, row):
    yield from application(tables, key, row)
    if row.experts == "none":
        yield "experts", "needs a row of experts, of which one is the teacher"
    teacher = tables["experts"].get(row.experts)
    if teacher and key in tables["cells"] and teacher.preprocessing != row.preprocessing:
        yield "experts", f"a teacher must know the cell's images: experts of {row.preprocessing}"
    yield from on_labels(tables, row, "hard", "full")
