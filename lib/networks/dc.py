"""The networks of DC, DSA and DM: PyTorch's initialisation, norm after the convolution, heads as in their code.

Source: reference sheet of DC, DSA and DM, section 2. `_dc` marks names that FRePo's networks have too.
"""

import torch
from torch import nn

from . import ARCHITECTURES
from .classic import ALEXNET, lenet, mlp
from .layers import AveragePool, MapNorm, Network, torch_batch_norm
from .resnet import resnet18_body

NORMS = {  # (channels, side of the feature map) -> layer
    "none": lambda channels, side: nn.Identity(),
    "batch": lambda channels, side: torch_batch_norm(channels),
    "layer": lambda channels, side: MapNorm([channels, side, side]),
    "group": lambda channels, side: nn.GroupNorm(4, channels),
    "group1": lambda channels, side: nn.GroupNorm(1, channels),
    "instance": lambda channels, side: nn.GroupNorm(channels, channels),
}
ACTIVATIONS = {
    "relu": lambda: nn.ReLU(inplace=True),
    "sigmoid": nn.Sigmoid,
    "leaky": lambda: nn.LeakyReLU(0.01),
    "swish": nn.SiLU,
}
POOLS = {"avg": AveragePool, "max": lambda: nn.MaxPool2d(2), "nopool": nn.Identity}
VGG11 = [
    (64, 3), "pool", (128, 3), "pool", (256, 3), (256, 3), "pool",
    (512, 3), (512, 3), "pool", (512, 3), (512, 3), "pool",
]  # fmt: skip


def _stack(plan, in_shape, num_classes, norm, activation="relu", pool="max", grey_padding=0):
    """Convolutions (channels, kernel), each with norm and activation, and pools; grey_padding: more for grey images."""
    layers, (channels, side, _) = [], in_shape
    for step in plan:
        if step == "pool":
            layers.append(POOLS[pool]())
            side //= 1 if pool == "nopool" else 2
            continue
        out, kernel = step
        padding = kernel // 2 + (grey_padding if not layers and channels == 1 and side >= 28 else 0)
        side += 2 * padding - kernel + 1
        layers += [nn.Conv2d(channels, out, kernel, padding=padding), NORMS[norm](out, side), ACTIVATIONS[activation]()]
        channels = out
    # Norms over positions are quickest where each channel's positions lie together.
    return Network(nn.Sequential(*layers), in_shape, num_classes, gain=None, layout=torch.contiguous_format)


@ARCHITECTURES.register(scalable=True, text=False, options={"norm": NORMS, "activation": ACTIVATIONS, "pool": POOLS})
def convnet(in_shape, num_classes, depth, width, norm="none", activation="relu", pool="avg"):
    """Blocks of conv3x3 with bias -> norm -> activation -> pool; constant width; 28-pixel grey images become 32."""
    return _stack([(width, 3), "pool"] * depth, in_shape, num_classes, norm, activation, pool, grey_padding=2)


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def alexnet_dc(in_shape, num_classes, norm="none"):
    """Five convolutions, three maximum pools."""
    return _stack(ALEXNET, in_shape, num_classes, norm, grey_padding=2)


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def vgg11_dc(in_shape, num_classes, norm="none"):
    """Eight convolutions of 64 to 512 channels, five maximum pools."""
    return _stack(VGG11, in_shape, num_classes, norm, grey_padding=2)


@ARCHITECTURES.register(scalable=False, text=False, options={})
def mlp_dc(in_shape, num_classes):
    """`mlp` with PyTorch's initialisation."""
    return mlp(in_shape, num_classes, gain=None)


@ARCHITECTURES.register(scalable=False, text=False, options={})
def lenet_dc(in_shape, num_classes):
    """`lenet` with PyTorch's initialisation."""
    return lenet(in_shape, num_classes, gain=None)


def _resnet18(in_shape, num_classes, norm, pooled):
    if norm == "layer":
        raise ValueError("ResNet18 of this family has no layer norm: its size would have to be known for each map")
    layers = resnet18_body(in_shape[0], lambda channels: NORMS[norm](channels, None), nn.AvgPool2d if pooled else None)
    if not pooled:
        layers.append(nn.AvgPool2d(4))
    return Network(nn.Sequential(*layers), in_shape, num_classes, gain=None)


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def resnet18_dc(in_shape, num_classes, norm="none"):
    """Strided stages, then average pooling by 4."""
    return _resnet18(in_shape, num_classes, norm, pooled=False)


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def resnet18_ap_dc(in_shape, num_classes, norm="none"):
    """Stages halved by average pooling, no pooling at the end."""
    return _resnet18(in_shape, num_classes, norm, pooled=True)
