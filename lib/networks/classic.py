"""AlexNet and VGG11 as in FRePo's cross-architecture tables (small kernels, average pooling), LeNet and an MLP.

Source: reference sheets of FRePo (section 6) and of DC, DSA and DM (section 2, for LeNet and the MLP, which here take
images of other sizes too). The norm, if any, stands between convolution and ReLU.
"""

import torch
from torch import nn

from . import ARCHITECTURES
from .convnet import first_padding
from .layers import NORMS, SLOW_NORMS, Network

ALEXNET = [(128, 5), "pool", (192, 5), "pool", (256, 3), (192, 3), (192, 3), "pool"]  # (channels, kernel)
VGG11 = [  # the original code has 128 channels everywhere
    (128, 3), "pool", (128, 3), "pool", (128, 3), (128, 3), "pool",
    (128, 3), (128, 3), "pool", (128, 3), (128, 3), "pool",
]  # fmt: skip


def _stack(plan, in_shape, num_classes, norm):
    layers, channels = [], in_shape[0]
    for step in plan:
        if step == "pool":
            layers.append(nn.AvgPool2d(2))
            continue
        out, kernel = step
        padding = kernel // 2 if layers else first_padding(kernel, in_shape[1])
        layers += [nn.Conv2d(channels, out, kernel, padding=padding), SLOW_NORMS[norm](out), nn.ReLU()]
        channels = out
    return Network(nn.Sequential(*layers), in_shape, num_classes)


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def alexnet(in_shape, num_classes, norm="none"):
    """Five convolutions, three pools."""
    return _stack(ALEXNET, in_shape, num_classes, norm)


@ARCHITECTURES.register(scalable=False, text=False, options={"norm": NORMS})
def vgg11(in_shape, num_classes, norm="none"):
    """Eight convolutions of 128 channels, five pools: images of 28 pixels or more."""
    return _stack(VGG11, in_shape, num_classes, norm)


@ARCHITECTURES.register(scalable=False, text=False, options={})
def mlp(in_shape, num_classes, gain=1.0):
    """Two hidden layers of 128; without norm only."""
    layers, width = [nn.Flatten()], in_shape[0] * in_shape[1] * in_shape[2]
    for out in (128, 128):
        layers += [nn.Linear(width, out), nn.ReLU()]
        width = out
    return Network(nn.Sequential(*layers), in_shape, num_classes, gain)


@ARCHITECTURES.register(scalable=False, text=False, options={})
def lenet(in_shape, num_classes, gain=1.0):
    """LeNet-5 with ReLU and maximum pooling; images of 12 pixels or more; without norm only."""
    convolutions = nn.Sequential(
        nn.Conv2d(in_shape[0], 6, 5, padding=2 if in_shape[0] == 1 else 0), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    with torch.no_grad():
        width = convolutions(torch.zeros(1, *in_shape)).shape[1]
    body = nn.Sequential(convolutions, nn.Linear(width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
    return Network(body, in_shape, num_classes, gain)
