"""DC, DSA and DM: their networks, the distance, and one update each against the papers' plain loops in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F

from lib.augment import dsa
from lib.config.limits import feature_width
from lib.config.load import load_params
from lib.data.labels import initial_labels
from lib.methods import METHODS
from lib.methods.gradient_distance import class_gradients, cos, layerwise, mse
from lib.networks import build
from lib.networks.layers import AveragePool
from lib.rng import generator
from lib.synthetic.lowrank import images_per_class
from lib.synthetic.set import SyntheticSet

PARAMS = load_params()


@pytest.mark.parametrize(
    "name, shape, classes, count, width",
    [
        ("convnet3-instance", (1, 28, 28), 10, 317_706, 2048),
        ("convnet3-instance", (3, 32, 32), 10, 320_010, 2048),
        ("convnet3-instance", (3, 32, 32), 100, 504_420, 2048),
        ("convnet3-instance", (3, 64, 64), 200, 1_938_120, 8192),
        ("convnet4-instance", (3, 64, 64), 200, 857_160, 2048),
        ("convnet1-instance", (3, 32, 32), 10, 331_530, 32768),
        ("convnet2-instance", (3, 32, 32), 10, 233_610, 8192),
        ("convnet4-instance", (3, 32, 32), 10, 452_490, 512),
        ("convnet3-w32-instance", (3, 32, 32), 10, 24_714, 512),
        ("convnet3-w64-instance", (3, 32, 32), 10, 86_282, 1024),
        ("convnet3-w256-instance", (3, 32, 32), 10, 1_229_834, 4096),
        ("convnet3", (3, 32, 32), 10, 319_242, 2048),
        ("convnet3-layer", (3, 32, 32), 10, 663_306, 2048),
        ("convnet3-instance-relu-nopool", (3, 32, 32), 10, 1_610_250, 131072),
        ("mlp_dc", (1, 28, 28), 10, 118_282, 128),
        ("lenet_dc", (3, 32, 32), 10, 62_006, 84),
        ("alexnet_dc", (1, 28, 28), 10, 1_865_802, 3072),
        ("alexnet_dc", (3, 32, 32), 10, 1_872_202, 3072),
        ("vgg11_dc-instance", (1, 28, 28), 10, 9_229_962, 512),
        ("vgg11_dc-instance", (3, 32, 32), 10, 9_231_114, 512),
        ("resnet18_dc-instance", (1, 28, 28), 10, 11_172_810, 512),
        ("resnet18_dc-instance", (3, 32, 32), 10, 11_173_962, 512),
        ("resnet18_ap_dc-batch", (1, 28, 28), 10, 11_213_770, 4608),
        ("resnet18_ap_dc-batch", (3, 32, 32), 10, 11_250_762, 8192),
    ],
)
def test_networks_have_the_sheets_parameters_and_features(name, shape, classes, count, width):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name, shape, classes).parameters()) == count
    assert feature_width(name, shape) == width


def test_convnet_is_pytorchs_own_network_with_pytorchs_initialisation():
    net = build("convnet3-w8-instance", (3, 32, 32), 10).reset(generator(0, "net"))
    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            bound = module.weight[0].numel() ** -0.5
            for tensor in (module.weight, module.bias):
                assert tensor.abs().max() <= bound and tensor.abs().max() > 0.4 * bound
    x = torch.randn(4, 3, 32, 32)
    conv, norm = net.body[0], torch.nn.InstanceNorm2d(8, affine=True)
    first = F.avg_pool2d(norm(conv(x)).relu(), 2)
    assert torch.allclose(net.body[:4](x), first, atol=1e-6)
    assert torch.equal(net.train()(x), net.eval()(x)) and (net.features(x) >= 0).all()
    assert net.body[:4](torch.randn(1, 3, 32, 32)).shape[-1] == 16
    grey = build("convnet3-w8-instance", (1, 28, 28), 10)
    assert grey.body[0](torch.zeros(1, 1, 28, 28)).shape[-1] == 32


@pytest.mark.parametrize("size", [8, 7])
def test_average_pool_by_matrix_products_is_the_librarys(size):
    x = torch.randn(3, 2, size, size, dtype=torch.float64, requires_grad=True)
    ours, theirs = AveragePool()(x), F.avg_pool2d(x, 2)
    assert torch.allclose(ours, theirs, atol=1e-14)
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs)]
    assert torch.allclose(*grads, atol=1e-14)


def test_batch_norm_of_this_family_keeps_pytorchs_statistics():
    ours, theirs = build("convnet1-w4-batch", (1, 8, 8), 2).body[1], torch.nn.BatchNorm2d(4)
    for i in range(3):
        x = torch.randn(6, 4, 8, 8, generator=generator(i, "x"))
        assert torch.allclose(ours.train()(x), theirs.train()(x), atol=1e-5)
    assert torch.allclose(ours.running_var, theirs.running_var) and torch.allclose(
        ours.eval()(x), theirs.eval()(x), atol=1e-5
    )


def test_layerwise_distance_of_the_sheet():
    a = torch.tensor([[3.0, 4], [1, 0], [0, 0]], dtype=torch.float64)
    b = torch.tensor([[4.0, 3], [-1, 0], [1, 1]], dtype=torch.float64)
    assert layerwise([a[None]], [b[None]]).item() == pytest.approx(3.04, abs=1e-5)
    g = [
        torch.randn(2, 5, 3, 3, 3, dtype=torch.float64),
        torch.randn(2, 5, dtype=torch.float64),
        torch.randn(2, 4, 7, dtype=torch.float64),
    ]
    assert layerwise(g, g).abs().max() < 1e-5
    assert torch.allclose(layerwise(g, [-t for t in g]), torch.tensor(2.0 * 9, dtype=torch.float64), atol=1e-5), (
        "nine rows; the vector does not count"
    )
    h = [torch.randn_like(t) for t in g]
    assert torch.allclose(layerwise(g, h), layerwise([7 * t for t in g], [0.3 * t for t in h]), atol=1e-5)
    joined = [torch.cat([t.flatten(1) for t in s], 1) for s in (g, h)]
    assert torch.allclose(mse(g, h), (joined[0] - joined[1]).square().sum(1))
    assert torch.allclose(cos(g, h), 1 - F.cosine_similarity(*joined, dim=1), atol=1e-5)


@pytest.mark.parametrize("classes, rows", [(10, 394), (100, 484)])
def test_rows_that_are_matched(classes, rows):
    with torch.device("meta"):
        net = build("convnet3-instance", (3, 32, 32), classes)
    zero = [torch.zeros(1, *p.shape) for p in net.parameters()]
    assert layerwise(zero, zero).item() == rows, "a row of zeros counts 1"


SHAPE, CLASSES, BATCH, NET = (1, 8, 8), 4, 12, "convnet2-w4-instance"


def settings(method, **changes):
    small = {"net": NET, "ipc": 2, "steps": 6, "real_batch": BATCH, "conv_dtype": "float32", "eval_every": 0}
    if method != "dm":
        small |= {"outer": 3, "inner_epochs": 2, "net_batch": 5}
    cell = {"dc": "matching-dc-cifar10-ipc10", "dsa": "matching-dsa-cifar10-ipc10", "dm": "matching-dm-cifar10-ipc10"}[
        method
    ]
    return PARAMS.cells[cell].distill.changed(**(small | changes))


def made(method, cfg, images=None, seed=0):
    """A method in float64 on a random set, and the real images it takes: x (n, K, H, W), chosen (C, B)."""
    gen = generator(seed, "set")
    count = images_per_class(cfg, SHAPE)
    if images is None:
        images = torch.randn(CLASSES * count, *SHAPE, generator=gen, dtype=torch.float64)
    labels = torch.arange(CLASSES).repeat_interleave(count)
    made = METHODS[method](cfg, SyntheticSet(images, initial_labels(labels, CLASSES, "one_hot").double()), seed)
    made.net.double()
    x = torch.randn(60, *SHAPE, generator=gen, dtype=torch.float64)
    return made, x, torch.stack([torch.randperm(60, generator=gen)[: cfg.real_batch] for _ in range(CLASSES)])


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("net", [NET, "convnet2-w4-layer", "lenet_dc"])
def test_class_gradients_batched_in_parts_and_in_a_plain_loop_are_equal(net, graph):
    shape = (1, 28, 28) if net == "lenet_dc" else SHAPE
    net = build(net, shape, CLASSES).reset(generator(0, "net")).double()
    x, labels = (
        torch.randn(CLASSES, 6, *shape, generator=generator(1, "x"), dtype=torch.float64),
        torch.tensor([2, 0, 3, 1]),
    )
    together = class_gradients(net, x, labels, images_per_pass=4, create_graph=graph)
    for c in range(CLASSES):
        expected = torch.autograd.grad(F.cross_entropy(net(x[c]), labels[c].expand(6)), list(net.parameters()))
        apart = class_gradients(net, x[c : c + 1], labels[c : c + 1], images_per_pass=4, create_graph=graph)
        for one, batched, plain in zip(apart, together, expected):
            assert torch.allclose(one[0], plain, rtol=1e-9, atol=1e-12) and torch.allclose(
                batched[c], plain, rtol=1e-9, atol=1e-12
            )


def plain_matching(method, cfg, net, x, labels, real, draws):
    """The papers' loss over all classes, class after class, as their code forms it."""
    loss, n = 0, len(x) // CLASSES
    for c in range(CLASSES):
        batch, syn = real[c], x[c * n : (c + 1) * n]
        if draws:
            batch, syn = dsa.apply(batch[None], draws[c : c + 1])[0], dsa.apply(syn[None], draws[c : c + 1])[0]
        if method == "dm":
            loss = loss + (net.features(batch).mean(0) - net.features(syn).mean(0)).square().sum()
            continue
        pair = [
            torch.autograd.grad(
                F.cross_entropy(net(i), torch.full((len(i),), c)), list(net.parameters()), create_graph=True
            )
            for i in (batch, syn)
        ]
        for g_r, g_s in zip(*pair):
            if g_r.ndim > 1:
                a, b = g_r.detach().flatten(1), g_s.flatten(1)
                loss = loss + sum(1 - (a[k] @ b[k]) / (a[k].norm() * b[k].norm() + 1e-6) for k in range(len(a)))
    return loss


@pytest.mark.parametrize("groups", ["one by one", "together"])
@pytest.mark.parametrize("method", ["dc", "dsa", "dm"])
def test_updates_equal_the_papers_loop(method, groups):
    """Five updates: fresh networks, matching, momentum over all of them, the network's own epochs in between."""
    cfg = settings(method)
    ours, real_x, chosen = made(method, cfg)
    if groups == "together":
        ours.groups = lambda: [slice(0, 3), slice(3, CLASSES)]
    x = ours.syn.x.detach().clone().requires_grad_()
    labels = torch.arange(CLASSES).repeat_interleave(cfg.ipc)
    gens = {name: generator(0, name) for name in ("weights", "order", "augment", "family")}
    net = build(NET, SHAPE, CLASSES).double()
    optimizer = torch.optim.SGD([x], cfg.lr_img, momentum=0.5)
    for step in range(5):
        outer = 1 if method == "dm" else cfg.outer
        if step % outer == 0:
            net.reset(gens["weights"])
        draws = None if method == "dc" else dsa.draw("dsa", CLASSES, 1, gens["augment"], gens["family"])
        loss = plain_matching(method, cfg, net, x, labels, real_x[chosen], draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert ours.step(step, real_x, chosen)["loss"].item() == pytest.approx(loss.item() / CLASSES, rel=1e-9)
        if (step + 1) % outer:
            sgd = torch.optim.SGD(net.parameters(), cfg.lr_net)
            for _ in range(cfg.inner_epochs):
                for batch in torch.randperm(len(x), generator=gens["order"]).split(5):
                    images = x.detach()[batch]
                    if method == "dsa":
                        images = dsa.augmented("dsa", images[None], gens["augment"], gens["family"])[0]
                    sgd.zero_grad()
                    F.cross_entropy(net(images), labels[batch]).backward()
                    sgd.step()
        assert torch.allclose(ours.syn.x, x, rtol=1e-6, atol=1e-9)


def test_dm_loss_and_gradient_of_the_sheet():
    method, real_x, chosen = made("dm", settings("dm", augment="none"))
    method.net.features = lambda x: x.flatten(1)  # embeddings are the pixels themselves
    real, syn = (
        torch.tensor([[1.0, 2], [3, 4]]).view(1, 2, 1, 1, 2),
        torch.tensor([[0.0, 1]]).view(1, 1, 1, 1, 2).requires_grad_(),
    )
    loss = method.class_losses(real, syn, torch.tensor([0]), None)
    loss.sum().backward()
    assert loss.item() == 8 and torch.equal(syn.grad.flatten(), -2 * torch.tensor([2.0, 2]))


def test_dm_is_zero_where_the_set_is_the_whole_class():
    cfg = settings("dm", ipc=BATCH, augment="dsa")
    gen = generator(0, "whole")
    x = torch.randn(CLASSES * BATCH, *SHAPE, generator=gen, dtype=torch.float64)
    method, _, _ = made("dm", cfg, images=x)
    chosen = torch.stack([torch.randperm(BATCH, generator=gen) + c * BATCH for c in range(CLASSES)])
    assert method.step(0, x, chosen)["loss"].item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("method", ["dc", "dm"])
def test_batch_norm_couples_the_classes_only_where_it_must(method):
    """DM sends all classes through the norm at once; DC sets its statistics from other real images and keeps them."""
    net = "convnet2-w4-batch"
    ours, real_x, chosen = made(method, settings(method, net=net, **({"augment": "none"} if method == "dm" else {})))
    theirs = build(net, SHAPE, CLASSES).double().reset(generator(0, "weights"))
    x = ours.syn.x.detach().clone()
    others = torch.stack([torch.randperm(60, generator=generator(c, "others"))[:16] for c in range(CLASSES)])
    loss = ours.step(0, real_x, torch.cat([chosen, others], 1))["loss"].item() * CLASSES
    if method == "dm":
        means = [theirs.train().features(i).unflatten(0, (CLASSES, -1)).mean(1) for i in (real_x[chosen.flatten()], x)]
        assert loss == pytest.approx((means[0] - means[1]).square().sum().item(), rel=1e-9) and len(ours.groups()) == 1
    else:
        theirs.train()(real_x[others.flatten()])
        expected = plain_matching("dc", ours.cfg, theirs.eval(), x, None, real_x[chosen], None)
        assert loss == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("method", ["dc", "dsa", "dm"])
def test_resume_is_bit_for_bit(method):
    cfg = settings(method)
    whole, real_x, chosen = made(method, cfg)
    for step in range(5):
        whole.step(step, real_x, chosen)
        if step == 1:
            state = copy.deepcopy(whole.state_dict())
    again, _, _ = made(method, cfg, seed=0)
    again.load_state_dict(state)
    for step in range(2, 5):
        again.step(step, real_x, chosen)
    assert torch.equal(whole.syn.x, again.syn.x)
