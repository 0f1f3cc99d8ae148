"""What params.yaml may say: a pydantic model for each kind of row. checks.py compares rows, load.py words errors."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from ..augment import POLICIES
from ..augment.dsa import STRATEGIES, families_of
from ..data.sources import SOURCES, SUBSETS
from ..methods.class_maps import MAPS
from ..methods.gradient_distance import DISTANCES
from ..networks import parse

LONGEST, WIDEST, SHOWN = 1000, 4096, 60  # items of a list and characters of a path; channels; keys in one answer


class Check:
    """A test of a value, and the words that complete the sentence 'must be ...'."""

    def __init__(self, test, allowed):
        self.test, self.allowed = test, allowed

    def __call__(self, value):
        if not self.test(value):
            raise ValueError
        return value


def checked(kind, test, allowed):
    return Annotated[kind, AfterValidator(Check(test, allowed))]


def whole(least, most, why):
    return checked(int, lambda v: least <= v <= most, f"at least {least} and at most {most:,} ({why})")


def number(least, most, why):
    return checked(float, lambda v: least <= v <= most, f"at least {least} and at most {most:,} ({why})")


def tuple_of(kind):
    return Annotated[tuple[kind, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


def distinct(test, allowed, items=None):
    words = f"distinct {allowed}, at least one and at most {LONGEST:,}"
    return checked(items or Items, lambda vs: 0 < len(vs) == len(set(vs)) <= LONGEST and all(map(test, vs)), words)


def one_of(*choices):
    return Literal[*choices]


def key_of(table):
    """The key of a row of another table. The validation's context has the tables; without it any name will do."""

    def known(name, info: ValidationInfo):
        if info.context and name not in info.context[table]:
            keys, more = info.context[table][:SHOWN], len(info.context[table]) - SHOWN
            others = f" and {more} more" if more > 0 else ""
            raise ValueError(f"must be one of {table}: {', '.join(keys) or '(none)'}{others}")
        return name

    return Annotated[str, AfterValidator(known)]


def network_name(name):
    """A network's name; too wide a network would fill the memory before anything could be said of it."""
    if len(name) > LONGEST or not name.isascii() or parse(name)[1].get("width", 0) > WIDEST:
        raise ValueError(f"must be a name in ASCII, -w at most {WIDEST:,}: that many channels")
    return name


def strategy_name(name):
    families_of(name)
    return name


def or_none(names):
    """The name of an augmentation: none, one of these, or a strategy of DSA."""

    def known(name):
        try:
            return name if name in ("none", *names) else strategy_name(name)
        except ValueError as error:
            others = [other for other in names if other not in STRATEGIES]
            raise ValueError(str(error).replace("one of", f"one of {', '.join(['none', *others])},", 1)) from None

    return Annotated[str, AfterValidator(known)]


FLOAT32 = "beyond, float32 overflows or nothing changes"
TIME = "a step takes a millisecond or more: this many, twelve days"
MEMORY = "more is not held in memory at once"
TRAINED = "each is a network that is trained"
Positive = checked(float, lambda v: 1e-12 <= v <= 1e6, f"above 0, from 1.0e-12 to 1,000,000 ({FLOAT32})")
Fraction = checked(float, lambda v: 0 <= v <= 1, "between 0 and 1")
Share = checked(float, lambda v: 0 <= v < 1, "at least 0 and below 1")
Count, Natural = whole(1, 10**9, TIME), whole(0, 10**9, TIME)  # steps, epochs, and what is counted in them
Size, Several = whole(1, 10**7, MEMORY), whole(0, 10**7, MEMORY)  # images, words, numbers
Networks = whole(1, 10**4, TRAINED)
Seed = whole(0, 2**32 - 1, "32 bits")
Items, Numbers = tuple_of(int), tuple_of(float)
Means = checked(Numbers, lambda vs: all(0 <= v <= 1 for v in vs), "from 0 to 1, as pixels are")
Deviations = checked(
    Numbers, lambda vs: all(1e-3 <= v <= 1 for v in vs), "above 0, from 0.001 (a quarter of a grey level) to 1"
)
Place = checked(str, lambda v: 0 < len(v) <= LONGEST and v.isprintable(), "a path, in characters that can be printed")
Net = Annotated[str, AfterValidator(network_name)]
Siamese = Annotated[str, AfterValidator(strategy_name)]
Nets = distinct(lambda name: True, "networks", tuple_of(Net))
Augment, Strategy = or_none(POLICIES), or_none(STRATEGIES)
# fast: bfloat16 where the device computes it faster, else float32; tf32: float32 with products of 10 bits, on a GPU.
Dtype = one_of("float32", "bfloat16", "tf32", "fast")


def is_attack(pair):
    return len(pair) == 2 and min(pair) >= 0 and pair[0] != pair[1]


class Row(BaseModel):
    """A row of a table. Nothing is converted: an integer passes for a number, and no more."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def changed(self, **values):
        return self.model_copy(update=values)


class Dataset(Row):
    """Where examples come from: a known source, a user's folder of class folders, or ten classes of ImageNet."""

    resolution: whole(4, 2048, "pixels of a side; " + MEMORY) | None = None  # of images
    source: one_of(*SOURCES) | None = None
    folder: Place | None = None
    subset: one_of(*SUBSETS) | None = None  # of the ImageNet-1K in runtime.imagenet_dir
    antialias: bool = True  # of a subset's pictures, when they are made smaller
    channels: one_of(1, 3) | None = None  # of a user's own folder, else 3; 3 of a grey source: its channel three times
    held_out: Several = 0  # training images, as many of each class, that stand in for the test images


class Preprocessing(Row):
    """Channel standardisation (measured on the training set where not given; 'none' for [0, 1] pixels), then ZCA."""

    dataset: key_of("datasets")
    standardise: bool = True
    mean: Means | None = None
    std: Deviations | None = None
    zca: one_of("none", "frepo", "mtt", "rat") = "none"
    zca_eps: Positive = 0.1
    checkerboard: Size = 1


class Words(Row):
    """Sentences brought to one length, their words as vectors: random ones, or of a file among the user's archives."""

    dataset: key_of("datasets")
    tokens: whole(3, 10**7, MEMORY)  # the vocabulary, with the special tokens for unknown words and padding
    length: whole(1, 2000, "words of a sentence")
    dim: whole(1, 2000, "numbers of a word")
    vectors: checked(Place, lambda v: "/" not in v, "a file's name without a folder, or random")


class Protocol(Row):
    """How a network is trained on a distilled set to judge it; training/students.py describes the optimizers."""

    num_nets: Networks
    lr: Positive
    batch: Several
    augment: Augment
    optimizer: one_of("adam", "sgd", "schedule") = "adam"
    loss: one_of("squared_error", "cross_entropy") = "squared_error"
    shuffle: bool = True
    steps: Natural = 0
    warmup: Natural = 0
    lr_final: Fraction = 1.0  # cosine down to this fraction of lr; 1 keeps lr constant
    epochs: Natural = 0
    batch_per_class: Several = 0  # of adam, above 0: images of each of a batch's batch / batch_per_class random classes


class Experts(Row):
    """Networks trained on real data, with snapshots: trajectories to match, or trained networks to start from.

    sgd: plain; gsam: towards flat minima (EDF's sheet, section 4); adam: with DD's constants.
    """

    dataset: key_of("datasets")
    preprocessing: key_of("preprocessing")
    net: Net
    count: Networks
    epochs: Count
    keep: Natural  # the snapshots of the first so many epochs stay, with the start and the last
    optimizer: one_of("sgd", "gsam", "adam")
    lr: Positive
    batch: Size
    augment: Augment
    held_out: Natural = 0  # of them, the last, which no distillation sees: starts for evaluations
    seed: Seed = 0
    halve_every: Natural = 0  # epochs after which lr is halved; 0: never
    together: Networks = 10  # trained at once
    rho: Positive = 0.01  # of gsam
    alpha: Fraction = 0.3


class Distill(Row):
    """What every method's cell says of its distillation. Fields of one value are what a method fixes."""

    labels: one_of("one_hot") = "one_hot"  # of the set at its start, and of real images that are compared with it
    batches: one_of("by_class") = "by_class"  # or of all classes, in epochs or straddling; or segments of trajectories
    classes: None = None  # that have images in the set; None: all
    minibatches: one_of(1) = 1  # of the set, where their order counts
    real_batch: one_of(0) = 0
    attack: None = None
    judge: None = None
    label_start: one_of("one_hot") = "one_hot"
    learn_labels: one_of(False) = False
    net: Net
    ipc: Size
    seeds: distinct(lambda s: 0 <= s < 2**32, "integers of at least 0 and below 2^32")
    steps: Count
    init: one_of("real", "noise", "svd")  # svd, for a rank alone: the best factors of real images
    rank: Several  # 0: pixels; else each channel is a product of two learned factors of this rank
    images: Several  # per class, of a rank; 0: as many as fit the memory of `ipc` images of pixels
    conv_dtype: Dtype
    class_steps: Size  # above 1: the classes, in the order of the seed, in so many groups that are distilled apart
    chunk: Several  # above 0: seed s sees the s-th chunk of so many training images alone
    eval_protocol: key_of("protocols")  # of the evaluations during distillation
    eval_at: distinct(lambda step: True, "steps") | None
    eval_every: Natural  # 0: only at `eval_at`
    select: one_of("last", "best_test")  # best_test also keeps the set of the best *test* accuracy on the way


class FRePo(Distill):
    """FRePo's distillation of one cell; the sheet's section 14 gives the published values."""

    method: Literal["frepo"]
    labels: one_of("centred") = "centred"
    batches: one_of("straddling") = "straddling"
    real_batch: Size
    flip: bool
    learn_labels: bool
    outer_lr: Positive
    outer_lr_final: Fraction
    pool_size: Networks
    reset_after: Natural
    online_lr: Positive
    online_batch: Size
    krr_dtype: one_of("float32", "float64")
    # Not in the paper; none is left out of recipes, so that older results stay. What of the set is augmented: a copy in
    # the outer loss, and the images that the pool trains on.
    augment: Annotated[one_of("none", "rgb", "grey"), Field(exclude_if=lambda value: value == "none")] = "none"


class ISA(FRePo):
    """ISA: FRePo with another data-fit term (the sheet's section 2)."""

    method: Literal["isa"]
    epsilon: number(-1000, 1000, "above 0 away from the neighbour, as released; below 0 towards it")
    topk: checked(float, lambda v: -1 <= v <= 1, "between -1 and 1: the hardest share kept; below 0, the easiest")


class DM(Distill):
    """Distribution matching. A step is one update of the images by one random network."""

    method: Literal["dm"]
    real_batch: Size
    lr_img: Positive
    augment: Strategy


class DC(Distill):
    """Gradient matching. A step is one update of the images, `outer` of them to a network."""

    method: Literal["dc"]
    real_batch: Size
    lr_img: Positive
    distance: one_of(*DISTANCES)
    outer: Count
    inner_epochs: Count  # of the network on the set, between two updates
    lr_net: Positive
    net_batch: Size


class DSA(DC):
    """DC with Siamese augmentation."""

    method: Literal["dsa"]
    augment: Siamese


class DD(Distill):
    """Dataset distillation: `epochs` passes of gradient descent over `minibatches`, in all `ipc` images of a class.

    A cell with experts starts from their last weights: adaptation to other data, or an attack.
    """

    method: Literal["dd"]
    labels: one_of("outputs") = "outputs"
    batches: one_of("epochs") = "epochs"
    real_batch: Size
    attack: checked(Items, is_attack, "[CLASS, TARGET]: images of CLASS are to be taken for TARGET") | None
    classes: distinct(lambda c: c >= 0, "classes") | None
    minibatches: Size
    epochs: Count
    lr_start: Positive  # the rates' first value
    start: one_of("fixed", "random")  # of the networks: the same weights always, or others in each step
    nets_per_step: Networks
    outer_lr: Positive
    halve_every: Count  # outer steps after which outer_lr is halved
    # Not in the papers; null is left out of recipes, so that older results stay. The largest norm of the outer
    # gradient, all tensors together; the width of autodiff.layerwise.SmoothedReLU, in deviations of its input.
    max_norm: Annotated[Positive | None, Field(exclude_if=lambda value: value is None)] = None
    relu_width: Annotated[Positive | None, Field(exclude_if=lambda value: value is None)] = None
    augment: one_of("none", "crop_flip")  # of the real batches


class SLDD(DD):
    """DD with learned labels."""

    method: Literal["sldd"]
    learn_labels: one_of(True) = True
    label_start: one_of("one_hot", "normal")
    label_softmax: bool


class RaT(Distill):
    """RaT-BPTT: Adam trains a network on the set for `inner_steps`; the gradient goes through a `window` of them."""

    method: Literal["rat"]
    batches: one_of("epochs") = "epochs"
    real_batch: Size
    learn_labels: bool
    inner_steps: Count
    inner_batch: Several  # images of a step, `batch_per_class` of each of its random classes; both 0: the whole set
    batch_per_class: Several
    window: Count
    place: one_of("random", "late")  # of the window: anywhere, or at the end
    redraw_every: Count  # outer steps that a random place lasts
    lr_net: Positive
    outer_lr: Positive
    augment: Strategy


class MTT(Distill):
    """Trajectory matching: `inner_steps` of gradient descent on the set against `expert_epochs` of an expert.

    Experts start at an epoch of [min_start, max_start); with expand_steps, this bound grows from max_start_first.
    """

    method: Literal["mtt"]
    batches: one_of("segments") = "segments"
    inner_steps: Natural
    expert_epochs: Count
    min_start: Natural
    max_start: Count
    max_start_first: Natural  # 0: max_start
    expand_steps: Natural
    batch_syn: Several  # images of an inner step; 0: all
    lr_img: Positive
    lr_start: Positive  # the learned rate's first value
    lr_lr: number(0, 10**6, FLOAT32)
    augment: Strategy
    gradient: one_of("exact", "tesla")  # tesla: weights on the way taken for constants


class DATM(MTT):
    """MTT with learned labels, first the experts' logits; init correct: from images that the experts have right."""

    method: Literal["datm"]
    learn_labels: one_of(True) = True
    label_start: one_of("experts") = "experts"
    init: one_of("real", "correct")
    lr_y: Positive
    threshold: Positive  # a step of a loss above it changes nothing
    drop: Share  # of the weights, those nearest to their target, which the loss leaves out


class EDF(DATM):
    """DATM with pixels' gradients weighed by class maps, which the judge's network gives every `map_every` steps."""

    method: Literal["edf"]
    map_every: Count
    beta: Positive
    maps: one_of(*MAPS)
    judge: one_of("experts", "imagenet")  # the first expert's last weights; or torchvision's ResNet18, a user's file
    judge_class: one_of(
        "mapped", "released"
    )  # an image's class of ImageNet; or its number in the subset, as EDF's code


MODELS = (DD, SLDD, RaT, FRePo, ISA, DC, DSA, DM, MTT, DATM, EDF)
METHODS = {model.model_fields["method"].annotation.__args__[0]: model for model in MODELS}


class Evaluate(Row):
    """How the distilled sets of a cell are judged."""

    protocol: key_of("protocols")
    nets: Nets
    baselines: bool = False  # of a set with a schedule: real images chosen in several ways, and nearest neighbours
    whole: key_of("protocols") | None = None  # by which the networks are trained on the whole training set too
    # That the networks are trained and tested in. float32 is left out of recipes: results from before the choice stay.
    conv_dtype: Annotated[Dtype, Field(exclude_if=lambda dtype: dtype == "float32")] = "float32"


class Cell(Row):
    """One row of the grid: a method on a dataset with a number of images per class."""

    suite: key_of("suites")
    method: one_of(*METHODS)
    dataset: key_of("datasets")
    preprocessing: key_of("preprocessing")
    budget: one_of("full", "reduced") = "full"  # reduced: not the paper's schedule; never compared as if it were
    experts: key_of("experts")  # the row whose trajectories it matches, or from whose networks it starts; or none
    distill: Annotated[DD | SLDD | RaT | FRePo | ISA | DC | DSA | DM | MTT | DATM | EDF, Field(discriminator="method")]
    evaluate: Evaluate
    baseline: key_of("cells") | None = None  # another cell: the report gives the difference to it, seed by seed


class Application(Row):
    """What is done with a cell's sets. The row's key is the cell's; DVC needs its first three values again."""

    suite: key_of("suites")
    dataset: key_of("datasets")
    preprocessing: key_of("preprocessing")
    net: Net


class Continual(Application):
    """Class-incremental learning from a memory of distilled images, of a cell with class_steps."""

    protocol: key_of("protocols")
    herding: key_of("protocols")  # by which the network is trained whose features choose the herding baseline
    blocked: bool = False  # also measure the distilled memory in batches by class, as FRePo's code cycles it


class Membership(Application):
    """Membership inference on students of distilled sets, of a cell with a chunk."""

    protocol: key_of("protocols")  # of students of a distilled set or of the images it started from; constant rate
    real_protocol: key_of("protocols")  # of students trained on the chunk itself; constant rate
    updates: distinct(lambda u: u >= 1, "integers of at least 1")
    attacked_nets: Networks  # students of each set that are attacked; every one counts for the accuracy
    # On random halves of the pool.
    shadows: checked(int, lambda v: 0 <= v <= 10**4 and v % 2 == 0, f"even, from 0 to 10,000 ({TRAINED})")
    grid_search: bool  # of the learned attacks' settings, as released; false: one setting each


class Scores(Application):
    """Fair scores of a cell's sets, and their evaluation with a teacher."""

    experts: key_of("experts")  # whose first network, at its end, is the teacher
    hard: key_of("protocols")  # the protocol of trainings on hard labels
    full: key_of("protocols")  # the protocol of the training on the whole real set
    augment: Augment  # what is on and off
    runs: Networks
    kd: one_of("rded", "sre2l")
    kd_epochs: Count
    kd_batch: Size
    kd_lr: Positive
    temperature: Positive
    flip: bool


class External(Row):
    """A distilled set that somebody else made, in files, and how it is judged. evaluation/external.py reads it."""

    dataset: key_of("datasets")
    preprocessing: key_of("preprocessing")  # the space that networks see images in
    file: Place  # of arrays, or a folder of class folders of pictures
    label_file: Place  # the same, or another file that holds the labels; DVC needs it in each row
    labels: one_of("centred", "free", "logits", "probabilities", "classes")  # centred, free: targets, as they are
    space: one_of("network", "0..1", "0..255") | None = None  # of the images; null: integers 0..255, others network
    protocol: key_of("protocols")
    nets: Nets
    lr: Positive | None = None  # in place of the file's; null, and none in the file: the protocol's


class Runtime(Row):
    """How to run; nothing here changes a result beyond its rounding, so that no recipe holds it."""

    archives: Place | None  # a folder with the user's own copies of the published archives
    imagenet_dir: Place | None  # the user's copy of ImageNet-1K
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$", description="auto, cpu, cuda or cuda:N")]
    checkpoint_minutes: number(0, 10**4, "a week; 0: always")
    capture: bool  # steps as CUDA graphs, where a GPU is
