"""Augmentations of the evaluation protocols, by name: many students at once, each with draws of its own."""

from . import dc, dd, dsa, frepo

POLICIES = {
    "none": None,
    "rgb": frepo.augmented,
    "grey": frepo.augmented,
    "dsa": dsa.augmented,  # all six families
    "dsa-noflip": dsa.augmented,  # for digits
    "dsa-crop4": dsa.augmented,  # shifts of a quarter of the side, as EDF has them
    "flip-rotate": dsa.augmented,  # one of the two: RaT-BPTT's
    "crop-flip": dd.augmented,  # a shift and a flip: of networks that DD starts from
    "dc": dc.augmented,  # one of crop, scale and rotation for each image: DC's evaluation on MNIST
    "dc-noise": dc.augmented,  # crop or noise: DC's evaluation of networks with batch norm
}


def augmented(policy, x, generator, host):
    """Augment x (S, B, K, H, W), S students' batches, by the policy of this name; no gradient reaches x.

    Random numbers come from `generator`, on x's device, and from `host`, on the CPU, for what decides which code runs.
    """
    return POLICIES[policy](policy, x, generator, host) if POLICIES[policy] else x
