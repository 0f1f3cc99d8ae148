"""Networks: published parameter counts, initialisation laws, flax's batch norm."""

import pytest
import torch
from torch import nn

from lib.config.limits import feature_width
from lib.methods.gradient_distance import class_gradients
from lib.networks import ARCHITECTURES, OWN, build, parse
from lib.networks.dc import VGG11
from lib.networks.layers import NORMS, BatchNorm
from lib.rng import generator

from .golden.traces import narrow


@pytest.mark.parametrize(
    "name, shape, classes, count",
    [
        ("conv3", (3, 32, 32), 10, 1_560_842),
        ("conv3", (3, 32, 32), 100, 2_298_212),
        ("conv3", (1, 28, 28), 10, 1_558_538),
        ("conv4", (3, 64, 64), 200, 9_475_528),
        ("conv4", (3, 64, 64), 1000, 22_583_528),
        ("conv5", (3, 128, 128), 10, 25_402_634),
        ("mlp", (1, 28, 28), 10, 118_282),
        ("mlp", (3, 32, 32), 10, 411_146),
        ("lenet", (1, 28, 28), 10, 61_706),
        ("lenet", (3, 32, 32), 10, 62_006),
        ("resnet18_tv-batch", (3, 224, 224), 1000, 11_689_512),  # as torchvision documents its own
        ("conv3-batch", (3, 32, 32), 10, 1_560_842 + 768),
        ("conv4-batch", (3, 64, 64), 200, 9_475_528 + 1_792),
        ("conv5-batch", (3, 128, 128), 10, 25_402_634 + 3_840),
    ],
)
def test_parameter_counts_of_the_sheet(name, shape, classes, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name, shape, classes).parameters()) == count


@pytest.mark.parametrize(
    "name, shape, width",
    [("conv3", (3, 32, 32), 8192), ("conv3", (1, 28, 28), 8192), ("conv4", (3, 64, 64), 16384),
     ("conv5", (3, 128, 128), 32768), ("conv2-w32", (1, 8, 8), 256), ("resnet18", (3, 32, 32), 8192),
     ("resnet18_ap", (3, 32, 32), 8192), ("dcconv3", (1, 28, 28), 1152), ("kipconv3", (1, 28, 28), 1152),
     ("dcconv3", (3, 32, 32), 2048)],
)  # fmt: skip
def test_feature_widths_of_the_sheet(name, shape, width):
    assert feature_width(name, shape) == width


NORMLESS = {arch for arch, builder in ARCHITECTURES.items() if "norm" not in builder.options}
FIXED = {arch for arch, builder in ARCHITECTURES.items() if not builder.scalable}
ARCHS = ["convnet2-w32", "conv2-w32", "dcconv2-w32", "kipconv2-w32", *(FIXED - NORMLESS)]
NAMES = [
    arch if norm == "none" else f"{arch}-{norm}"
    for arch in sorted(ARCHS)
    for norm in NORMS
    if (arch[-3:], arch[:6], norm) != ("_dc", "resnet", "layer")
] + [*sorted(NORMLESS - {"dense", OWN}), "dense2-w8-orthogonal"]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_and_norm_runs_and_learns(name):
    size, channels = 64 if "tv" in name or name == "alexnet_dd" else 32, 1 if ARCHITECTURES[parse(name)[0]].text else 3
    net = build(name, (channels, size, size), 7).reset(generator(0, "net")).train()
    x = torch.randn(4, channels, size, size, generator=generator(1, "x"))
    logits = net(x)
    assert logits.shape == (4, 7) and logits.isfinite().all()
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


SIDES = {"alexnet_dd": 64, "lenet_dd": 28, "lenet": 12, "lenet_dc": 12, "vgg11": 32, "vgg11_dc": 32}
SIDES |= {"resnet18_tv": 64, "resnet18_dc": 32, "resnet18": 16, "resnet18_ap": 16, "resnet18_ap_dc": 16}
OTHERS = [f"convnet2-w4-{norm}-{word}" for norm in ("layer", "instance") for word in ("sigmoid", "leaky", "swish")]
OTHERS += ["convnet2-w4-layer-relu-max", "convnet2-w4-layer-relu-nopool"]


@pytest.mark.parametrize("name", [*(name for name in NAMES if "_tv-" not in name), *OTHERS])
def test_second_derivatives_of_classes_under_one_vmap_are_those_of_each_alone(name, monkeypatch):
    """What DC and DSA take: the derivative by images of the weight gradients of several classes at once; in float64."""
    monkeypatch.setattr("lib.networks.resnet.STAGES", (32, 32, 64, 64))  # narrower: seconds less
    monkeypatch.setattr("lib.networks.dc.VGG11", [step if step == "pool" else (16, 3) for step in VGG11])
    monkeypatch.setattr("lib.networks.dd._dense", narrow)
    arch = parse(name)[0]
    shape = (1, 8, 10) if ARCHITECTURES[arch].text else (1, *2 * [SIDES.get(arch, 8)])
    net = build(name, shape, 3).double().reset(generator(0, "net")).eval()
    x = torch.randn(2, 2, *shape, generator=generator(0, "x"), dtype=torch.float64)
    # Not the same in all directions: a norm's derivative by a constant is zero.
    directions = [
        torch.randn(p.shape, generator=generator(i, "direction")).double() for i, p in enumerate(net.parameters())
    ]

    def by_images(images, labels):
        leaf = images.clone().requires_grad_()
        grads = class_gradients(net, leaf, torch.tensor(labels), 2, create_graph=True)
        return torch.autograd.grad(sum((g * d).sum() for g, d in zip(grads, directions)), leaf)[0]

    alone = torch.cat([by_images(x[:1], [2]), by_images(x[1:], [0])])
    assert alone.norm() > 0 and (by_images(x, [2, 0]) - alone).norm() <= 1e-8 * alone.norm()


def test_same_generator_same_weights():
    first, second = (build("alexnet", (3, 32, 32), 10).reset(generator(3, "net")).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_lecun_law_of_the_sheet():
    net = build("conv3", (3, 32, 32), 10).reset(generator(0, "net"))
    kernel = [m for m in net.body if isinstance(m, nn.Conv2d)][2].weight  # 3x3x256 -> 512
    assert kernel.std().item() == pytest.approx(0.020833, rel=5e-3)
    assert kernel.abs().max().item() <= 0.047369
    assert all(m.bias.abs().max() == 0 for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_dcconv_has_kaimings_variance_and_kipconv_random_biases_of_its_head():
    dc = [m for m in build("dcconv3", (3, 32, 32), 10).reset(generator(0, "net")).body if isinstance(m, nn.Conv2d)]
    assert dc[1].weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=1e-2) and dc[1].bias is None
    net = build("kipconv3", (3, 32, 32), 1000).reset(generator(0, "net"))
    kip = [m for m in net.body if isinstance(m, nn.Conv2d)]
    assert len(kip) == 4 and not any(m.bias.any() for m in kip)
    assert net.head.bias.std().item() == pytest.approx(0.1, rel=0.1)


def test_batch_norm_keeps_flax_statistics():
    norm = BatchNorm(1).train()
    norm(torch.tensor([0.0, 2.0, 4.0]).view(3, 1, 1, 1))
    assert norm.running_mean.item() == pytest.approx(1.8) and norm.running_var.item() == pytest.approx(2.5)
    fresh = BatchNorm(1).eval()
    x = torch.randn(5, 1, 2, 2, generator=generator(0, "x"))
    assert torch.allclose(fresh(x), x, rtol=1e-4), "an untrained norm is the identity, but for eps"


@pytest.mark.parametrize(
    "name, keep, correction",
    [("conv2-w8", 0.1, 0), ("kipconv2-w8", 0.1, 0), ("dcconv2-w8", 0.9, 0), ("vgg11", 0.9, 0), ("resnet18", 0.9, 0)]
    + [("convnet2-w8", 0.9, 1), ("resnet18_tv", 0.9, 1)],
)
def test_batch_norms_keep_as_much_of_their_statistics_as_in_each_papers_code(name, keep, correction):
    norms = [m for m in build(f"{name}-batch", (3, 32, 32), 2).modules() if isinstance(m, BatchNorm)]
    assert norms and {(m.keep, m.correction) for m in norms} == {(keep, correction)}


def test_resnet18_ap_of_frepo_pools_by_the_maximum_and_that_of_dc_by_the_mean():
    def pools(name):
        return {type(m) for m in build(name, (3, 32, 32), 2).modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)}

    assert pools("resnet18_ap") == {nn.MaxPool2d} and pools("resnet18_ap_dc") == {nn.AvgPool2d}


def test_vmapped_batch_norm_keeps_each_students_statistics():
    from torch.func import functional_call, vmap

    norm = BatchNorm(2).train()
    x = torch.randn(3, 5, 2, 4, 4, generator=generator(0, "x"))
    params = {k: v.detach().expand(3, -1).clone() for k, v in norm.named_parameters()}
    buffers = {k: v.expand(3, -1).clone() for k, v in norm.named_buffers()}
    y = vmap(lambda p, b, x: functional_call(norm, {**p, **b}, (x,)))(params, buffers, x)
    for s in range(3):
        alone = BatchNorm(2).train()
        assert torch.allclose(y[s], alone(x[s]), atol=1e-6)
        assert torch.allclose(buffers["running_mean"][s], alone.running_mean, atol=1e-6)
        assert torch.allclose(buffers["running_var"][s], alone.running_var, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "conv",
        "conv0",
        "conv3-w0",
        "convnets3",
        "conv3-batch-max",
        "alexnet2",
        "conv3-bn",
        "conv3_batch",
        "",
        "vgg16",
        "mlp-batch",
        "lenet-group",
    ],
)
def test_unknown_names_say_what_is_allowed(name):
    with pytest.raises(ValueError, match="conv3-batch"):
        parse(name)


def test_network_too_deep_for_its_images():
    with pytest.raises(ValueError, match="does not fit images of 8x8"):
        build("vgg11", (1, 8, 8), 10)
