"""All networks, one family a file. `build(name, ...)` is the only door; imports nothing of lib but files and registry.

A name is `ARCH[DEPTH][-wWIDTH]` and the architecture's options, in their order. Examples: `conv3` (depth 3, width 128,
no norm), `conv2-w32-batch`, `resnet18_ap`; of DC, DSA and DM `convnet3-instance`, `convnet3-batch-swish`, `alexnet_dc`;
of dataset distillation `lenet_dd-orthogonal` and `dense1-w32` for images, `textlstm` for sentences. A network of the
user's is named by file and class: `own.my_nets.SmallCNN` (no colon: DVC's YAML reader refuses it in `[...]`).
"""

import re

from ..registry import Registry

# Builders. Their traits: scalable (takes a depth and a width), text (for sentences; None: for images too), options
# {name: its values}.
ARCHITECTURES = Registry(__name__)
DEFAULT_WIDTH = 128
OWN = "own.FILE.CLASS"  # of the user's


def parse(name):
    """Split a network's name -> (architecture, keyword arguments of its builder); ValueError says what is allowed."""
    if own := re.fullmatch(r"(own\.\w+)\.(\w+)", name):
        return OWN, {"module": f"lib.{own[1]}", "definition": own[2]}
    match = re.fullmatch(r"([a-z]+(?:1[18])?(?:_[a-z]+)*)(\d?)(?:-w(\d+))?((?:-[a-z0-9]+)*)", name)
    arch, depth, width, words = match.groups() if match else ("", "", "", "")
    if arch not in ARCHITECTURES:
        raise ValueError(allowed_names())
    builder, words, arguments = ARCHITECTURES[arch], words.split("-")[1:], {}
    if builder.scalable:
        arguments = {"depth": int(depth or 0), "width": int(width or DEFAULT_WIDTH)}
    for option, values in builder.options.items():
        if words and words[0] in values:
            arguments[option] = words.pop(0)
    valid_size = min(arguments["depth"], arguments["width"]) > 0 if builder.scalable else not depth and not width
    if words or not valid_size:
        raise ValueError(allowed_names())
    return arch, arguments


def allowed_names():
    """What a network's name may be, in words."""

    def names(test, size=""):
        return ", ".join(arch + size * builder.scalable for arch, builder in ARCHITECTURES.items() if test(builder))

    options = {option: values for b in ARCHITECTURES.values() for option, values in b.options.items()}
    words = {option: ", -".join(word for word in values if word != "none") for option, values in options.items()}
    return (
        f"must be {names(lambda b: b.scalable, 'DEPTH[-wWIDTH]')} or one of {names(lambda b: not b.scalable)}, then "
        f"optionally (not of {names(lambda b: 'norm' not in b.options)}) -{words['norm']}; e.g. conv3-batch; "
        f"{names(lambda b: 'pool' in b.options, 'DEPTH')} also takes -{words['activation']}, then -{words['pool']}; "
        f"{names(lambda b: 'law' in b.options)} take -{words['law']}; "
        f"{OWN} is a class of your own, in folder lib/own"
    )


def build(name, in_shape, num_classes):
    """Build a network for images (K, H, W) or sentences (1, L, D). Its weights are undefined until `reset(generator)`.

    ValueError where the name is unknown or the images are too small for the network's pools.
    """
    arch, arguments = parse(name)
    try:
        return ARCHITECTURES[arch](in_shape, num_classes, **arguments)
    except RuntimeError as error:
        raise ValueError(f"{name} does not fit images of {in_shape[1]}x{in_shape[2]}: {error}") from None
