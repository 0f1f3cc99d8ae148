"""How far the accuracy of a set with a fixed start goes when its images move a little.

Source: our own measurement; see the reference sheet of dataset distillation, section 7, for the protocol.
"""

import torch

from ..rng import generator
from .baselines import accuracies

MOVES, DRAWS = (1e-4, 1e-2), 4  # deviations of pixels: a hundredth of a grey level of 8-bit MNIST, and about one


def perturbed_accuracies(net, sets, real, seed):
    """{std: accuracies (sets, DRAWS) in percent} of DistilledSets with starting weights, once normal noise of that deviation is on their images.

    A few long steps jump where a ReLU or a maximum switches: the accuracy is a function of the images with steps in it, which no gradient sees.
    """
    found = {}
    for std in MOVES:
        rng = generator(seed, "moved", device=sets[0].x.device)
        found[f"{std:g}"] = [
            accuracies(net, [own._replace(x=own.x + std * torch.randn(own.x.shape, generator=rng, device=own.x.device)) for _ in range(DRAWS)],
                       real, own.start[None], 1, f"{seed}.test", test=True).flatten().tolist()
            for own in sets
        ]  # fmt: skip
    return found
