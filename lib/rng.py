"""Random numbers by name: every random choice of a run draws from a generator derived from its one integer seed."""

import hashlib

import torch


def generator(seed, *names, device="cpu"):
    """A torch.Generator for the purpose `names` of the run `seed`: independent of every other purpose's."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    made = OnMeta() if torch.device(device).type == "meta" else torch.Generator(device)
    return made.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class OnMeta(torch.Generator):
    """A generator for the meta device, where nothing is drawn; PyTorch has none."""

    device = torch.device("meta")


def class_minibatches(count, classes, ipc, batch, per_class, gen):
    """Indices (count, batch) of minibatches of a class-major set of `ipc` images a class.

    A minibatch has `per_class` distinct images of each of batch / per_class random classes.
    """
    taken = torch.rand(count, classes, generator=gen, device=gen.device).argsort(1)[:, : batch // per_class]
    images = torch.rand(*taken.shape, ipc, generator=gen, device=gen.device).argsort(2)[..., :per_class]
    return (taken[..., None] * ipc + images).flatten(1)


def restore(gen, state):
    """Put a generator into a saved state, wherever the state was loaded to."""
    gen.set_state(state.cpu())
