"""A network of the user's own, in lib/own: it distils and is evaluated, its code is in the recipes of its rows."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mlflow.utils.validation import _validate_metric_name

import lib.own
from lib.config import fingerprint
from lib.config.load import ParamsError, load_params
from lib.data.preprocess import Preprocess
from lib.data.real import RealSet, load_arrays
from lib.methods import METHODS
from lib.networks import build
from lib.records import Evaluation, read_metrics
from lib.rng import generator
from lib.synthetic.initial import initial_set
from lib.synthetic.set import SyntheticSet
from lib.training.batches import batches_for
from lib.training.students import Students, evaluate

from .test_recipes import forget, reread
from .toy import CELL, ENV, copied, dvc, edit, keep_suites, ran
from .toy import TOUCHED as ISA

ROOT = Path(__file__).parent.parent
NET, DC = "own.my_nets.SmallCNN", "digits-dc-digits-ipc1"
BLOCKS = """
from torch import nn


def block(channels, norm):
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), norm, nn.ReLU(), nn.AvgPool2d(2))


def unused():
    return 1
"""
CODE = """
from collections import OrderedDict

import torch
from torch import nn

from lib.networks.layers import torch_batch_norm

from .blocks import block


class SmallCNN(nn.Module):
    norm = nn.Identity

    def __init__(self, in_shape, num_classes):
        super().__init__()
        self.first = block(in_shape[0], self.norm(8))
        self.fc = nn.Linear(8 * (in_shape[1] // 2) ** 2, num_classes)

    def forward(self, x):
        return self.fc(self.first(x).flatten(1))


class Batch(SmallCNN):
    norm = staticmethod(torch_batch_norm)


class TorchBatch(SmallCNN):
    norm = nn.BatchNorm2d


class Layer(SmallCNN):
    norm = staticmethod(lambda channels: nn.LayerNorm([channels, 8, 8]))


class Slope(SmallCNN):
    norm = nn.PReLU


class Drawn(Slope):
    def reset(self, generator):
        for p in self.parameters():
            p.normal_(0, 0.1, generator=generator)
        self.fc.bias.zero_()


class Unseeded(SmallCNN):
    def reset(self, generator):
        for p in self.parameters():
            p.normal_()


class Counting(SmallCNN):
    def __init__(self, in_shape, num_classes):
        super().__init__(in_shape, num_classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return super().forward(x)


class Viewed(SmallCNN):
    def forward(self, x):
        return self.fc(self.first(x).view(len(x), -1))


class Branching(SmallCNN):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Masked(SmallCNN):
    def forward(self, x):
        return super().forward(x if x.is_meta or x[x > 0].sum() is not None else x)


class Soft(SmallCNN):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


class Ten(SmallCNN):
    def __init__(self, in_shape, num_classes):
        super().__init__(in_shape, 10)


class Tied(SmallCNN):
    def __init__(self, in_shape, num_classes):
        super().__init__(in_shape, num_classes)
        self.again = self.fc


class Fragile(SmallCNN):
    def __init__(self, in_shape, num_classes):
        super().__init__(in_shape, num_classes)
        self.missing += 1


class Attentive(nn.Module):
    def __init__(self, in_shape, num_classes):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        x = x.flatten(1, 2)
        return self.fc(self.attention(x, x, x, need_weights=False)[0].flatten(1))

    def reset(self, generator):
        for p in self.parameters():
            p.normal_(0, 0.1, generator=generator)


def number(in_shape, num_classes):
    return 3


"""


def write_own(folder):
    for name, text in (("my_nets", CODE), ("blocks", BLOCKS), ("broken", "import torch\n\nx = no_such\n")):
        (folder / f"lib/own/{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a copy of the project's code and networks of the user's, which this process imports."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("lib", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_own(folder)
    shutil.copy(ROOT / "params.yaml", folder)
    edit(folder, lambda params: keep_suites(params, "digits"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lib.own, "__path__", [str(folder / "lib/own")])
        patch.chdir(folder)
        patch.setattr(fingerprint, "ROOT", folder)
        forget()
        yield folder
    for name in [name for name in sys.modules if name.startswith("lib.own.")]:
        del sys.modules[name]
    forget()


def set_net(params, key, net):
    """Distil and evaluate a cell with a network."""
    params["cells"][key]["distill"]["net"] = net
    params["cells"][key]["evaluate"]["nets"] = [net]


def test_what_the_last_layer_is_given_are_the_features(own):
    net = build(NET, (1, 8, 8), 10).reset(generator(0, "net"))
    x = torch.randn(3, 1, 8, 8, generator=generator(1, "x"))
    first = net.module.first(x).flatten(1)
    assert net.feature_width == 128 and torch.equal(net.features(x), first)
    assert torch.allclose(net(x), first @ net.head.weight.T + net.head.bias, atol=1e-6)
    assert 0.9 < net.head.weight.abs().max() * 128**0.5 <= 1, "uniform, as PyTorch draws a Linear"


def test_weights_come_from_the_generator_alone_by_the_modules_own_method_where_it_has_one(own):
    for name in ("SmallCNN", "Batch", "Drawn"):
        nets = [build(f"own.my_nets.{name}", (1, 8, 8), 3).reset(generator(seed, "net")) for seed in (0, 0, 1)]
        first, again, other = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
        assert torch.equal(first, again) and not torch.equal(first, other)
    assert nets[0].head.bias.abs().max() == 0 and nets[0].head.weight.std().item() == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("name", ["SmallCNN", "Batch", "Drawn", "Attentive"])
def test_students_at_once_are_the_networks_alone(own, name):
    net = f"own.my_nets.{name}"
    students = Students(net, (1, 8, 8), 3, [0, 0], "s", "cpu", torch.float64)
    x = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64, generator=generator(1, "x"))
    students.template.train()
    together = students.call(slice(0, 2), x)
    for s in range(2):
        alone = build(net, (1, 8, 8), 3).double().reset(generator("s", "student", s)).train()
        assert torch.allclose(together[s], alone(x[s]), atol=1e-12)


@pytest.mark.parametrize(
    "net, words",
    [
        ("own.nets.SmallCNN", ["lib/own/nets.py: not found", "tracked by git"]),
        ("my_nets.py:SmallCNN", ["own.FILE.CLASS is a class of your own, in folder lib/own"]),
        ("own.broken.SmallCNN", ["lib/own/broken.py cannot be imported: NameError (line 3)", "'no_such'"]),
        ("own.my_nets.Absent", ["lib/own/my_nets.py defines no Absent"]),
        ("own.my_nets.OrderedDict", ["cannot be followed", "lib.own.my_nets defines no OrderedDict"]),
        ("own.my_nets.Fragile", ["fails in Fragile((1, 8, 8), 2): AttributeError (line", "missing"]),
        ("own.my_nets.number", ["number must give a torch.nn.Module, not a int"]),
        ("own.my_nets.Ten", ["outputs of shape (2, 10) for two images; must be (2, 2)"]),
        ("own.my_nets.Soft", ["what its last layer gives, a torch.nn.Linear"]),
        ("own.my_nets.TorchBatch", ["take lib.networks.layers.torch_batch_norm"]),
        ("own.my_nets.Tied", ["a parameter under two names"]),
        ("own.my_nets.Slope", ["first.1.weight is not made anew", "method reset(generator)"]),
        ("own.my_nets.Unseeded", ["first.0.weight is not made anew", "from this torch.Generator"]),
        ("own.my_nets.Counting", ["seen is not made anew"]),
        ("own.my_nets.Viewed", ["fails with channels-last images", ".reshape(...)"]),
        ("own.my_nets.Branching", ["fails on the meta device"]),
        ("own.my_nets.Masked", ["fails under torch.func.vmap, by which several networks are trained at once"]),
    ],
)
def test_what_a_network_cannot_be_used_for_is_said_in_one_line_before_any_compute(own, net, words):
    assert_refused(own, CELL, lambda cell: cell["evaluate"].update(nets=[net]), ["evaluate.nets", f"'{net}'", *words])


@pytest.mark.parametrize(
    "name, words",
    [
        ("Layer", ["derives the gradient of one of its layers wrongly", "ChannelNorm or MapNorm"]),
        ("Attentive", ["where gradients are differentiated", "flash_attention"]),
    ],
)
def test_what_has_no_second_derivative_distils_by_frepo_and_not_by_dc(own, name, words):
    net = f"own.my_nets.{name}"
    assert_refused(own, DC, lambda cell: cell["distill"].update(net=net), ["distill.net", *words])
    text = (own / "params.yaml").read_text()
    edit(own, lambda params: set_net(params, CELL, net))
    assert load_params(own / "params.yaml").cells[CELL].distill.net == net
    (own / "params.yaml").write_text(text)


def assert_refused(own, key, change, words):
    params = yaml.safe_load((own / "params.yaml").read_text())
    change(params["cells"][key])
    (own / "changed.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ParamsError) as caught:
        load_params(own / "changed.yaml")
    (line,) = str(caught.value).splitlines()
    assert all(word in line for word in [f"cells.{key}", *words]), line


def test_an_edit_changes_the_recipes_of_the_rows_that_name_it_and_no_other(own):
    text = (own / "params.yaml").read_text()

    def name_it(params):
        set_net(params, CELL, NET)
        params["cells"][DC]["evaluate"]["nets"].append(NET)
        params["experts"]["mine"] = params["experts"]["digits"] | {"net": NET}
        row = {
            "dataset": "digits",
            "preprocessing": "digits",
            "file": "a.pt",
            "label_file": "a.pt",
            "labels": "classes",
        }
        params["external"] = {"theirs": row | {"protocol": "digits-sgd", "nets": ["mlp", NET]}}

    edit(own, name_it)
    before = reread(own)
    assert before[f"distill/{CELL}"]["code"].keys() >= {"lib.own.my_nets", "lib.own.blocks", "lib.networks.own"}
    assert not any("lib.networks.own" in before[f"distill/{key}"]["code"] for key in (DC, ISA))
    naming = {f"distill/{CELL}", f"evaluate/{CELL}", f"evaluate/{DC}", "experts/mine", "external/theirs"}
    for file, old, new, expected in (
        ("my_nets", "self.first(x).flatten(1)", "2 * self.first(x).flatten(1)", naming),
        ("blocks", "nn.AvgPool2d(2)", "nn.MaxPool2d(2)", naming),
        ("blocks", "return 1", "return 2", set()),
        ("my_nets", "class Soft(SmallCNN):", "class Soft(SmallCNN):\n    spare = 1", set()),
        ("my_nets", "class SmallCNN(nn.Module):", 'class SmallCNN(nn.Module):\n    """Small."""  # so', set()),
    ):
        path = own / f"lib/own/{file}.py"
        code = path.read_text()
        assert old in code
        path.write_text(code.replace(old, new))
        after = reread(own)
        path.write_text(code)
        assert {name for name in before if after[name] != before[name]} == expected, (file, new)
    (own / "params.yaml").write_text(text)


@pytest.mark.parametrize("key", [CELL, DC])
def test_two_steps_of_distillation_move_the_set_and_it_trains_students(own, prepared, key):
    (train_x, train_y), (test_x, test_y) = (
        (torch.tensor(pixels[:]) / 255, torch.tensor(labels).long())
        for pixels, labels in (load_arrays(prepared("digits"), split) for split in ("train", "test"))
    )
    standardise, params = Preprocess(torch.tensor([0.3053]), torch.tensor([0.3760])), load_params()
    real = RealSet(
        standardise.apply(train_x), train_y, standardise.apply(test_x), test_y, standardise, {"num_classes": 10}
    )
    cell = params.cells[key]
    cfg = cell.distill.changed(net=NET, steps=2)
    syn = SyntheticSet(*initial_set(real, cfg, 0), cfg.learn_labels)
    method, batches = METHODS[cell.method](cfg, syn, 0), batches_for(real, cfg, 0)
    first = syn.x.detach().clone()
    losses = [method.step(step, *batches.next())["loss"] for step in range(2)]
    assert torch.stack(losses).isfinite().all() and not torch.equal(first, syn.x)
    protocol = params.protocols[cell.evaluate.protocol]
    accuracy = evaluate(NET, syn.x.detach()[None], syn.y.detach()[None], real, protocol, 0)
    assert accuracy.mean() > 18, "chance is 10 %"


@pytest.mark.long
def test_dvc_notices_an_edit_of_the_users_file(finished, tmp_path):
    """A cell through real DVC; then a remark, then another network, in the file; then without the file."""
    folder = write_own(copied(finished[0], tmp_path / "copy"))

    def change(params):
        set_net(params, CELL, NET)
        params["cells"][CELL]["distill"] |= {"steps": 2, "eval_every": 0}

    edit(folder, change)
    target, stages = f"evaluate@{CELL}", [f"distill@{CELL}", f"evaluate@{CELL}"]
    assert {*stages, "plan"} <= {*ran(dvc(folder, "repro", target))}
    record = read_metrics(folder / f"build/evaluate/digits/{CELL}.json", Evaluation)["nets"][NET]
    for kind in record:
        _validate_metric_name(f"{NET}/{kind}")
    path = folder / "lib/own/my_nets.py"
    path.write_text(f"# a remark\n{path.read_text()}")
    assert ran(dvc(folder, "repro", target)) == ["plan"]
    path.write_text(path.read_text().replace("self.first(x).flatten(1)", "2 * self.first(x).flatten(1)"))
    dvc(folder, "repro", "plan")
    assert ran(dvc(folder, "repro", "--dry", target)) == stages
    path.unlink()
    done = subprocess.run([sys.executable, "-m", "stages", "plan"], cwd=folder, env=ENV, capture_output=True, text=True)
    lines = done.stderr.splitlines()  # of distill.net and of evaluate.nets
    assert done.returncode == 1 and len(lines) == 2 and all("lib/own/my_nets.py: not found" in line for line in lines)
