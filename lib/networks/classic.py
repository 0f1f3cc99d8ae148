"""AlexNet and VGG11 as FRePo's cross-architecture tables use them: small kernels and average pooling.

Source: reference sheet of FRePo, section 6. The norm, where one is asked for, stands between convolution and ReLU.
"""

from torch import nn

from .convnet import first_padding
from .layers import NORMS, Network

ALEXNET = [(128, 5), "pool", (192, 5), "pool", (256, 3), (192, 3), (192, 3), "pool"]
# VGG-11's order of layers; the original code gives every one of them 128 channels.
VGG11 = [(128, 3), "pool", (128, 3), "pool", (128, 3), (128, 3), "pool", (128, 3), (128, 3), "pool", (128, 3), (128, 3), "pool"]


def _stack(plan, in_shape, num_classes, norm):
    layers, channels = [], in_shape[0]
    for step in plan:
        if step == "pool":
            layers.append(nn.AvgPool2d(2))
            continue
        out, kernel = step
        padding = kernel // 2 if layers else first_padding(kernel, in_shape[1])
        layers += [nn.Conv2d(channels, out, kernel, padding=padding), NORMS[norm](out), nn.ReLU()]
        channels = out
    return Network(nn.Sequential(*layers), in_shape, num_classes)


def alexnet(in_shape, num_classes, norm):
    """Five convolutions, three pools."""
    return _stack(ALEXNET, in_shape, num_classes, norm)


def vgg11(in_shape, num_classes, norm):
    """Eight convolutions of 128 channels, five pools: images of 28 pixels or more."""
    return _stack(VGG11, in_shape, num_classes, norm)
