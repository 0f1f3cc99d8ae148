"""ResNet18 for small images: a 3x3 stem, four stages of two basic blocks, and *no* global pooling before the head.

Source: reference sheet of FRePo, section 6. Convolutions have no bias. In the original code only the stem gets the norm
that was asked for; here the blocks get it too, so that `resnet18-batch` is what it says. Without a norm, as FRePo
evaluates, the two are the same network. `resnet18_tv` is torchvision's own, for larger images.
"""

import torch.nn.functional as F
from torch import nn

from . import ARCHITECTURES
from .layers import NORMS, SLOW_NORMS, Network, torch_batch_norm

STAGES = (64, 128, 256, 512)  # channels


def _conv3(channels, out, stride=1):
    return nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. pool: a layer that halves in place of a stride. norm(channels): a layer."""

    def __init__(self, channels, out, halve, pool, norm):
        super().__init__()
        stride = 2 if halve and not pool else 1
        pool = pool(2) if halve and pool else nn.Identity()
        first, second = _conv3(channels, out, stride), _conv3(out, out)
        self.main = nn.Sequential(first, norm(out), nn.ReLU(), pool, second, norm(out))
        self.shortcut = nn.Identity()
        if halve or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), pool, norm(out))

    def forward(self, x):
        return F.relu(self.main(x) + self.shortcut(x))


def resnet18_body(channels, norm, pool=None):
    """The layers before the head, norms from norm(channels); pool: the layer that halves, or a stride."""
    layers, channels = [_conv3(channels, STAGES[0]), norm(STAGES[0]), nn.ReLU()], STAGES[0]
    for stage, out in enumerate(STAGES):
        for block in range(2):
            layers.append(BasicBlock(channels, out, stage > 0 and block == 0, pool, norm))
            channels = out
    return layers


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def resnet18(in_shape, num_classes, norm="none"):
    """Stages halve the map by strided convolutions."""
    return Network(nn.Sequential(*resnet18_body(in_shape[0], SLOW_NORMS[norm])), in_shape, num_classes)


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def resnet18_ap(in_shape, num_classes, norm="none"):
    """Stages halve the map by maximum pooling."""
    body = resnet18_body(in_shape[0], SLOW_NORMS[norm], nn.MaxPool2d)
    return Network(nn.Sequential(*body), in_shape, num_classes)


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def resnet18_tv(in_shape, num_classes, norm="none"):
    """torchvision's ResNet18 (7x7 stem of stride 2, maximum pool, global average pool), Kaiming weights."""
    import torchvision  # a second and a half, of every stage

    net = torchvision.models.resnet18(norm_layer=(NORMS | {"batch": torch_batch_norm})[norm])
    if in_shape[0] != 3:
        net.conv1 = nn.Conv2d(in_shape[0], 64, 7, 2, 3, bias=False)
    net.fc = nn.Identity()
    return Network(net, in_shape, num_classes, gain=2.0)
