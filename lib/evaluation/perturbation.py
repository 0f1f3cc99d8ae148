"""How the accuracy of a set with a fixed start changes when its images are perturbed a little.

Source: our own measurement; see the reference sheet of dataset distillation, section 7, for the protocol.
"""

import torch

from ..rng import generator
from .baselines import accuracies

NOISE_STDS, DRAWS = (1e-4, 1e-2), 4  # in pixels' units: a hundredth of a grey level of 8-bit MNIST, and about one


def perturbed_accuracies(net, sets, real, seed):
    """{std: accuracies (sets, DRAWS) in percent} of DistilledSets with starting weights and normal noise on the images.

    Where a ReLU or a maximum switches, a few long steps jump: accuracy has jumps in the images that no gradient sees.
    """
    results = {}
    for std in NOISE_STDS:
        gen = generator(seed, "moved", device=sets[0].x.device)
        rows = results[f"{std:g}"] = []
        for distilled in sets:
            x, start = distilled.x, distilled.start[None]
            noise = [std * torch.randn(x.shape, generator=gen, device=x.device) for _ in range(DRAWS)]
            noisy_sets = [distilled._replace(x=x + draw) for draw in noise]
            rows.append(accuracies(net, noisy_sets, real, start, 1, f"{seed}.test", test=True).flatten().tolist())
    return results
