"""All networks. `build(name, ...)` is the only door; a name is `ARCH[DEPTH][-wWIDTH][-NORM][-ACTIVATION][-POOL][-LAW]`.

Examples: `conv3` (depth 3, width 128, no norm), `conv3-batch`, `conv2-w32-batch`, `kipconv3`, `resnet18_ap`; of DC, DSA and DM:
`convnet3-instance`, `convnet3-batch-swish`, `convnet3-instance-relu-max`, `alexnet_dc`, `vgg11_dc-instance`; of dataset distillation,
on images and on sentences: `lenet_dd`, `lenet_dd-orthogonal`, `dense1-w32`, `textconv`, `textlstm`.
"""

import re

from .classic import alexnet, lenet, mlp, vgg11
from .convnet import conv, dcconv, kipconv
from .dc import ACTIVATIONS, POOLS, alexnet_dc, convnet, lenet_dc, mlp_dc, resnet18_ap_dc, resnet18_dc, vgg11_dc
from .dd import alexcifar, alexnet_dd, dense, lenet_dd
from .layers import LAWS, NORMS
from .resnet import resnet18, resnet18_ap, resnet18_tv
from .text import textconv, textconvlstm, textlstm, textrnn

SCALABLE = {"conv": conv, "dcconv": dcconv, "kipconv": kipconv, "convnet": convnet, "dense": dense}  # take a depth and a width
FIXED = {"alexnet": alexnet, "vgg11": vgg11, "resnet18": resnet18, "resnet18_ap": resnet18_ap, "resnet18_tv": resnet18_tv, "lenet": lenet, "mlp": mlp}
FIXED |= {f.__name__: f for f in (mlp_dc, lenet_dc, alexnet_dc, vgg11_dc, resnet18_dc, resnet18_ap_dc)}
TEXT = {f.__name__: f for f in (textconv, textrnn, textlstm, textconvlstm)}
LAWFUL = {"dense", "lenet_dd", "alexcifar", "alexnet_dd", *TEXT}  # take a law of initial weights
FIXED |= {f.__name__: f for f in (lenet_dd, alexcifar, alexnet_dd)} | TEXT
NORMLESS = {"lenet", "mlp", "lenet_dc", "mlp_dc"} | LAWFUL
DEFAULT_WIDTH = 128


def parse(name):
    """Split a network's name -> (arch, depth or None, width, norm, further arguments); ValueError says what is allowed."""
    words = "".join(f"(?:-({'|'.join(known)}))?" for known in (NORMS, ACTIVATIONS, POOLS, LAWS))
    pattern = rf"([a-z]+(?:1[18])?(?:_[a-z]+)*)(\d?)(?:-w(\d+))?{words}"
    match = re.fullmatch(pattern, name)
    arch, depth, width, norm, *extra = match.groups() if match else (None,) * 7
    norm, further = norm or "none", {kind: word for kind, word in zip(("activation", "pool", "law"), extra) if word}
    scalable = arch in SCALABLE
    good = (scalable and depth and depth != "0") or (arch in FIXED and not depth and not width)
    takes = {"activation", "pool"} if arch == "convnet" else {"law"} if arch in LAWFUL else set()
    if not good or (width and int(width) < 1) or (arch in NORMLESS and norm != "none") or further.keys() - takes:
        raise ValueError(
            f"must be {', '.join(a + 'DEPTH[-wWIDTH]' for a in SCALABLE)} or one of {', '.join(FIXED)}, "
            f"then optionally (not of {', '.join(sorted(NORMLESS))}) -{', -'.join(n for n in NORMS if n != 'none')}; e.g. conv3-batch; "
            f"convnetDEPTH also takes -{', -'.join(ACTIVATIONS)}, then -{', -'.join(POOLS)}; {', '.join(sorted(LAWFUL))} take -{', -'.join(LAWS)}"
        )
    return arch, int(depth) if scalable else None, int(width or DEFAULT_WIDTH), norm, further


def build(name, in_shape, num_classes):
    """Build a network for images of `in_shape` (K, H, W), or sentences (1, L, D). Its weights are undefined until `reset(generator)`.

    ValueError where the name is unknown or the images are too small for the network's pools.
    """
    arch, depth, width, norm, further = parse(name)
    try:
        if arch in SCALABLE:
            return SCALABLE[arch](in_shape, num_classes, depth, width, norm, **further)
        return FIXED[arch](in_shape, num_classes, norm, **further)
    except RuntimeError as error:
        raise ValueError(f"{name} does not fit images of {in_shape[1]}x{in_shape[2]}: {error}") from None
