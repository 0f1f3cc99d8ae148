"""All networks, one family a file. `build(name, ...)` is the only door; imports nothing of lib but files and registry.

A name is `ARCH[DEPTH][-wWIDTH]` and then the options that the architecture takes, in their order. Examples: `conv3` (depth 3, width 128,
no norm), `conv2-w32-batch`, `resnet18_ap`; of DC, DSA and DM `convnet3-instance`, `convnet3-batch-swish`, `alexnet_dc`; of dataset
distillation, on images and on sentences, `lenet_dd-orthogonal`, `dense1-w32`, `textlstm`.
"""

import re

from ..registry import Registry

ARCHITECTURES = Registry(
    __name__
)  # builders; traits: scalable (takes a depth and a width), text, options {name: its values}
DEFAULT_WIDTH = 128


def parse(name):
    """Split a network's name -> (architecture, keyword arguments of its builder); ValueError says what is allowed."""
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
    sized = min(arguments["depth"], arguments["width"]) > 0 if builder.scalable else not depth and not width
    if words or not sized:
        raise ValueError(allowed_names())
    return arch, arguments


def allowed_names():
    """What a network's name may be, in words."""

    def names(test, size=""):
        return ", ".join(arch + size * builder.scalable for arch, builder in ARCHITECTURES.items() if test(builder))

    options = {option: known for b in ARCHITECTURES.values() for option, known in b.options.items()}
    values = {option: ", -".join(word for word in known if word != "none") for option, known in options.items()}
    return (
        f"must be {names(lambda b: b.scalable, 'DEPTH[-wWIDTH]')} or one of {names(lambda b: not b.scalable)}, then optionally "
        f"(not of {names(lambda b: 'norm' not in b.options)}) -{values['norm']}; e.g. conv3-batch; "
        f"{names(lambda b: 'pool' in b.options, 'DEPTH')} also takes -{values['activation']}, then -{values['pool']}; "
        f"{names(lambda b: 'law' in b.options)} take -{values['law']}"
    )


def build(name, in_shape, num_classes):
    """Build a network for images of `in_shape` (K, H, W), or sentences (1, L, D). Its weights are undefined until `reset(generator)`.

    ValueError where the name is unknown or the images are too small for the network's pools.
    """
    arch, arguments = parse(name)
    try:
        return ARCHITECTURES[arch](in_shape, num_classes, **arguments)
    except RuntimeError as error:
        raise ValueError(f"{name} does not fit images of {in_shape[1]}x{in_shape[2]}: {error}") from None
