"""What a cell's data and network allow, beyond what its row can tell. The stage, which sees the data, asks too."""

from functools import cache

import torch
from torch.overrides import TorchFunctionMode

from ..autodiff.layerwise import layerwise_derivatives
from ..autodiff.unroll import Flat
from ..methods.class_maps import activations
from ..methods.gradient_distance import class_gradients
from ..networks import build, parse
from ..networks.own import in_words, load, path_of
from ..rng import generator
from ..synthetic.lowrank import images_per_class
from ..training.compute import forward_flops, widest_layer
from ..training.students import Students
from .fingerprint import reach
from .settings import ParamsError

MOST_WEIGHTS = 10**9


def real_images(cfg, shape):
    """Real images of each class that a run starts from."""
    return 0 if cfg.init == "noise" else images_per_class(cfg, shape)


def check_against_data(key, cfg, real):
    """Refuse what only the data show to be wrong, as ParamsError. cfg: models.Distill; real: a RealSet."""
    path = f"params.yaml: cells.{key}.distill"
    if real.num_classes % cfg.class_steps:
        raise ParamsError(f"{path}.class_steps: found {cfg.class_steps}; must divide the {real.num_classes} classes")
    if must := singular_kernel(cfg, real.shape, real.num_classes):
        raise ParamsError(f"{path}.ipc: found {cfg.ipc}; {must}")
    by_class = cfg.real_batch if cfg.batches == "by_class" else 0
    for seed in cfg.seeds:
        labels = real.chunk(seed, cfg.chunk).train_y if cfg.chunk else real.train_y
        smallest = labels.bincount(minlength=real.num_classes).min().item()
        for name, wanted in (("ipc", max(cfg.ipc, real_images(cfg, real.shape))), ("real_batch", by_class)):
            if wanted > smallest:
                seen = f"{wanted} images of a class are taken, the smallest that seed {seed} sees has {smallest}"
                raise ParamsError(f"{path}.{name}: found {getattr(cfg, name)}; {seen}")


def singular_kernel(cfg, shape, classes):
    """What to do where FRePo's set of a cell has a singular kernel; None where it has not."""
    if cfg.labels != "centred":
        return None
    n = images_per_class(cfg, shape) * classes // cfg.class_steps * (2 if cfg.flip else 1)
    if n < (width := feature_width(cfg.net, shape)):
        return None
    doubled = " (with flip: true, which doubles the set)" if cfg.flip else ""
    return (
        f"{n} images{doubled} need a network of more than {n} features, {cfg.net} has {width}: "
        "the kernel would be singular; lower ipc, set flip: false or take a wider net"
    )


@cache
def feature_width(net, shape):
    """Features of a network on images of `shape`; ValueError where it does not fit, or has too many weights.

    Large ones are built on the meta device, without memory and at once; it costs a second, which small ones are spared.
    """
    large = shape[-1] > 128 or parse(net)[1].get("width", 0) > 256
    with Undrawn(), torch.device("meta" if large else "cpu"):
        network = build(net, shape, 2)
    if (weights := sum(p.numel() for p in network.parameters())) > MOST_WEIGHTS:
        raise ValueError(
            f"{net} has {weights:,} weights; at most {MOST_WEIGHTS:,} are taken, 4 GB: take a narrower one"
        )
    return network.feature_width


@cache
def has_class_maps(net, shape):
    """Whether EDF's class maps can be read off a network on images of `shape`: a ReLU of its gives feature maps."""
    try:
        activations(build(net, shape, 2).eval(), torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64))
    except IndexError:
        return False
    return True


def derived_by_hand(cfg, shape, classes):
    """Whether DD computes the second derivatives of its network layer by layer, where it can smooth them."""
    return cfg.nets_per_step == 1 and classes != 2 and layerwise_derivatives(Flat(build(cfg.net, shape, 3))) is not None


@cache
def try_own(name, shape, twice):
    """Use a user's network as stages will, on a few images; ValueError says what goes wrong.

    twice: as the methods do that differentiate gradients.
    """
    entry = tuple(parse(name)[1].values())
    path = path_of(entry[0])
    load(*entry)
    with in_words(path, "cannot be followed to what it uses"):
        reach([entry])
    gen = generator(0, "images")
    x = torch.randn(2, 2, *shape, generator=gen)
    nets = [build(name, shape, 2) for _ in range(2)]
    with in_words(path, "fails in training"):
        nets[0](x[0]).sum().backward()
    with in_words(path, "fails on the meta device, where work is counted"):
        forward_flops(name, shape), widest_layer(name, shape)
    for net in nets:
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(torch.nan)
        with in_words(path, "fails in reset(generator)"):
            net.reset(generator(0, "weights"))
    for (tensor, value), other in zip(nets[0].state_dict().items(), nets[1].state_dict().values()):
        if not torch.equal(value, other):  # NaN is not equal to itself
            must = "give your class a method reset(generator) that draws each weight from this torch.Generator"
            raise ValueError(f"{path}: {tensor.removeprefix('module.')} is not made anew for a fresh network; {must}")
    with in_words(path, "fails with channels-last images, as FRePo has them"):
        image = x[0].contiguous(memory_format=torch.channels_last)
        nets[0].to(memory_format=torch.channels_last)(image).sum().backward()
    with in_words(path, "fails under torch.func.vmap, by which several networks are trained at once"):
        students, both = Students(name, shape, 2, [0, 0], 0, "cpu"), slice(0, 2)
        students.template.train()
        students.call(both, x, params=students.leaves(both)).sum().backward()
    if twice:
        with in_words(path, "fails under torch.func.vmap in float64, where gradients are differentiated"):
            together, alone = (second_gradients(nets[1].double().eval(), x.double(), size) for size in (2, 1))
        if not torch.allclose(together, alone, 0, 1e-6 * alone.abs().max().item()):
            likely = "if it is torch's LayerNorm, take ChannelNorm or MapNorm of lib.networks.layers"
            raise ValueError(f"{path}: torch.func.vmap derives the gradient of one of its layers wrongly; {likely}")


def second_gradients(net, x, size):
    """The gradient by images x (2, 2, K, H, W) of the squared gradients of their classes, `size` classes at once."""
    x = x.clone().requires_grad_()
    parts = [class_gradients(net, x[i : i + size], torch.arange(i, i + size), 2, True) for i in range(0, 2, size)]
    return torch.autograd.grad(sum(g.square().sum() for part in parts for g in part), x)[0]


class Undrawn(TorchFunctionMode):
    """Leaves out torch's random weights. (On the meta device a ReLU imports torch's compiler, which takes a second.)"""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)
