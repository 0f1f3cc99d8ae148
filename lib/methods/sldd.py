"""SLDD: soft-label dataset distillation (Sucholutsky, Schonlau 2019); fewer images than classes are enough.

Source: reference sheet of dataset distillation, section 10. The images' Adam learns the labels too, unconstrained.
"""

from . import METHODS
from .dd import DD


@METHODS.register()
class SLDD(DD):
    """cfg also has `label_softmax`: whether a label is learned through a softmax."""

    def __init__(self, cfg, syn, *args, **kwargs):
        super().__init__(cfg, syn, *args, **kwargs)
        syn.softmax_labels = cfg.label_softmax
