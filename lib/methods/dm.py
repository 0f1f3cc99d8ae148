"""DM: dataset condensation with distribution matching (Zhao, Bilen; WACV 2023).

Source: reference sheet of DC, DSA and DM, section 5. Each step draws a random network, which is never trained.
"""

import torch

from ..synthetic.lowrank import images_per_class
from ..training.compute import forward_flops, wide
from . import METHODS
from .dsa import Siamese
from .matching import Matching


@METHODS.register()
class DM(Siamese, Matching):
    """Matches the classes' mean features; Siamese augmentation."""

    @staticmethod
    def step_flops(cfg, shape, classes):
        """Work of one step: the real images forward; the set forward and back to the images."""
        return forward_flops(cfg.net, shape) * classes * (cfg.real_batch + 2 * images_per_class(cfg, shape))

    def prepare(self, real_x, chosen):
        self.net.train().requires_grad_(False)

    @property
    def joint(self):
        return self.coupled

    def class_losses(self, real, images, labels, draw):
        """Squared distances (c,) between the mean features of real (c, B, K, H, W) and of synthetic images (c, n, K, H, W)."""
        with torch.no_grad():
            theirs = self.mean_features(self.augmented(real, draw))
        return (self.mean_features(self.augmented(images, draw)) - theirs).square().sum(1)

    def mean_features(self, x):
        """x (c, n, K, H, W) -> (c, F), in float32."""
        flat = x.flatten(0, 1)
        parts = flat.split(len(flat) if self.coupled else self.part)
        return torch.cat([wide(self.net.features(part)) for part in parts]).unflatten(0, x.shape[:2]).mean(1)
