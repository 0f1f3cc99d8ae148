"""What params.yaml may say: one frozen dataclass for each kind of row, each field with its type and its allowed values.

`params.py` reads the file into these and checks the rows against each other.
"""

import re
from dataclasses import dataclass, field
from math import isfinite
from typing import ClassVar

from .augment import POLICIES
from .augment.dsa import STRATEGIES
from .cam import MAPS
from .data.imagenet import SUBSETS
from .matching import DISTANCES

KNOWN_SOURCES = {  # name -> (channels, classes, smallest training class, training images, test images)
    "digits": (1, 10, 128, 1297, 500),
    "mnist": (1, 10, 5421, 60000, 10000),
    "fashion_mnist": (1, 10, 6000, 60000, 10000),
    "usps": (1, 10, 542, 7291, 2007),
    "svhn": (3, 10, 4659, 73257, 26032),
    "cifar10": (3, 10, 5000, 50000, 10000),
    "cifar100": (3, 100, 500, 50000, 10000),
    "tiny_imagenet": (3, 200, 500, 100000, 10000),
    "imagenette": (3, 10, 858, 9469, 3925),
    "imagewoof": (3, 10, 588, 9025, 3929),
    "imagenet_resized": (3, 1000, 732, 1281167, 50000),
    "caltech_birds2011": (3, 200, 29, 5994, 5794),
    "topics": (1, 4, 150, 800, 400),
    "trec6": (1, 6, 86, 5452, 500),
    "trec50": (1, 50, 4, 5452, 500),
    "sst5": (1, 5, 1092, 8544, 2210),
    "imdb": (1, 2, 12496, 25000, 25000),
}
TEXT_SOURCES = ("topics", "trec6", "trec50", "sst5", "imdb")  # of sentences, not of images


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
    """Where images or sentences come from: a source known by name, a folder of class folders of the user's own, or ten classes of ImageNet."""

    resolution: int | None = at_least(4, default=None)  # of images
    source: str | None = one_of(None, *KNOWN_SOURCES, default=None)
    folder: str | None = None
    subset: str | None = one_of(None, *SUBSETS, default=None)  # of the ImageNet-1K in runtime.imagenet_dir
    antialias: bool = True  # of a subset's pictures, when they are made smaller
    channels: int | None = one_of(None, 1, 3, default=None)  # of a user's own folder, else 3; 3 of a grey source: its channel three times


@dataclass(frozen=True)
class Preprocessing:
    """Channel standardisation (measured on the training set where not given; 'none' for [0, 1] pixels), then ZCA."""

    dataset: str
    standardise: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    zca: str = one_of("none", "frepo", "mtt", "rat", default="none")
    zca_eps: float = above_zero(default=0.1)
    checkerboard: int = at_least(1, default=1)


@dataclass(frozen=True)
class Words:
    """Sentences brought to one length, their words as vectors: random ones, or of a file among the user's archives."""

    dataset: str
    tokens: int = at_least(3)  # the vocabulary, with the marks for unknown words and for padding
    length: int = at_least(1)
    dim: int = at_least(1)
    vectors: str


@dataclass(frozen=True)
class Protocol:
    """How a network is trained on a distilled set to judge it.

    adam: `steps` updates, batches that run on from one epoch into the next. sgd: `epochs` passes, momentum 0.9, weight decay
    5e-4, a tenth of the rate after half of the passes (reference sheet of DC, DSA and DM, section 6). schedule: gradient descent on
    the set's own minibatches in their order, at its own rates (sheet of dataset distillation, section 7), and on real images of
    equal number at the constant rate `lr`.

    batch_per_class, above 0 (adam): a batch has so many images of each of batch / batch_per_class random classes.
    """

    num_nets: int = at_least(1)
    lr: float = above_zero()
    batch: int = at_least(0)
    augment: str = one_of(*POLICIES)
    optimizer: str = one_of("adam", "sgd", "schedule", default="adam")
    loss: str = one_of("squared_error", "cross_entropy", default="squared_error")
    shuffle: bool = True
    steps: int = at_least(0, default=0)
    warmup: int = at_least(0, default=0)
    lr_final: float = fraction(default=1.0)  # cosine down to this fraction of lr; 1 keeps lr constant
    epochs: int = at_least(0, default=0)
    batch_per_class: int = at_least(0, default=0)


@dataclass(frozen=True)
class Experts:
    """Networks trained on real data with snapshots on the way: trajectories to match, or trained networks to start from.

    sgd: plain; gsam: towards flat minima (EDF's sheet, section 4); adam: with DD's constants.
    """

    dataset: str
    preprocessing: str
    net: str
    count: int = at_least(1)
    epochs: int = at_least(1)
    keep: int = at_least(0)  # the snapshots of the first so many epochs stay, with the start and the last
    optimizer: str = one_of("sgd", "gsam", "adam")
    lr: float = above_zero()
    batch: int = at_least(1)
    augment: str = one_of(*POLICIES)
    held_out: int = at_least(0, default=0)  # of them, the last, which no distillation sees: starts for evaluations
    seed: int = at_least(0, default=0)
    halve_every: int = at_least(0, default=0)  # epochs after which lr is halved; 0: never
    together: int = at_least(1, default=10)  # trained at once
    rho: float = above_zero(default=0.01)  # of gsam
    alpha: float = fraction(default=0.3)


@dataclass(frozen=True)
class Distill:
    """What every method's cell says of its distillation."""

    labels: ClassVar[str] = "one_hot"  # of the set that a run starts from, and of real images that are compared with it
    batches: ClassVar[str] = "by_class"  # a step takes `real_batch` images of each class; or a batch of all, which may straddle epochs or not
    classes: ClassVar[None] = None  # that have images in the set; None: all
    minibatches: ClassVar[int] = 1  # of the set, where their order counts
    real_batch: ClassVar[int] = 0
    attack: ClassVar[None] = None
    label_start: ClassVar[str] = "one_hot"
    net: str
    ipc: int = at_least(1)
    seeds: tuple[int, ...] = items(lambda s: s >= 0, "a list of distinct integers of at least 0")
    steps: int = at_least(1)
    init: str = one_of("real", "noise", "svd")  # svd, for a rank alone: the best factors of real images
    rank: int = at_least(0)  # 0: pixels; else each channel is a product of two learned factors of this rank
    images: int = at_least(0)  # per class, of a rank; 0: as many as fit the memory of `ipc` images of pixels
    conv_dtype: str = one_of("float32", "bfloat16")
    class_steps: int = at_least(1)  # above 1: the classes, in the order of the seed, in so many groups that are distilled apart
    chunk: int = at_least(0)  # above 0: seed s sees the s-th chunk of so many training images alone
    watch_protocol: str  # the protocol of the evaluations during distillation
    watch_at: tuple[int, ...] | None
    watch_every: int = at_least(0)  # 0: only at `watch_at`
    select: str = one_of("last", "best_test")  # best_test also keeps the set of the best watched *test* accuracy


@dataclass(frozen=True)
class FRePo(Distill):
    """FRePo's distillation of one cell; the sheet's section 14 gives the published values."""

    labels: ClassVar[str] = "centred"
    batches: ClassVar[str] = "straddling"
    real_batch: int = at_least(1)
    flip: bool
    learn_labels: bool
    outer_lr: float = above_zero()
    outer_lr_final: float = fraction()
    pool_size: int = at_least(1)
    reset_after: int = at_least(0)
    online_lr: float = above_zero()
    online_batch: int = at_least(1)
    krr_dtype: str = one_of("float32", "float64")


@dataclass(frozen=True)
class ISA(FRePo):
    """ISA: FRePo with another data-fit term (the sheet's section 2)."""

    epsilon: float = check(isfinite, "finite: above 0 away from the neighbour, as released; below 0 towards it")
    topk: float = check(lambda v: -1 <= v <= 1, "between -1 and 1: the fraction of hardest images kept; below 0, of easiest; 0 or 1 keeps all")


@dataclass(frozen=True)
class DM(Distill):
    """Distribution matching. A step is one update of the images by one random network."""

    real_batch: int = at_least(1)
    lr_img: float = above_zero()
    augment: str = one_of("none", *STRATEGIES)


@dataclass(frozen=True)
class DC(Distill):
    """Gradient matching. A step is one update of the images, `outer` of them to a network."""

    real_batch: int = at_least(1)
    lr_img: float = above_zero()
    distance: str = one_of(*DISTANCES)
    outer: int = at_least(1)
    inner_epochs: int = at_least(1)  # of the network on the set, between two updates
    lr_net: float = above_zero()
    net_batch: int = at_least(1)


@dataclass(frozen=True)
class DSA(DC):
    """DC with Siamese augmentation."""

    augment: str = one_of(*STRATEGIES)


@dataclass(frozen=True)
class DD(Distill):
    """Dataset distillation: `epochs` passes of gradient descent over `minibatches`, together `ipc` images of each class.

    A cell with experts starts from their last weights: adaptation where they come from other data, an attack where it asks for one.
    """

    labels: ClassVar[str] = "outputs"
    batches: ClassVar[str] = "epochs"
    learn_labels: ClassVar[bool] = False
    real_batch: int = at_least(1)
    attack: tuple[int, ...] | None = check(
        lambda v: len(v) == 2 and min(v) >= 0 and v[0] != v[1], "[CLASS, TARGET]: images of CLASS are to be taken for TARGET"
    )
    classes: tuple[int, ...] | None = items(lambda c: c >= 0, "a list of distinct classes")
    minibatches: int = at_least(1)
    epochs: int = at_least(1)
    lr_start: float = above_zero()  # the rates' first value
    start: str = one_of("fixed", "random")  # of the networks: the same weights always, or others in each step
    nets_per_step: int = at_least(1)
    outer_lr: float = above_zero()
    halve_every: int = at_least(1)  # outer steps after which outer_lr is halved
    augment: str = one_of("none", "crop_flip")  # of the real batches


@dataclass(frozen=True)
class SLDD(DD):
    """DD with learned labels."""

    learn_labels: ClassVar[bool] = True
    label_start: str = one_of("one_hot", "normal")
    label_softmax: bool


@dataclass(frozen=True)
class RaT(Distill):
    """RaT-BPTT: Adam trains a network on the set for `inner_steps`; the gradient goes through a `window` of them."""

    batches: ClassVar[str] = "epochs"
    real_batch: int = at_least(1)
    learn_labels: bool
    inner_steps: int = at_least(1)
    inner_batch: int = at_least(0)  # images of an inner step, `batch_per_class` of each of its random classes; both 0: the whole set
    batch_per_class: int = at_least(0)
    window: int = at_least(1)
    place: str = one_of("random", "late")  # of the window: anywhere, or at the end
    redraw_every: int = at_least(1)  # outer steps that a random place lasts
    lr_net: float = above_zero()
    outer_lr: float = above_zero()
    augment: str = one_of("none", *STRATEGIES)


@dataclass(frozen=True)
class MTT(Distill):
    """Matching of training trajectories: `inner_steps` of gradient descent on the set against `expert_epochs` of an expert.

    Experts start at an epoch from min_start up to, exclusively, max_start; with expand_steps, this bound grows from max_start_first.
    """

    batches: ClassVar[str] = "segments"
    learn_labels: ClassVar[bool] = False
    inner_steps: int = at_least(0)
    expert_epochs: int = at_least(1)
    min_start: int = at_least(0)
    max_start: int = at_least(1)
    max_start_first: int = at_least(0)  # 0: max_start
    expand_steps: int = at_least(0)
    batch_syn: int = at_least(0)  # images of an inner step; 0: all
    lr_img: float = above_zero()
    lr_start: float = above_zero()  # the learned rate's first value
    lr_lr: float = at_least(0.0)
    augment: str = one_of("none", *STRATEGIES)
    gradient: str = one_of("exact", "tesla")  # tesla: weights on the way taken for constants


@dataclass(frozen=True)
class DATM(MTT):
    """MTT with learned labels, which start as the experts' logits; init correct: from real images that the experts classify as theirs."""

    learn_labels: ClassVar[bool] = True
    init: str = one_of("real", "correct")
    lr_y: float = above_zero()
    threshold: float = above_zero()  # a step of a loss above it changes nothing
    drop: float = check(lambda v: 0 <= v < 1, "at least 0 and below 1")  # of the weights, those nearest to their target, from the loss


@dataclass(frozen=True)
class EDF(DATM):
    """DATM whose pixels' gradients are weighed by class maps, formed anew every `map_every` steps by the judge's network."""

    map_every: int = at_least(1)
    beta: float = above_zero()
    maps: str = one_of(*MAPS)
    judge: str = one_of("experts", "imagenet")  # the first expert's last weights; or torchvision's ResNet18, of the user's archives
    judge_class: str = one_of("mapped", "released")  # an image's own class of ImageNet; or its number in the subset, as EDF's code has it


METHOD_PARAMS = {"dd": DD, "sldd": SLDD, "rat": RaT, "frepo": FRePo, "isa": ISA, "dc": DC, "dsa": DSA, "dm": DM, "mtt": MTT, "datm": DATM, "edf": EDF}
TRAJECTORIES = MTT  # methods that need a row of experts


@dataclass(frozen=True)
class Evaluate:
    """How the distilled sets of a cell are judged."""

    protocol: str
    nets: tuple[str, ...]
    baselines: bool = False  # of a set with a schedule: real images chosen in several ways, and nearest neighbours


@dataclass(frozen=True)
class Cell:
    """One row of the grid: a method on a dataset with a number of images per class."""

    suite: str
    method: str
    dataset: str
    preprocessing: str
    budget: str = one_of("full", "reduced")  # reduced: not the paper's schedule; never compared as if it were
    distill: Distill
    evaluate: Evaluate
    experts: str | None = None  # the row of experts whose trajectories it matches, or from whose networks it starts
    baseline: str | None = None  # another cell: the report gives the difference to it, seed by seed


@dataclass(frozen=True)
class Continual:
    """Class-incremental learning from a memory of distilled images; the row's key is that of a cell with class_steps."""

    suite: str
    dataset: str
    preprocessing: str
    net: str
    protocol: str
    herding: str  # the protocol by which the network is trained whose features choose the herding baseline


@dataclass(frozen=True)
class Membership:
    """Membership inference on students of distilled sets; the row's key is that of a cell with a chunk."""

    suite: str
    dataset: str
    preprocessing: str
    net: str
    protocol: str  # of students trained on a distilled set or on the images it started from; constant rate
    real_protocol: str  # of students trained on the chunk itself; constant rate
    updates: tuple[int, ...] = items(lambda u: u >= 1, "a list of distinct integers of at least 1")
    attacked_nets: int = at_least(1)  # students of each set that are attacked; every one counts for the accuracy
    shadows: int = check(lambda v: v >= 0 and v % 2 == 0, "even and at least 0")  # networks on random halves of the pool
    grid_search: bool  # of the learned attacks' settings, as released; false: one setting each


@dataclass(frozen=True)
class Scores:
    """Fair scores of a cell's sets, and their evaluation with a teacher; the row's key is the cell's."""

    suite: str
    dataset: str
    preprocessing: str
    experts: str  # whose first network, at its end, is the teacher
    net: str
    hard: str  # the protocol of trainings on hard labels
    full: str  # the protocol of the training on the whole real set
    augment: str = one_of(*POLICIES)  # what is on and off
    runs: int = at_least(1)
    kd: str = one_of("rded", "sre2l")
    kd_epochs: int = at_least(1)
    kd_batch: int = at_least(1)
    kd_lr: float = above_zero()
    temperature: float = above_zero()
    flip: bool


@dataclass(frozen=True)
class Given:
    """A distilled set that somebody else made, in a file, and how it is judged."""

    dataset: str
    preprocessing: str  # the space that its images are in
    file: str  # .safetensors, or PyTorch's own
    labels: str = one_of("logits", "probabilities", "classes")  # what its labels are
    protocol: str
    nets: tuple[str, ...]
    lr: float | None = None  # in place of the file's; null, and none in the file: the protocol's


@dataclass(frozen=True)
class Runtime:
    """How to run; nothing here changes a result beyond its rounding."""

    archives: str | None  # a folder with the user's own copies of the published archives
    imagenet_dir: str | None  # the user's copy of ImageNet-1K
    device: str = check(lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v), "auto, cpu, cuda or cuda:N")
    checkpoint_minutes: float = at_least(0)
    compile: str = one_of("none", "default", "reduce-overhead")  # of networks' passes and of an unroll's steps; the last captures CUDA graphs


@dataclass(frozen=True)
class Params:
    runtime: Runtime
    suites: tuple[str, ...]
    datasets: dict[str, Dataset]
    preprocessing: dict[str, Preprocessing | Words]
    protocols: dict[str, Protocol]
    experts: dict[str, Experts]
    cells: dict[str, Cell]  # those of the table `expert_cells` too
    continual: dict[str, Continual]
    membership: dict[str, Membership]
    scores: dict[str, Scores]
    given: dict[str, Given]
