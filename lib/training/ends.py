"""How a run may end before its last step."""


class NonFiniteLoss(Exception):
    """The loss of a run is not finite; the message says at which step and what was kept."""


class Stopped(Exception):
    """A run stopped on request, after it saved all that it needs to go on."""
