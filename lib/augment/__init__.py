"""Augmentations of images, one family a file; imports nothing of lib but registry. `augmented` applies an evaluation's policy by name."""

from ..registry import Registry

POLICIES = Registry(
    __name__
)  # augmented(policy, x, generator, host), many students at once, each with draws of its own


def augmented(policy, x, generator, host):
    """Augment x (S, B, K, H, W), S students' batches, by the policy of this name, or not at all by `none`; no gradient reaches x.

    Random numbers come from `generator`, on x's device, and from `host`, on the CPU, for what decides which code runs.
    """
    return x if policy == "none" else POLICIES[policy](policy, x, generator, host)
