"""DC: dataset condensation with gradient matching (Zhao, Mopuri, Bilen; ICLR 2021).

Source: reference sheet of DC, DSA and DM, section 4. A step is one update of the images. A fresh network begins every
`outer` steps; between two of its steps it trains on the set for `inner_epochs`.
"""

import torch
import torch.nn.functional as F

from ..synthetic.lowrank import images_per_class
from ..training.compute import at_least_float32, autocast, forward_flops
from . import METHODS
from .gradient_distance import DISTANCES, class_gradients
from .matching import Matching


@METHODS.register()
class DC(Matching):
    """cfg also has `distance`, `outer`, `inner_epochs`, `lr_net` and `net_batch`."""

    def __init__(self, cfg, syn, seed):
        super().__init__(cfg, syn, seed)
        self.outer = cfg.outer

    @staticmethod
    def step_flops(cfg, shape, classes):
        """FLOPs of one update: real images forward and backward, the set differentiated twice, the network's epochs."""
        n = classes * images_per_class(cfg, shape)
        epochs = cfg.inner_epochs * (cfg.outer - 1) / cfg.outer
        return forward_flops(cfg.net, shape) * (3 * classes * cfg.real_batch + 9 * n + 3 * n * epochs)

    def prepare(self, others):
        if self.coupled:
            with torch.no_grad():
                self.net.train()(others)
        self.net.eval()

    def class_losses(self, real, images, labels, draw):
        """Distances (c,) of the gradients on real (c, B, K, H, W) and synthetic images (c, n, K, H, W); labels (c,)."""
        size = self.images_per_pass
        real_grads = class_gradients(self.net, self.augmented(real, draw), labels, size)
        syn_grads = class_gradients(self.net, self.augmented(images, draw), labels, size, create_graph=True)
        return DISTANCES[self.cfg.distance](syn_grads, [grad.detach() for grad in real_grads])

    def augmented(self, x, draw):
        return x

    def training_batch(self, x):
        """The images (B, K, H, W) of one update of the network."""
        return x

    def train_network(self):
        """Train the network on the set by plain SGD; an epoch's last batch may be smaller."""
        x, y = self.syn.x.detach(), self.syn.y
        optimizer = torch.optim.SGD(self.net.parameters(), self.cfg.lr_net)
        self.net.train()
        for _ in range(self.cfg.inner_epochs):
            order = torch.randperm(len(x), generator=self.rngs["order"], device=x.device)
            for indices in order.split(self.cfg.net_batch):
                optimizer.zero_grad()
                with autocast(x.device, self.cfg.conv_dtype):
                    logits = self.net(self.training_batch(x[indices]))
                F.cross_entropy(at_least_float32(logits), y[indices]).backward()
                optimizer.step()
