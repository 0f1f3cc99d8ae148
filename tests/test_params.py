"""params.yaml: the shipped file is right, and what is wrong in a file is found whole, before any compute."""

import copy
import re
from pathlib import Path

import pytest
import torch
import yaml

from lib.config.limits import check_against_data
from lib.config.load import ParamsError, load_params
from lib.data.preprocess import Preprocess
from lib.data.real import RealSet
from lib.data.sources import in_shape

SHIPPED = yaml.safe_load(Path("params.yaml").read_text())
KEY = "digits-frepo-digits-ipc1"
ISA = "digits-isa-digits-ipc1"
CONTINUAL = "digits-frepo-digits-ipc1-steps5"
MEMBERSHIP = "digits-frepo-digits-ipc10-chunk500"
DM, LODM = "digits-dm-digits-ipc1", "digits-frepo-digits-ipc1-rank2"
DD, RAT, SCORES = "digits-dd-digits-ipc1", "digits-rat-digits-ipc1", "digits-datm-digits-ipc1"


def errors_of(tmp_path, change):
    """The lines that a changed copy of the shipped file is refused with."""
    node = copy.deepcopy(SHIPPED)
    change(node)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.dump(node, Dumper=yaml.CSafeDumper))
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    return str(caught.value).splitlines()


def test_shipped_file_is_valid_and_rows_take_their_methods_defaults():
    params = load_params()
    cell = params.cells["frepo-frepo-cifar10-ipc1"]
    assert (
        cell.distill.steps == 500_000 and cell.distill.pool_size == 10 and cell.distill.ipc == 1 and cell.distill.flip
    )
    assert in_shape(params.datasets["cifar10"]) == (3, 32, 32)


def test_every_published_frepo_figure_has_its_cell():
    from lib.report.published import published_figures

    wanted = {
        f"frepo-frepo-{dataset}-ipc{ipc}"
        for dataset, figures in published_figures()["frepo"].items()
        for ipc in figures
    }
    assert wanted == {
        key
        for key, cell in load_params().cells.items()
        if cell.suite == "frepo" and cell.distill.class_steps == 1 and not cell.distill.chunk
    }


def test_flip_and_protocol_of_frepos_cells_follow_the_sheet():
    cells = {k: c for k, c in load_params().cells.items() if c.suite == "frepo"}
    flipped = {k for k, c in cells.items() if c.distill.flip}
    assert not any(k for k in flipped if "mnist" in k or "imagenet64" in k)
    assert (
        "frepo-frepo-cifar100-ipc1" in flipped
        and "frepo-frepo-cifar100-ipc10" not in flipped
        and "frepo-frepo-tiny_imagenet-ipc10" not in flipped
    )
    steps = {10: 1000, 100: 2000, 200: 20000, 500: 5000, 1000: 10000, 2000: 40000, 5000: 40000}  # section 9b, by N
    params = load_params()
    classes = {"cifar100": 100, "tiny_imagenet": 200, "cub200": 200, "imagenet64": 1000}
    for cell in cells.values():
        n = classes.get(cell.dataset, 10) * cell.distill.ipc
        assert params.protocols[cell.evaluate.protocol].steps == steps[n]


def set_in(*path_and_value):
    *path, last, value = path_and_value

    def change(node):
        for key in path:
            node = node[key]
        node[last] = value

    return change


def remove(*path):
    def change(node):
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return change


DISTILL = ("cells", KEY, "distill")


def by_class(*path):
    """A memory's protocol whose batches are of so many images a class."""

    def change(table):
        table["protocols"]["mine"] = table["protocols"]["digits-memory"] | {"batch": 20, "batch_per_class": 1}
        set_in(*path, "mine")(table)

    return change


def experts_on(key, net):
    """The network of a row of experts, and of the cells that take them."""

    def change(node):
        for row in (node["experts"][key], *(c["distill"] for c in node["cells"].values() if c["experts"] == key)):
            row["net"] = net

    return change


BAD = [
    (set_in(*DISTILL, "ipc", "ten"), ["distill.ipc", "'ten'", "an integer"]),
    (set_in(*DISTILL, "ipc", 0), ["distill.ipc", "0", "at least 1"]),
    (set_in(*DISTILL, "ipc", True), ["distill.ipc", "True", "an integer"]),
    (set_in(*DISTILL, "ipc", 129), ["distill.ipc", "takes 129 real images", "smallest has 128"]),
    (set_in(*DISTILL, "ipc", 26), ["distill.ipc", "260 images", "256"]),
    (set_in(*DISTILL, "outer_lr", "0.001"), ["distill.outer_lr", "'0.001'", "in quotes it is a text"]),
    (set_in(*DISTILL, "outer_lr", -1.0), ["distill.outer_lr", "-1.0", "above 0"]),
    (set_in(*DISTILL, "pool_sise", 3), ["distill.pool_sise", "did you mean pool_size"]),
    (remove(*DISTILL, "net"), ["distill.net: missing"]),
    (set_in(*DISTILL, "net", "convnets3"), ["distill.net", "'convnets3'", "conv3-batch"]),
    (set_in(*DISTILL, "net", "vgg11"), ["distill.net", "does not fit images of 8x8"]),
    (set_in(*DISTILL, "seeds", []), ["distill.seeds", "distinct integers"]),
    (set_in(*DISTILL, "seeds", [1, 1]), ["distill.seeds", "[1, 1]", "distinct integers"]),
    (set_in(*DISTILL, "real_batch", 5000), ["distill.real_batch", "5000", "at most 1297"]),
    (set_in(*DISTILL, "eval_at", [9999]), ["distill.eval_at", "from 0 (the start) to steps (300)"]),
    (set_in(*DISTILL, "eval_at", [-1]), ["distill.eval_at", "from 0 (the start) to steps (300)"]),
    (set_in(*DISTILL, "conv_dtype", "fp16"), ["distill.conv_dtype", "'fp16'", "float32, bfloat16"]),
    (set_in(*DISTILL, "eval_protocol", "none"), ["distill.eval_protocol", "one of protocols"]),
    (set_in("cells", KEY, "evaluate", "nets", ["alexnet", "vgg16"]), ["evaluate.nets", "'vgg16'"]),
    (set_in("cells", KEY, "dataset", "cifar"), [f"cells.{KEY}.dataset", "'cifar'", "cifar10"]),
    (set_in("cells", KEY, "preprocessing", "mnist"), ["preprocessing", "is of mnist, not digits"]),
    (set_in("cells", KEY, "method", "nomethod"), [".method", "'nomethod'", "frepo"]),
    (set_in("cells", "my cell", SHIPPED["cells"][KEY]), ["'my cell'", "letters, digits"]),
    (set_in("cells", "best", SHIPPED["cells"][KEY]), ["cells.best", "SUITE-METHOD-DATASET-ipcN"]),
    (
        set_in("datasets", "mnist", {"source": "mnist", "resolution": 32}),
        ["datasets.mnist.resolution", "32", "28 pixels"],
    ),
    (set_in("datasets", "mnist", "held_out", 5), ["datasets.mnist.held_out", "5", "multiple of 10"]),
    (set_in("datasets", "mnist", "held_out", 54210), ["datasets.mnist.held_out", "54210", "an image must be left"]),
    (set_in("datasets", "trec6", "held_out", 6), ["datasets.trec6.held_out", "6", "for images"]),
    (set_in("datasets", "mine", {"resolution": 32}), ["datasets.mine", "exactly one of source, folder and subset"]),
    (set_in("preprocessing", "digits", "std", [0.0]), ["preprocessing.digits.std", "above 0"]),
    (set_in("preprocessing", "digits", "mean", [0.1, 0.2, 0.3]), ["preprocessing.digits.mean", "must have 1 value"]),
    (set_in("protocols", "digits", "warmup", 151), ["protocols.digits.warmup", "151", "at most steps (150)"]),
    (set_in("protocols", "digits", "num_nets", 2.5), ["protocols.digits.num_nets", "2.5", "an integer"]),
    (set_in("runtime", "device", "gpu"), ["runtime.device", "'gpu'", "auto, cpu, cuda"]),
    (
        set_in("cells", CONTINUAL, "distill", "class_steps", 3),
        ["distill.class_steps", "3", "must divide the 10 classes"],
    ),
    (
        set_in("cells", MEMBERSHIP, "distill", "chunk", 1000),
        ["distill.chunk", "1000", "1297 training images give 1 chunk(s)", "seeds must be below 1"],
    ),
    (
        set_in("cells", MEMBERSHIP, "distill", "real_batch", 600),
        ["distill.real_batch", "600", "at most 500, the chunk"],
    ),
    (set_in("cells", ISA, "distill", "topk", 1.5), ["distill.topk", "1.5", "between -1 and 1"]),
    (set_in("cells", ISA, "distill", "topk", 0.005), ["distill.topk", "0.005", "at least 2 of the 256 images"]),
    (set_in("cells", ISA, "distill", "epsilon", float("inf")), ["distill.epsilon", "inf", "finite"]),
    (set_in("cells", ISA, "baseline", "frepo"), [f"cells.{ISA}.baseline", "'frepo'", KEY]),
    (
        set_in("cells", KEY, "evaluate", "nets", ["mlp-batch"]),
        ["evaluate.nets", "'mlp-batch'", "not of alexcifar", "lenet, lenet_dc"],
    ),
    (
        set_in("cells", KEY, "evaluate", "nets", ["conv2-batch-max"]),
        ["evaluate.nets", "'conv2-batch-max'", "convnetDEPTH also takes"],
    ),
    (
        set_in("cells", KEY, "evaluate", "protocol", "dc-300"),
        ["evaluate.protocol", "'dc-300'", "centred labels need a protocol of squared_error"],
    ),
    (
        set_in("cells", DM, "distill", "eval_protocol", "digits"),
        ["eval_protocol", "'digits'", "one_hot labels need a protocol of cross_entropy"],
    ),
    (
        set_in("cells", DM, "distill", "real_batch", 200),
        ["distill.real_batch", "200", "at most 128, digits's smallest class"],
    ),
    (set_in("cells", DM, "distill", "init", "svd"), ["distill.init", "'svd'", "is for a rank alone"]),
    (set_in("cells", DM, "distill", "images", 3), ["distill.images", "3", "is for a rank alone"]),
    (set_in("cells", DM, "distill", "augment", "rgb"), ["distill.augment", "'rgb'", "none, dsa, dsa-noflip"]),
    (set_in("cells", LODM, "distill", "rank", 9), ["distill.rank", "9", "at most 8"]),
    (set_in("cells", LODM, "distill", "rank", 5), ["distill.rank", "5", "leaves no image"]),
    (set_in("cells", LODM, "distill", "init", "real"), ["distill.init", "'real'", "starts from noise or from svd"]),
    (set_in("protocols", "dc-300", "steps", 100), ["protocols.dc-300", "optimizer sgd takes epochs", "no steps"]),
    (set_in("protocols", "digits", "epochs", 10), ["protocols.digits", "optimizer adam takes steps", "no epochs"]),
    (set_in("protocols", "dd-fixed", "steps", 10), ["protocols.dd-fixed", "the set's own minibatches"]),
    (set_in("cells", DM, "evaluate", "protocol", "dd-fixed"), ["evaluate.protocol", "'dd-fixed'", "only dd and sldd"]),
    (
        set_in("cells", DD, "distill", "minibatches", 3),
        ["distill.minibatches", "3", "must divide the 1 images of each class"],
    ),
    (set_in("cells", RAT, "distill", "window", 31), ["distill.window", "31", "at most inner_steps (30)"]),
    (set_in("cells", RAT, "distill", "inner_batch", 20), ["distill.inner_batch", "20", "takes batch_per_class"]),
    (
        set_in("cells", RAT, "distill", "batch_per_class", 2),
        ["distill.inner_batch", "0", "batch_per_class (2; at most 1"],
    ),
    (
        set_in("protocols", "digits-rat", "batch_per_class", 3),
        ["protocols.digits-rat.batch_per_class", "3", "must divide batch (100)"],
    ),
    (set_in("cells", RAT, "evaluate", "protocol", "rat-class"), ["evaluate.protocol", "100", "at most 10 classes"]),
    (
        set_in("protocols", "digits-sgd", "batch_per_class", 1),
        ["protocols.digits-sgd.batch_per_class", "belongs to optimizer adam"],
    ),
    (by_class("continual", CONTINUAL, "protocol"), [f"continual.{CONTINUAL}.protocol", "wants sets of all classes"]),
    (by_class("cells", CONTINUAL, "evaluate", "protocol"), ["evaluate.protocol", "class_steps must be 1"]),
    (set_in("cells", DD, "distill", "classes", [3, 10]), ["distill.classes", "[3, 10]", "must be below 10"]),
    (set_in("cells", DD, "distill", "nets_per_step", 2), ["distill.nets_per_step", "2", "must be 1"]),
    (set_in("cells", DD, "distill", "lr_start", 0.0), ["distill.lr_start", "0.0", "above 0"]),
    (set_in("cells", DD, "distill", "net", "textrnn"), ["distill.net", "'textrnn'", "for sentences"]),
    (set_in("cells", DD, "distill", "net", "dense1-w32-batch"), ["distill.net", "'dense1-w32-batch'", "-xavier"]),
    (set_in("datasets", "cifar10", "channels", 1), ["datasets.cifar10.channels", "1", "has its own; remove it"]),
    (set_in("datasets", "trec6", "resolution", 8), ["datasets.trec6.resolution", "8", "sentences have none"]),
    (set_in("preprocessing", "trec6-random", "length", 0), ["preprocessing.trec6-random.length", "0", "at least 1"]),
    (
        set_in("preprocessing", "trec6-random", "std", [1.0]),
        ["preprocessing.trec6-random.std", "unknown key", "vectors"],
    ),
    (set_in("protocols", "dc-300", "warmup", 10), ["protocols.dc-300", "belong to optimizer adam"]),
    (
        set_in("continual", CONTINUAL, "herding", "none"),
        [f"continual.{CONTINUAL}.herding", "'none'", "one of protocols"],
    ),
    (set_in("continual", CONTINUAL, "suite", "frepo"), [f"continual.{CONTINUAL}.suite", "'frepo'", "must be digits"]),
    (set_in("continual", KEY, SHIPPED["continual"][CONTINUAL]), [f"continual.{KEY}", "class_steps must be above 1"]),
    (set_in("continual", "mine", SHIPPED["continual"][CONTINUAL]), ["continual.mine", "there is no such cell"]),
    (set_in("continual", CONTINUAL, "net", "vgg11"), [f"continual.{CONTINUAL}.net", "does not fit images of 8x8"]),
    (
        set_in("membership", MEMBERSHIP, "protocol", "frepo-1000-grey"),
        [f"membership.{MEMBERSHIP}.protocol", "constant rate"],
    ),
    (
        set_in("membership", MEMBERSHIP, "updates", [100, 9000]),
        [f"membership.{MEMBERSHIP}.updates", "9000", "steps of its protocols"],
    ),
    (set_in("membership", MEMBERSHIP, "shadows", 3), [f"membership.{MEMBERSHIP}.shadows", "3", "even"]),
    (
        set_in("membership", CONTINUAL, SHIPPED["membership"][MEMBERSHIP]),
        [f"membership.{CONTINUAL}", "chunk must be above 0"],
    ),
    (set_in("scores", SCORES, "experts", "none"), [f"scores.{SCORES}.experts", "'none'", "needs a row of experts"]),
    (
        experts_on("digits", "convnet2-w32-instance-swish"),
        ["digits-edf-digits-ipc1.distill.judge", "'experts'", "a ReLU"],
    ),
    (
        set_in("cells", "digits-sldd-topics-ipc1", "distill", "relu_width", 0.1),
        ["digits-sldd-topics-ipc1.distill.relu_width", "0.1", "one network a step"],
    ),
    (set_in("protocols", "frepo-1000", "steps", 0), ["protocols.frepo-1000", "optimizer adam takes steps"]),
    (set_in("cells", KEY, "method", []), [f"cells.{KEY}.method", "[]", "must be one of methods"]),
    (set_in("datasets", "mine", {"resolution": 8, "source": []}), ["datasets.mine.source", "[]", "one of digits"]),
    (set_in("cels", {}), ["cels", "unknown table"]),
    (remove("cells", KEY, "evaluate"), [f"cells.{KEY}.evaluate: missing"]),
]


def test_a_network_that_does_not_fit_is_said_to_where_class_maps_are_asked_of_it(tmp_path):
    lines = errors_of(tmp_path, experts_on("digits", "vgg11"))
    assert lines and all("does not fit" in line for line in lines), lines


@pytest.mark.parametrize("change, words", BAD, ids=[" ".join(words)[:50] for _, words in BAD])
def test_one_wrong_value_gives_one_line_that_names_it(tmp_path, change, words):
    lines = errors_of(tmp_path, change)
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in words), lines[0]


def test_all_errors_of_a_file_come_at_once(tmp_path):
    def change(node):
        set_in(*DISTILL, "ipc", "ten")(node)
        set_in("runtime", "device", "gpu")(node)
        set_in("protocols", "frepo-1000", "lr", 0)(node)

    lines = errors_of(tmp_path, change)
    assert len(lines) == 3 and any("ten" in line for line in lines) and any("gpu" in line for line in lines)


@pytest.mark.parametrize(
    "text, word", [("cells: [", "not valid YAML"), ("", "must be a mapping"), ("- 1", "must be a mapping")]
)
def test_files_that_are_not_parameters(tmp_path, text, word):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=word):
        load_params(path)
    with pytest.raises(ParamsError, match="not found"):
        load_params(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"ipc": 1, "chunk": 10}, None),
        ({"ipc": 6, "chunk": 10}, ["distill.ipc: found 6", "seed 0 sees has 5"]),
        ({"ipc": 1, "chunk": 10, "seeds": (0, 1, 2)}, ["distill.ipc: found 1", "seed 2 sees has 0"]),
        ({"class_steps": 3}, ["distill.class_steps: found 3", "divide the 2 classes"]),
        ({"ipc": 200}, ["distill.ipc: found 200", "400 images", "256"]),
        ({"ipc": 200, "class_steps": 2}, ["distill.ipc: found 200", "sees has 15"]),
    ],
)
def test_what_only_the_data_show_is_refused_before_any_compute(change, words):
    labels = torch.tensor([0, 1] * 10 + [0] * 10 + [1] * 5)
    x = torch.zeros(35, 1, 8, 8)
    real = RealSet(x, labels, x, labels, Preprocess(torch.zeros(1), torch.ones(1)), {"num_classes": 2})
    cfg = load_params().cells[KEY].distill.changed(**{"seeds": (0, 1), **change})
    if words is None:
        return check_against_data("mine", cfg, real)
    with pytest.raises(ParamsError) as caught:
        check_against_data("mine", cfg, real)
    assert all(word in str(caught.value) for word in ["cells.mine", *words]), caught.value


def test_rows_have_what_the_pipeline_names_of_them():
    """DVC does not see the defaults of `methods`: a key that dvc.yaml names of a row must stand in it."""
    for name, stage in yaml.safe_load(Path("dvc.yaml").read_text())["stages"].items():
        named = re.findall(r"\$\{item\.([\w.]+)\}", yaml.safe_dump(stage))
        rows = SHIPPED[stage["foreach"].strip("${}")] if named else {}
        assert named or name not in ("distill", "evaluate")
        for key, row in rows.items():
            for keys in named:
                value = row
                for part in keys.split("."):
                    assert part in value, f"{name}@{key}: {keys}"
                    value = value[part]
