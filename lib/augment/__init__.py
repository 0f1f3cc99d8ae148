"""Augmentations of images, one family a file; imports nothing of lib but registry."""

from ..registry import Registry

# {policy: augmented(policy, x, generator, host)}; many students are augmented at once, each by draws of its own.
POLICIES = Registry(__name__)


def policy_named(name):
    """The entry of POLICIES for a name: of a strategy of DSA that is not among its names, that of `dsa`."""
    return POLICIES[name if name in POLICIES else "dsa"]


def augmented(policy, x, generator, host):
    """Augment x (S, B, K, H, W), the batches of S students, by the policy of this name; `none` leaves it. No gradient.

    Random numbers come from `generator`, on x's device; those that decide which code runs from `host`, on the CPU.
    """
    return x if policy == "none" else policy_named(policy)(policy, x, generator, host)
