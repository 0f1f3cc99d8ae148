"""EDF: emphasizing discriminative features (Wang et al., CVPR 2025): DATM without common patterns, its pixels weighted.

Source: reference sheet of EDF, section 6. Dropping common patterns is DATM's `drop`; weighting by class maps is here.
"""

import torch

from ..rng import generator
from . import METHODS
from .class_maps import class_maps, emphasis
from .datm import DATM


@METHODS.register()
class EDF(DATM):
    """cfg also has `map_every`, `beta`, `maps`. judge: a network in eval mode, and its class (C,) for each label."""

    def __init__(self, cfg, syn, seed, *args, judge, **kwargs):
        super().__init__(cfg, syn, seed, *args, **kwargs)
        self.judge, self.judge_class = judge
        self.rngs["maps"] = generator(seed, "maps", device=syn.y.device)
        self.weights = torch.ones(len(syn), 1, *syn.x.shape[2:], device=syn.y.device)

    def images(self):
        x = self.syn.x.view_as(self.syn.x)  # a hook on the leaf itself would be added at every step
        x.register_hook(lambda grad: grad * self.weights)
        return x

    def step(self, step, start, target):
        if step % self.cfg.map_every == 0:
            classes = self.judge_class[self.syn.y.detach().argmax(1)]
            maps = class_maps(self.cfg.maps, self.judge, self.syn.x.detach(), classes, self.rngs["maps"])
            self.weights = emphasis(maps, self.cfg.beta)
        return super().step(step, start, target)

    def state_dict(self):
        return {**super().state_dict(), "weights": self.weights}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.weights = state["weights"].to(self.syn.y.device)
