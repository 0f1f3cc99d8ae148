"""The ConvNet family: FRePo's `conv`, and the variants of DC (`dcconv`) and KIP (`kipconv`).

Source: reference sheet of FRePo, section 6. 28-pixel images are padded to 32 by the first convolution.
"""

from torch import nn

from . import ARCHITECTURES
from .layers import NORMS, SLOW_NORMS, Network


def first_padding(kernel, height):
    """Padding that keeps the size, plus 2 for 28-pixel images, which thereby become 32."""
    return kernel // 2 + (2 if height == 28 else 0)


@ARCHITECTURES.register(scalable=True, text=False, options={"norm": NORMS})
def conv(in_shape, num_classes, depth, width, norm="none"):
    """Blocks of [norm ->] conv3x3 -> ReLU -> average pool; channels double with each block, no norm in the first."""
    layers, channels = [], in_shape[0]
    for i in range(depth):
        if i > 0:
            layers.append(NORMS[norm](channels))
        padding, out = 1 if i else first_padding(3, in_shape[1]), width * 2**i
        layers += [nn.Conv2d(channels, out, 3, padding=padding), nn.ReLU(), nn.AvgPool2d(2)]
        channels = out
    return Network(nn.Sequential(*layers), in_shape, num_classes)


@ARCHITECTURES.register(scalable=True, text=False, options={"norm": NORMS})
def dcconv(in_shape, num_classes, depth, width, norm="none"):
    """Constant width; conv3x3 without bias -> norm -> ReLU -> average pool; Kaiming weights. 28 pixels become 3."""
    layers, channels = [], in_shape[0]
    for _ in range(depth):
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, SLOW_NORMS[norm](width), nn.ReLU(), nn.AvgPool2d(2)]
        channels = width
    return Network(nn.Sequential(*layers), in_shape, num_classes, gain=2.0)


@ARCHITECTURES.register(scalable=True, text=False, options={"norm": NORMS})
def kipconv(in_shape, num_classes, depth, width, norm="none"):
    """Conv + ReLU, then `depth` blocks of [norm ->] conv3x3 -> ReLU -> average pool; the head's biases are random."""
    layers = [nn.Conv2d(in_shape[0], width, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [NORMS[norm](width), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
    return Network(nn.Sequential(*layers), in_shape, num_classes, bias_std=0.1)
