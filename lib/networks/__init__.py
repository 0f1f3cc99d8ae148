"""All networks. `build(name, ...)` is the only door; a name is `ARCH[DEPTH][-wWIDTH][-NORM][-ACTIVATION][-POOL]`.

Examples: `conv3` (depth 3, width 128, no norm), `conv3-batch`, `conv2-w32-batch`, `kipconv3`, `resnet18_ap`; of DC, DSA and DM:
`convnet3-instance`, `convnet3-batch-swish`, `convnet3-instance-relu-max`, `alexnet_dc`, `vgg11_dc-instance`.
"""

import re

from .classic import alexnet, lenet, mlp, vgg11
from .convnet import conv, dcconv, kipconv
from .dc import ACTIVATIONS, POOLS, alexnet_dc, convnet, lenet_dc, mlp_dc, resnet18_ap_dc, resnet18_dc, vgg11_dc
from .layers import NORMS
from .resnet import resnet18, resnet18_ap, resnet18_tv

SCALABLE = {"conv": conv, "dcconv": dcconv, "kipconv": kipconv, "convnet": convnet}  # take a depth and a width
FIXED = {"alexnet": alexnet, "vgg11": vgg11, "resnet18": resnet18, "resnet18_ap": resnet18_ap, "resnet18_tv": resnet18_tv, "lenet": lenet, "mlp": mlp}
FIXED |= {f.__name__: f for f in (mlp_dc, lenet_dc, alexnet_dc, vgg11_dc, resnet18_dc, resnet18_ap_dc)}
NORMLESS = {"lenet", "mlp", "lenet_dc", "mlp_dc"}
DEFAULT_WIDTH = 128


def parse(name):
    """Split a network's name -> (arch, depth or None, width, norm, further arguments); ValueError says what is allowed."""
    pattern = rf"([a-z]+(?:1[18])?(?:_[a-z]+)*)(\d?)(?:-w(\d+))?(?:-({'|'.join(NORMS)}))?(?:-({'|'.join(ACTIVATIONS)}))?(?:-({'|'.join(POOLS)}))?"
    match = re.fullmatch(pattern, name)
    arch, depth, width, norm, *extra = match.groups() if match else (None,) * 6
    norm, extra = norm or "none", [word for word in extra if word]
    scalable = arch in SCALABLE
    good = (scalable and depth and depth != "0") or (arch in FIXED and not depth and not width)
    if not good or (width and int(width) < 1) or (arch in NORMLESS and norm != "none") or (extra and arch != "convnet"):
        raise ValueError(
            f"must be {', '.join(a + 'DEPTH[-wWIDTH]' for a in SCALABLE)} or one of {', '.join(FIXED)}, "
            f"then optionally (not {' and '.join(sorted(NORMLESS))}) -{', -'.join(n for n in NORMS if n != 'none')}; e.g. conv3-batch; "
            f"convnetDEPTH also takes -{', -'.join(ACTIVATIONS)}, then -{', -'.join(POOLS)}"
        )
    further = {"activation" if word in ACTIVATIONS else "pool": word for word in extra}
    return arch, int(depth) if scalable else None, int(width or DEFAULT_WIDTH), norm, further


def build(name, in_shape, num_classes):
    """Build a network for images of `in_shape` (K, H, W). Its weights are undefined until `reset(generator)`.

    ValueError where the name is unknown or the images are too small for the network's pools.
    """
    arch, depth, width, norm, further = parse(name)
    try:
        if arch in SCALABLE:
            return SCALABLE[arch](in_shape, num_classes, depth, width, norm, **further)
        return FIXED[arch](in_shape, num_classes, norm)
    except RuntimeError as error:
        raise ValueError(f"{name} does not fit images of {in_shape[1]}x{in_shape[2]}: {error}") from None
