"""DSA: dataset condensation with differentiable Siamese augmentation (Zhao, Bilen; ICML 2021).

Source: reference sheet of DC, DSA and DM, sections 3, 4: DC; a class's real and synthetic images are augmented alike.
"""

from ..augment import dsa
from . import METHODS
from .dc import DC


class Siamese:
    """One family and one set of parameters for each class and update; cfg has `augment`."""

    def draw(self):
        if self.cfg.augment == "none":
            return None
        return dsa.draw(self.cfg.augment, len(self.classes), 1, self.rngs["augment"], self.rngs["family"])

    def augmented(self, x, draw):
        return dsa.apply(x, draw)


@METHODS.register()
class DSA(Siamese, DC):
    """DC with Siamese augmentation in matching, and parameters of each image's own where the network trains."""

    def training_batch(self, x):
        return dsa.augmented(self.cfg.augment, x[None], self.rngs["augment"], self.rngs["family"])[0]
