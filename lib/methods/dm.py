"""DM: dataset condensation with distribution matching (Zhao, Bilen; WACV 2023).

Source: reference sheet of DC, DSA and DM, section 5. Each step draws a random network, which is never trained.
"""

import torch

from ..synthetic.lowrank import images_per_class
from ..training.compute import at_least_float32, forward_flops
from . import METHODS
from .dsa import Siamese
from .matching import Matching


@METHODS.register()
class DM(Siamese, Matching):
    """Matches the mean features of each class, under Siamese augmentation."""

    @staticmethod
    def step_flops(cfg, shape, classes):
        """FLOPs of one step: the real images forward; the set forward, and back to the images."""
        return forward_flops(cfg.net, shape) * classes * (cfg.real_batch + 2 * images_per_class(cfg, shape))

    def prepare(self, others):
        self.net.train().requires_grad_(False)

    @property
    def joint(self):
        return self.coupled

    def class_losses(self, real, images, labels, draw):
        """Squared distances (c,) of mean features: of real (c, B, K, H, W) and of synthetic (c, n, K, H, W) images."""
        with torch.no_grad():
            real_mean = self.mean_features(self.augmented(real, draw))
        return (self.mean_features(self.augmented(images, draw)) - real_mean).square().sum(1)

    def mean_features(self, x):
        """x (c, n, K, H, W) -> (c, F), in float32."""
        images = x.flatten(0, 1)
        parts = images.split(len(images) if self.coupled else self.images_per_pass)
        features = torch.cat([at_least_float32(self.net.features(part)) for part in parts])
        return features.unflatten(0, x.shape[:2]).mean(1)
