"""The networks of dataset distillation: LeNet, AlexCifarNet, AlexNet and MLPs, with weights drawn by one of `LAWS`.

Source: reference sheet of dataset distillation, section 5. No batch norm. LeNet takes the maximum before the ReLU: the
result is the same and the ReLU has a quarter of the numbers. Its 28-pixel images are padded to 32.
"""

import torch
from torch import nn

from . import ARCHITECTURES
from .layers import LAWS, Network, PooledConv


class ResponseNorm(nn.LocalResponseNorm):
    """Across four channels, with cuda-convnet's constants; PyTorch divides alpha by the size itself."""

    def __init__(self):
        super().__init__(4, alpha=0.001 / 9, beta=0.75, k=1.0)


def _flat_width(body, in_shape):
    with torch.no_grad():
        return body(torch.zeros(1, *in_shape)).shape[1]


def _dense(widths):
    return [layer for a, b in zip(widths, widths[1:]) for layer in (nn.Linear(a, b), nn.ReLU())]


def _network(layers, in_shape, num_classes, law):
    return Network(nn.Sequential(*layers), in_shape, num_classes, law, layout=torch.contiguous_format)


@ARCHITECTURES.register(scalable=True, text=False, options={"law": LAWS})
def dense(in_shape, num_classes, depth, width, law="xavier"):
    """`depth` hidden layers of `width`."""
    pixels = in_shape[0] * in_shape[1] * in_shape[2]
    return _network([nn.Flatten(), *_dense([pixels] + [width] * depth)], in_shape, num_classes, law)


@ARCHITECTURES.register(scalable=False, text=False, options={"law": LAWS})
def lenet_dd(in_shape, num_classes, law="xavier"):
    """LeNet-5 with ReLU and maximum pooling, for images of 28 or 32 pixels: 61,706 weights on MNIST."""
    first = PooledConv(in_shape[0], 6, 5, padding=2 if in_shape[1] == 28 else 0)
    body = [first, nn.ReLU(), PooledConv(6, 16, 5), nn.ReLU(), nn.Flatten()]
    width = _flat_width(nn.Sequential(*body), in_shape)
    return _network([*body, *_dense([width, 120, 84])], in_shape, num_classes, law)


@ARCHITECTURES.register(scalable=False, text=False, options={"law": LAWS})
def alexcifar(in_shape, num_classes, law="xavier"):
    """AlexCifarNet, after cuda-convnet: 1,756,426 weights on CIFAR-10."""
    body = [
        nn.Conv2d(in_shape[0], 64, 5, padding=2), nn.MaxPool2d(3, 2, 1), nn.ReLU(), ResponseNorm(),
        nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), ResponseNorm(), nn.MaxPool2d(3, 2, 1), nn.Flatten(),
    ]  # fmt: skip
    width = _flat_width(nn.Sequential(*body), in_shape)
    return _network([*body, *_dense([width, 384, 192])], in_shape, num_classes, law)


@ARCHITECTURES.register(scalable=False, text=False, options={"law": LAWS})
def alexnet_dd(in_shape, num_classes, law="xavier"):
    """torchvision's AlexNet for 224 pixels, without dropout."""
    plan = [(64, 11, 4, 2), "pool", (192, 5, 1, 2), "pool", (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1), "pool"]
    layers, channels = [], in_shape[0]
    for step in plan:
        if step == "pool":
            layers.append(nn.MaxPool2d(3, 2))
            continue
        out, kernel, stride, padding = step
        layers += [nn.Conv2d(channels, out, kernel, stride, padding), nn.ReLU()]
        channels = out
    layers += [nn.AdaptiveAvgPool2d(6), nn.Flatten(), *_dense([256 * 36, 4096, 4096])]
    return _network(layers, in_shape, num_classes, law)
