"""Random numbers by name: every random choice of a run draws from a generator derived from its one integer seed."""

import hashlib

import torch


def generator(seed, *names, device="cpu"):
    """A torch.Generator for the purpose `names` of the run `seed`: independent of every other purpose's."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def restore(gen, state):
    """Put a generator into a saved state, wherever the state was loaded to."""
    gen.set_state(state.cpu())
