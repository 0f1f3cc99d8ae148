"""Traces: a few numbers of a toy-sized run of every method, protocol, application and network, computed in float64.

`CASES` maps a name to a function without arguments; `trace` runs it. The stored traces (traces.json) show whether a
change of the code changed a number. Where the library makes float32 (labels, students' weights), the cases convert to
float64: processors then agree to about 1e-12. Two things stay as they are: ISA finds its neighbours in float32, and
accuracies are counts.
"""

import io
import json
import tempfile
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from threading import Event
from unittest.mock import patch

import numpy as np
import torch
from sklearn.datasets import load_digits

from lib.config.settings import Settings
from lib.data.labels import initial_labels
from lib.data.preprocess import fit
from lib.evaluation import attacks, baselines, continual, fair_scores, membership, perturbation, teacher
from lib.evaluation.accuracy import stack_accuracies
from lib.methods import METHODS, class_maps
from lib.networks import build
from lib.rng import generator
from lib.synthetic.initial import initial_set, real_subsets
from lib.synthetic.lowrank import stored_numbers
from lib.synthetic.set import DistilledSet, SyntheticSet, rendered, stacked
from lib.training import loop
from lib.training.batches import batches_for
from lib.training.checkpoint import Checkpoint
from lib.training.experts import Group, expert_bytes, expert_flops, labelled_images, train
from lib.training.losses import cross_entropy
from lib.training.students import Students, trained

from . import data
from .data import SHAPE, Snapshots, Walks, digits_set, real_set, some_sets
from .settings import (
    BASES,
    CONVNET,
    DENSE,
    DISTILL,
    EXPERT,
    EXPERTS,
    NETWORKS,
    NOISE_RANK,
    PREPROCESS,
    PREPROCESSING,
    PROTOCOL,
    PROTOCOLS,
    RATES,
    RUNS,
    SCHEDULE,
    SGD,
    SVD_RANK,
)

STORED = Path(__file__).with_suffix(".json")
TOLERANCE = 1e-9
SHOWN = 8  # a tensor of more numbers is told by two: its norm and a weighted sum


# Computing and comparing


def portable_dropout(x, p=0.5, training=True, inplace=False):
    """Dropout by uniform numbers: PyTorch draws Bernoulli ones on Intel's processors in another way than on AMD's."""
    return x * (torch.rand(x.shape, device=x.device) >= p) / (1 - p) if training else x


@contextmanager
def float64():
    """Float64 by default and for students, the global random numbers (dropout's) seeded, and nothing printed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=()))
            stack.enter_context(patch.object(Students.__init__, "__defaults__", (torch.float64, "float32")))
            stack.enter_context(patch("torch.nn.functional.dropout", portable_dropout))
            stack.enter_context(redirect_stdout(io.StringIO()))
            stack.enter_context(redirect_stderr(io.StringIO()))
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)


def wide(tensors):
    """The tensors, those of floats in float64."""
    return tuple(t.double() if t.is_floating_point() else t for t in tensors)


def numbers(found):
    """A list of floats from nested lists, dictionaries, arrays, tensors and numbers; None has none."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list | tuple):
        return [number for each in found if each is not None for number in numbers(each)]
    t = torch.as_tensor(found).detach().cpu().double().flatten()
    if len(t) > SHOWN:
        t = torch.stack([t.norm(), (t * torch.linspace(1, 2, len(t), dtype=t.dtype)).sum()])
    return t.tolist()


def trace(name):
    """The numbers of the case `name`."""
    with float64():
        return numbers(CASES[name]())


def differences(name, stored, found):
    """Where a found trace is not the stored one: no line or one. None for a trace that there is not."""
    if stored is None:
        return [f"{name}: in the code, not stored; store it with `python -m tests.golden --write`"]
    if found is None:
        return [f"{name}: stored, not in the code; remove it with `python -m tests.golden --write`"]
    if len(stored) != len(found):
        return [f"{name}: {len(stored)} numbers stored, {len(found)} found"]
    wrong = [i for i, (a, b) in enumerate(zip(stored, found)) if not abs(a - b) <= TOLERANCE * max(1, abs(a))]
    return [f"{name}: index {i}: stored {stored[i]!r}, found {found[i]!r}" for i in wrong[:1]]


def stored_traces():
    """{name: numbers} of traces.json."""
    return json.loads(STORED.read_text()) if STORED.exists() else {}


def store(traces):
    """Write traces.json, one case a line, sorted by name."""
    lines = (f"{json.dumps(name)}: {json.dumps(traces[name], allow_nan=False)}" for name in sorted(traces))
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


# Methods


def replace(owner, name, value):
    """Set an attribute that there is."""
    getattr(owner, name)
    setattr(owner, name, value)


def prepared_run(name, fields):
    """A method at its start -> (its cell's settings, the method, its batches, the real data).

    fields: of the cell, and real() for the data, pool: start from experts, images_per_pass and keep_records: what the
    method or a part of it has of these names.
    """
    fields = {**DISTILL, **BASES[name], **fields}
    real, pool = fields.pop("real", real_set)(), fields.pop("pool", False)
    images_per_pass, keep_records = fields.pop("images_per_pass", None), fields.pop("keep_records", None)
    cfg = Settings(**fields)
    experts = Walks(cfg.net, real.shape, real.num_classes) if pool or cfg.batches == "segments" else None
    if cfg.label_start == "experts":
        gen = generator(0, "init", device=data.DEVICE)
        images, y = labelled_images(real, cfg.net, experts, cfg.ipc, gen, agreed=False)
    else:
        images, y = initial_set(real, cfg, 0)
    images = wide(images) if cfg.rank else images.double()
    further = {"experts": experts, "held_out": 1} if pool else {}
    if cfg.judge:
        judge = build(cfg.net, real.shape, 3).reset(generator(5, "judge")).to(data.DEVICE).eval()
        further = {"judge": (judge, torch.arange(3, device=data.DEVICE))}
    method = METHODS[name](cfg, SyntheticSet(images, y.double(), cfg.learn_labels), 0, **further)
    if images_per_pass is not None:
        replace(method.outer_loss if name == "dd" else method, "images_per_pass", images_per_pass)
    if keep_records is not None:
        method.derivatives.keeps_records = lambda x: keep_records
    return cfg, method, batches_for(real, cfg, 0, experts), real


def distil(name, **fields):
    """Each step's metrics, and the set after the last."""
    cfg, method, batches, _ = prepared_run(name, fields)
    metrics = [method.step(step, *wide(batches.next())) for step in range(cfg.steps)]
    return metrics, rendered(method.syn.snapshot())


def outer_loop():
    """History, losses and best set of a run with evaluations and a checkpoint."""
    cfg, method, batches, real = prepared_run("dm", {"steps": 5})

    def evaluate():
        x, y, *_ = stacked([rendered(method.syn.snapshot())])
        found = trained(CONVNET, x, y, real, Settings(**{**PROTOCOL, "steps": 2}), 0)
        return found.outputs(real.test_x).norm().item()

    with tempfile.TemporaryDirectory() as folder:
        progress = loop.run("golden", method, batches, cfg, evaluate, Checkpoint(Path(folder) / "checkpoint", "golden"))
    history = [{name: point[name] for name in ("step", "accuracy")} for point in progress.history]  # without times
    return history, progress.losses, progress.best["set"], rendered(method.syn.snapshot())


# Students and experts


def students(net=CONVNET, real=real_set, count=2, lr_of_sets=None, known=0, **fields):
    """Students' outputs on test images, and their accuracies; known: of how many known weights each set's start."""
    real, start = real(), None
    lr_of_sets = None if lr_of_sets is None else lr_of_sets.to(data.DEVICE)
    x, y = some_sets(real, count, ipc=1 if lr_of_sets is None else 3)
    if known:
        start = Walks(net, real.shape, real.num_classes, 2 * known).last(range(2 * known))
        start = (start if known == 1 else start.unflatten(0, (2, known))).to(data.DEVICE)
    found = trained(net, x, y, real, Settings(**{**PROTOCOL, **fields}), 0, lr_of_sets, start)
    return found.outputs(real.test_x), found.accuracy(real.test_x, real.test_y)


def experts(classes=3, **fields):
    """Experts' weights at the epochs that are kept, and their accuracies on the way."""
    group, stop = Group(Settings(**{**EXPERT, **fields}), 0, 2, real_set(classes)), Event()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "checkpoint", "golden")
        return train("golden", group, checkpoint, lambda epoch, metrics: None, 60, stop)


def labels_of_experts():
    """Images that trained experts have right, and the labels that they give them."""
    real = real_set()
    group = Group(Settings(**{**EXPERT, "net": DENSE, "lr": 0.2}), 0, 2, real)
    for _ in range(2):
        group.epoch()
    return labelled_images(real, DENSE, Snapshots(group), 3, generator(0, "init", device=data.DEVICE), agreed=True)


def cost():
    """What each method's step costs, what is stored for a class, and what an expert costs."""
    cells = {name: Settings(**{**DISTILL, **BASES[name]}) for name in BASES}
    steps = [METHODS[name].step_flops(cfg, SHAPE, 3) for name, cfg in cells.items()]
    stored = [stored_numbers(Settings(**{**DISTILL, **fields}), SHAPE) for fields in ({}, NOISE_RANK, SVD_RANK)]
    trainings = [Settings(**{**EXPERT, **fields}) for fields in EXPERTS.values()]
    return steps, stored, [(expert_flops(each, SHAPE, 48), expert_bytes(each, SHAPE, 3)) for each in trainings]


# Applications


def continual_learning():
    """Herded memories, accuracies after each step, and what is made of these."""
    real, cfg = real_set(4), Settings(**{**DISTILL, "class_steps": 2, "seeds": (0, 1)})
    herding = Settings(**{**PROTOCOL, "steps": 4, "batch": 12, "num_nets": 1})
    protocol = Settings(**{**PROTOCOL, "steps": 10, "lr": 0.03})
    memories = [wide(continual.herded_memory(CONVNET, real, cfg, seed, herding)) for seed in cfg.seeds]
    x, y = (torch.stack(tensors) for tensors in zip(*memories))
    table = continual.accuracies(CONVNET, x, y, real, cfg, cfg.seeds, protocol, 0)
    curve = continual.curve(table, torch.tensor([15.0, 15.0]))
    return x, y, real_subsets(real, cfg, 1), table.nan_to_num(), curve, continual.forgetting(table)


def members():
    """Students' logits on the pool, shadows' confidences, and attacks by thresholds and likelihood ratios."""
    real, cfg = digits_set(), Settings(chunk=30, seeds=(0, 1), class_steps=1)
    row = Settings(net=DENSE, updates=(5, 20), attacked_nets=1, shadows=4, grid_search=False)
    pool, protocol = membership.Candidates(real, cfg), Settings(**{**PROTOCOL, "batch": 16, "lr": 0.02})
    parts = [real.chunk(index, cfg.chunk) for index in cfg.seeds]
    sets = [(part.train_x, initial_labels(part.train_y, 10).double()) for part in parts]
    outputs, (shadows, inside) = pool.train(row, protocol, sets, "real"), pool.train_shadows(row, protocol)
    with patch.object(membership, "ATTACKS", ("threshold",)):  # the learned ones are sklearn's
        measured = pool.attack(row, outputs[20][0], (shadows[20], inside))
    ratios = attacks.likelihood_ratio(shadows[20][0], shadows[20][1:], inside[1:])
    return outputs, shadows, ratios, measured


def scores(teach=None, rates=None, **fields):
    """Fair scores of a set of classes' means."""
    real, cfg = real_set(), Settings(**{**DISTILL, "ipc": 1})
    x = torch.stack([real.train_x[real.train_y == c].mean(0) for c in range(3)])
    rates = None if rates is None else rates.to(data.DEVICE)
    own = DistilledSet(x, torch.eye(3, device=data.DEVICE) * 0.8 + 0.1, rates)
    protocol, hard = (Settings(**{**PROTOCOL, **each}) for each in (fields, SGD))
    return fair_scores.fair_scores(DENSE, own, real, cfg, protocol, hard, "dsa", 0.9, teach, "0.0")


def soft_labels(x):
    return x.flatten(1)[:, :3].softmax(1)


def knowledge_distillation(recipe, net):
    """Outputs of students that learned a teacher's outputs, and their accuracies."""
    real, judge = real_set(), build(CONVNET, SHAPE, 3).reset(generator(0, "teacher")).to(data.DEVICE).eval()
    cfg = Settings(kd=recipe, kd_epochs=4, kd_batch=4, kd_lr=0.02, temperature=4.0, flip=True)
    found = teacher.kd_students(net, real.train_x[:9], judge, real, cfg, 2, 0)
    return found.outputs(real.test_x), found.accuracy(real.test_x, real.test_y)


def scheduled(attack=None, start=True):
    """Real images as a set with a schedule -> (the real data, a cell's settings, the DistilledSet)."""
    real, cfg = real_set(), Settings(**{**DISTILL, "labels": "outputs", "minibatches": 2, "attack": attack})
    x, y = baselines.random_real(real, cfg, 0)[0]
    weights = Walks(DENSE, SHAPE, 3, 1).starts[0].to(data.DEVICE) if start else None
    return real, cfg, DistilledSet(x, y.double(), torch.full((2, 2), 0.1, device=data.DEVICE), weights)


def real_baselines(attack=None, start=True):
    """Real images in a set's place: the images, and all accuracies; start: from the set's weights, or from experts'."""
    real, cfg, own = scheduled(attack, start)
    starts = None if start else Walks(DENSE, SHAPE, 3, 2).last(range(2))[None].to(data.DEVICE)
    with patch.multiple(baselines, RANDOM_SETS=4, BEST_SETS=2, SELECTION_NETS=3):
        sets = [make(real, cfg, 0) for make in baselines.BASELINES.values()]
        return sets, baselines.real_baselines(DENSE, [own], real, cfg, starts, 2)


def perturbed():
    """Accuracies of a set whose images move, some so far that it shows."""
    real, _, own = scheduled()
    with patch.object(perturbation, "NOISE_STDS", (1e-2, 2.0)):
        return perturbation.perturbed_accuracies(DENSE, [own], real, 0)


def evaluation(classes, net, **fields):
    """Accuracies of two kinds of sets, by students and, where they have no schedule, by kernel ridge regression."""
    real, protocol = real_set(classes), Settings(**{**PROTOCOL, **fields})
    x, y = some_sets(real, 4, kind="centred" if classes > 2 else "outputs")
    lr = torch.full((2, 3, 1), 0.1, device=data.DEVICE) if protocol.optimizer == "schedule" else None
    stacks = {"distilled": DistilledSet(x[:2], y[:2], lr), "real_subset": DistilledSet(x[2:], y[2:], lr)}
    return stack_accuracies(net, stacks, real, protocol, None)


def maps(kind):
    """Class maps, the weights that they give to pixels, and the share of an image that they leave out."""
    net = build("convnet2-w8-instance", SHAPE, 3).reset(generator(0, "net")).to(data.DEVICE).eval()
    x, classes = real_set().train_x[:6], torch.arange(6, device=data.DEVICE) % 3
    noise = [generator(i, "noise", device=data.DEVICE) for i in range(2)]
    found = class_maps.class_maps(kind, net, x, classes, noise[0])
    return found, class_maps.emphasis(found, 2.0), class_maps.complexity(net, x, noise[1])


# Networks and preprocessing


def narrow(widths):
    """Hidden layers of 16 where alexnet_dd has 4096, which take seconds."""
    return [layer for a, b in ((widths[0], 16), (16, 16)) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]


def network(name, shape):
    """Logits, their loss's gradient by images and by weights, then logits and features in evaluation mode."""
    with patch("lib.networks.dd._dense", narrow) if name.startswith("alexnet_dd") else nullcontext():
        net, x = build(name, shape, 4), torch.randn(3, *shape, generator=generator(0, "x")).requires_grad_()
    if name.startswith("resnet18"):
        net.gain = None  # PyTorch's law: eleven million numbers of a truncated normal one take two seconds
    net.reset(generator(0, "net")).train()
    logits = net(x)
    by_x, *by_weights = torch.autograd.grad(cross_entropy(logits, torch.eye(4)[[0, 2, 3]]), [x, *net.parameters()])
    return logits, by_x, torch.stack([g.norm() for g in by_weights]), net.eval()(x), net.features(x)


def preprocessing(count=200, **fields):
    """Digits preprocessed and brought back, and the scales of a whitening."""
    pixels = (load_digits().images[:count, None] * 15).astype(np.uint8)
    found = fit(Settings(**{**PREPROCESS, **fields}), pixels, {"mean": [0.305], "std": [0.377]})
    x = found.apply(torch.from_numpy(pixels) / 255)
    return x, found.invert(x), found.zca and found.zca[2]


CASES = {
    **{f"{name}: {what}": partial(distil, name, **RUNS[name][what]) for name in RUNS for what in RUNS[name]},
    "loop": outer_loop,
    **{f"protocol: {what}": partial(students, **fields) for what, fields in PROTOCOLS.items()},
    **{f"experts: {what}": partial(experts, **fields) for what, fields in EXPERTS.items()},
    "experts: labelled images": labels_of_experts,
    "continual": continual_learning,
    "membership": members,
    "scores: adam": partial(scores, steps=4),
    "scores: sgd with soft labels": partial(scores, soft_labels, **SGD),
    "scores: sgd at the set's rate": partial(scores, rates=RATES[0, :1, :1], **SGD),
    "scores: schedule": partial(scores, rates=RATES[0, :, :1], **SCHEDULE),
    "teacher: rded": partial(knowledge_distillation, "rded", CONVNET),
    "teacher: sre2l": partial(knowledge_distillation, "sre2l", DENSE),
    "baselines: the set's start": real_baselines,
    "baselines: experts' starts": partial(real_baselines, start=False),
    "baselines: attack": partial(real_baselines, attack=(0, 1)),
    "perturbation": perturbed,
    "evaluation": partial(evaluation, 3, "conv2-w4", steps=3),
    "evaluation: schedule, one output": partial(evaluation, 2, DENSE, **SCHEDULE),
    "cost": cost,
    **{f"maps: {kind}": partial(maps, kind) for kind in class_maps.MAPS},
    **{f"preprocessing: {what}": partial(preprocessing, **fields) for what, fields in PREPROCESSING.items()},
    **{
        f"network: {name}, {'x'.join(map(str, shape))}": partial(network, name, shape)
        for shape, names in NETWORKS.items()
        for name in names.split()
    },
}
