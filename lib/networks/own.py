"""A network of the user's: a class, or a function, of a file in the folder lib/own. The file is executed.

`Class(in_shape, num_classes)` gives a torch.nn.Module from images (B, K, H, W) to logits (B, C) whose last layer is a
Linear. The input of this layer is what `features` gives. config/limits.py tries such a network before any compute.
"""

import importlib
import traceback
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from . import ARCHITECTURES, OWN
from .layers import Network, reset_parameters


@contextmanager
def in_words(path, doing):
    """Turn what a user's code raises into a ValueError of one sentence."""
    try:
        yield
    except Exception as error:
        if str(error).startswith(path):  # it has been said in words
            raise ValueError(f"{path} {doing}:{str(error).removeprefix(path)}") from None
        lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename.endswith(path)]
        where, words = f" (line {lines[-1]})" if lines else "", " ".join(str(error).split())[:300]
        raise ValueError(f"{path} {doing}: {type(error).__name__}{where}: {words}") from None


class Own(Network):
    """A user's module without its last layer, which is `head`; place: the module that has this layer, and its name."""

    body, layout = None, torch.contiguous_format  # no body: derivatives by hand are for the layers of lib

    def __init__(self, module, head, place):
        nn.Module.__init__(self)
        self.module, self.head, self.place = module, head, place
        setattr(*place, nn.Identity())

    def features(self, x):
        return self.module(x)

    @torch.no_grad()
    def reset(self, generator):
        """Fresh weights: by the module's own `reset(generator)`, or as PyTorch draws them."""
        if hasattr(self.module, "reset"):
            setattr(*self.place, self.head)  # which it knows by this name
            self.module.reset(generator)
            setattr(*self.place, nn.Identity())
        else:
            reset_parameters(self, generator, gain=None)
        return self


def path_of(module):
    return f"{module.replace('.', '/')}.py"


def load(module, definition):
    """Import lib/own/FILE.py -> its class or function; ValueError says in a sentence what is wrong."""
    path = path_of(module)
    if not Path(path).is_file():
        raise ValueError(f"{path}: not found; networks of your own are files there (and, to be queued, tracked by git)")
    with in_words(path, "cannot be imported"):
        found = getattr(importlib.import_module(module), definition, None)
    if found is None:
        raise ValueError(f"{path} defines no {definition}")
    return found


@ARCHITECTURES.register(OWN, scalable=False, text=None, options={})
def own(in_shape, num_classes, module, definition):
    """Build what lib/own/FILE.py defines; ValueError says in a sentence what is wrong with it."""
    found, path, outputs = load(module, definition), path_of(module), []
    with in_words(path, f"fails in {definition}({tuple(in_shape)}, {num_classes})"):
        net = found(tuple(in_shape), num_classes)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{path}: {definition} must give a torch.nn.Module, not a {type(net).__name__}")
    linears = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda layer, _, output: outputs.append((layer, output))) for layer in linears]
    with in_words(path, f"fails on images of {tuple(in_shape)}"), torch.no_grad():
        logits = net.eval()(torch.zeros(2, *in_shape))
    for hook in hooks:
        hook.remove()
    if (given := tuple(getattr(logits, "shape", ()))) != (2, num_classes):
        must = f"must be (2, {num_classes}), the logits of num_classes {num_classes}"
        raise ValueError(f"{path}: {definition} gives outputs of shape {given} for two images; {must}")
    head = next((layer for layer, output in outputs if output is logits), None)
    if head is None:
        raise ValueError(f"{path}: {definition} must return what its last layer gives, a torch.nn.Linear, as it is")
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in net.modules()):
        raise ValueError(f"{path}: {definition} has a batch norm of torch's; take lib.networks.layers.torch_batch_norm")
    if len(list(net.named_parameters(remove_duplicate=False))) > len(list(net.parameters())):
        raise ValueError(f"{path}: {definition} has a parameter under two names; each must have one")
    parent, _, name = next(name for name, layer in net.named_modules() if layer is head).rpartition(".")
    return Own(net.train(), head, (net.get_submodule(parent), name))
