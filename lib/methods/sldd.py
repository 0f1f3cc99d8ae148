"""SLDD: dataset distillation with learned labels (Sucholutsky, Schonlau 2019); fewer images than classes are enough.

Source: reference sheet of dataset distillation, section 10. Labels are learned by the images' Adam and not constrained.
"""

from . import METHODS
from .dd import DD


@METHODS.register()
class SLDD(DD):
    """cfg also has `label_softmax`: whether a label is learned through a softmax."""

    def __init__(self, cfg, syn, *args, **kwargs):
        super().__init__(cfg, syn, *args, **kwargs)
        syn.softmax_labels = cfg.label_softmax
