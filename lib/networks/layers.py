"""Layers and initialisations shared by the networks: the flax conventions that FRePo's results depend on.

Source: reference sheet of FRePo, section 6. Every random weight is drawn from an explicit generator.
"""

from functools import cache, partial
from math import erf

import torch
import torch.nn.functional as F
from torch import nn

TRUNCATED_STD = 0.87962566103423978  # standard deviation of a unit normal cut at +-2


class BatchNorm(nn.Module):
    """Batch norm with flax's running statistics: keep * running + (1 - keep) * batch, keep 0.1, biased variance.

    PyTorch has keep 0.9 and unbiased True. Statistics start at 0 and 1, so that an untrained network's norm is
    close to the identity.
    """

    def __init__(self, channels, eps=1e-5, keep=0.1, unbiased=False):
        super().__init__()
        self.eps, self.keep, self.correction = eps, keep, int(unbiased)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):  # (B, K, H, W)
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        with torch.no_grad():
            var, mean = torch.var_mean(x.to(self.running_var.dtype), (0, 2, 3), correction=self.correction)
            self.running_mean.mul_(self.keep).add_(mean, alpha=1 - self.keep)
            self.running_var.mul_(self.keep).add_(var, alpha=1 - self.keep)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def reset(self, generator):
        for tensor, value in ((self.weight, 1), (self.bias, 0), (self.running_mean, 0), (self.running_var, 1)):
            tensor.detach().fill_(value)


class AveragePool(nn.Module):
    """Average pooling by 2. On a CPU, a pair of rows goes through one matrix product: in channels-first layout, which
    norms over positions want, the library's kernel is several times slower, forward and backward."""

    def forward(self, x):
        height, width = x.shape[-2:]
        if x.device.type != "cpu" or height % 2 or width % 2:
            return F.avg_pool2d(x, 2)
        row_pairs = x.reshape(*x.shape[:-2], height // 2, 2 * width)
        return (row_pairs @ _pool_matrix(width, x.dtype)).view(*x.shape[:-2], height // 2, width // 2)


def average_pool_adjoint(g, shape):
    """Backward pass of AveragePool: gradients (..., H // 2, W // 2) by its output -> by its input of `shape`."""
    height, width = shape[-2:]
    if g.device.type == "cpu" and height % 2 == width % 2 == 0:
        return (g.contiguous() @ _pool_matrix(width, g.dtype).T).view(shape)
    return F.pad(F.interpolate(g / 4, scale_factor=2), (0, width % 2, 0, height % 2))


@cache
def _pool_matrix(width, dtype):
    """(2 W, W / 2): from two rows, one after the other, to the means of 2x2 squares."""
    return torch.eye(width // 2, dtype=dtype).repeat_interleave(2, 0).repeat(2, 1) / 4


def shifted_filters(w):
    """Filters (O, K, k, k) -> each at the four positions within a window one larger (O, 4, K, k + 1, k + 1)."""
    return torch.stack([F.pad(w, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)], 1)


class PooledConv(nn.Conv2d):
    """A convolution and 2x2 maximum pooling, as one convolution of stride 2 with each filter at four positions.

    The full-size feature map is never formed, and convolutions of few filters gain from having four times as many: a
    third of the time for a batch of MNIST.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        unit_filters = torch.eye(self.weight[0, 0].numel()).view(-1, 1, *self.kernel_size)
        # (k k, 4 (k + 1)(k + 1)): takes a flat filter to its four positions.
        self.register_buffer("places", shifted_filters(unit_filters).flatten(1), persistent=False)

    def forward(self, x):
        maps = F.conv2d(x, shifted_filters(self.weight).flatten(0, 1), None, 2, self.padding)
        return maps.unflatten(-3, (-1, 4)).amax(-3) + self.bias[:, None, None]


def normalised(x, dims, eps):
    """x less its mean over `dims`, over its deviation, in float32 at least.

    By formula: in torch 2.15 the derivative by x of a vmapped `layer_norm`'s weight gradient is wrong.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) * (var + eps).rsqrt()


class ChannelNorm(nn.LayerNorm):
    """Flax's LayerNorm on images: over the channels of each position."""

    def forward(self, x):
        return normalised(x, 1, self.eps) * self.weight[:, None, None] + self.bias[:, None, None]


class MapNorm(nn.LayerNorm):
    """PyTorch's LayerNorm on images: over channels and positions, a scale and a bias for each number."""

    def forward(self, x):
        return normalised(x, (1, 2, 3), self.eps) * self.weight + self.bias


NORMS = {
    "none": lambda channels: nn.Identity(),
    "batch": BatchNorm,
    "layer": lambda channels: ChannelNorm(channels, eps=1e-6),
    "group": lambda channels: nn.GroupNorm(32, channels, eps=1e-6),
    "group1": lambda channels: nn.GroupNorm(1, channels, eps=1e-6),
    "instance": lambda channels: nn.GroupNorm(channels, channels, eps=1e-6),
}
SLOW_NORMS = NORMS | {"batch": partial(BatchNorm, keep=0.9)}  # of FRePo's networks that are for evaluation alone
torch_batch_norm = partial(BatchNorm, keep=0.9, unbiased=True)


def truncated_normal_(tensor, std, generator):
    """Normal, cut at two deviations of its untruncated parent; `std` is the deviation *after* the cut (as in flax)."""
    sigma = std / TRUNCATED_STD
    if tensor.device.type != "cpu":  # PyTorch draws again what lies outside: the host would wait to hear what does
        return truncated_by_inverse_(tensor, sigma, generator)
    return nn.init.trunc_normal_(tensor, 0.0, sigma, -2 * sigma, 2 * sigma, generator=generator)


def truncated_by_inverse_(tensor, sigma, generator):
    """Normal of deviation sigma, cut at two: the inverse of its distribution, of uniform numbers."""
    inside = erf(2**0.5)  # the share within two deviations
    return tensor.uniform_(-inside, inside, generator=generator).erfinv_().mul_(2**0.5 * sigma)


LAWS = {  # initialisations of dataset distillation (its sheet, section 4): of every weight matrix; biases are 0
    "xavier": nn.init.xavier_normal_,
    "xavieruniform": nn.init.xavier_uniform_,
    "kaiming": partial(nn.init.kaiming_normal_, a=1),
    "kaimingout": partial(nn.init.kaiming_normal_, a=1, mode="fan_out"),
    "orthogonal": nn.init.orthogonal_,
    "normal": nn.init.normal_,
    "default": None,  # PyTorch's, biases too
}


@torch.no_grad()
def reset_parameters(net, generator, gain=1.0, bias_std=0.0):
    """Draw a network's weights anew, in module order: variance gain / fan_in, the head's biases N(0, bias_std^2).

    gain 1 is LeCun's initialisation, 2 is Kaiming's, None is PyTorch's default (weights and biases uniform on
    +-1 / sqrt(fan_in)), a name is one of LAWS. Norms return to scale 1, bias 0 and their first statistics.
    """
    if isinstance(gain, str):
        if LAWS[gain]:
            for p in net.parameters():
                LAWS[gain](p, generator=generator) if p.ndim > 1 else p.zero_()
            return
        gain = None
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.reset(generator)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.reset_parameters()
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            if gain is None:
                for tensor in (t for t in (module.weight, module.bias) if t is not None):
                    tensor.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
                continue
            truncated_normal_(module.weight, (gain / fan_in) ** 0.5, generator)
            if module.bias is not None:
                if bias_std and module is net.head:
                    module.bias.normal_(0.0, bias_std, generator=generator)
                else:
                    module.bias.zero_()


class Network(nn.Module):
    """A feature extractor with a linear head. `features(x)`: (B, K, H, W) -> (B, F); forward -> (B, C) logits.

    layout: the fastest memory format of its images and weights. Random weights depend on it; other results do not.
    """

    def __init__(self, body, in_shape, num_classes, gain=1.0, bias_std=0.0, layout=torch.channels_last):
        super().__init__()
        self.body, self.layout = body, layout
        self.gain, self.bias_std = gain, bias_std
        with torch.no_grad():
            training = body.training
            width = body.eval()(torch.zeros(1, *in_shape)).flatten(1).shape[1]
            body.train(training)
        self.head = nn.Linear(width, num_classes)

    @property
    def feature_width(self):
        return self.head.in_features

    def features(self, x):
        return self.body(x).flatten(1)

    def forward(self, x):
        return self.head(self.features(x))

    def reset(self, generator):
        """Fresh random weights from `generator` (a torch.Generator on the network's device)."""
        reset_parameters(self, generator, self.gain, self.bias_std)
        return self
