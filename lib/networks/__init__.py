"""All networks. `build(name, ...)` is the only door; a name is `ARCH[DEPTH][-wWIDTH][-NORM]`.

Examples: `conv3` (depth 3, width 128, no norm), `conv3-batch`, `conv2-w32-batch`, `kipconv3`, `resnet18_ap`.
"""

import re

from .classic import alexnet, lenet, mlp, vgg11
from .convnet import conv, dcconv, kipconv
from .layers import NORMS
from .resnet import resnet18, resnet18_ap, resnet18_tv

SCALABLE = {"conv": conv, "dcconv": dcconv, "kipconv": kipconv}  # take a depth and a width
FIXED = {"alexnet": alexnet, "vgg11": vgg11, "resnet18": resnet18, "resnet18_ap": resnet18_ap, "resnet18_tv": resnet18_tv, "lenet": lenet, "mlp": mlp}
NORMLESS = {"lenet", "mlp"}
DEFAULT_WIDTH = 128


def parse(name):
    """Split a network's name -> (arch, depth or None, width, norm); ValueError says what is allowed."""
    match = re.fullmatch(r"([a-z]+(?:1[18](?:_ap|_tv)?)?)(\d?)(?:-w(\d+))?(?:-([a-z]+\d?))?", name)
    arch, depth, width, norm = match.groups() if match else (None,) * 4
    norm = norm or "none"
    scalable = arch in SCALABLE
    good = norm in NORMS and ((scalable and depth and depth != "0") or (arch in FIXED and not depth and not width))
    if not good or (width and int(width) < 1) or (arch in NORMLESS and norm != "none"):
        raise ValueError(
            f"must be {', '.join(a + 'DEPTH[-wWIDTH]' for a in SCALABLE)} or one of {', '.join(FIXED)}, "
            f"then optionally (not {' and '.join(sorted(NORMLESS))}) -{', -'.join(n for n in NORMS if n != 'none')}; e.g. conv3-batch"
        )
    return arch, int(depth) if scalable else None, int(width or DEFAULT_WIDTH), norm


def build(name, in_shape, num_classes):
    """Build a network for images of `in_shape` (K, H, W). Its weights are undefined until `reset(generator)`.

    ValueError where the name is unknown or the images are too small for the network's pools.
    """
    arch, depth, width, norm = parse(name)
    try:
        if arch in SCALABLE:
            return SCALABLE[arch](in_shape, num_classes, depth, width, norm)
        return FIXED[arch](in_shape, num_classes, norm)
    except RuntimeError as error:
        raise ValueError(f"{name} does not fit images of {in_shape[1]}x{in_shape[2]}: {error}") from None
