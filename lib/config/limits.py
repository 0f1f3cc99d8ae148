"""What a cell's data and network allow, beyond what its row can tell. The stage, which sees the data, asks too."""

from functools import cache

from torch.overrides import TorchFunctionMode

from ..networks import build
from ..synthetic.lowrank import images_per_class
from .settings import ParamsError


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
    """Features of a network on images of `shape`; ValueError where it does not fit."""
    with Undrawn():
        return build(net, shape, 2).feature_width


class Undrawn(TorchFunctionMode):
    """Leaves out torch's random weights. (On the meta device a ReLU imports torch's compiler, which takes a second.)"""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)
