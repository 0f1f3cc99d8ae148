"""Class activation maps: where in an image a network finds its class.

Source: reference sheet of EDF, section 6.2: Smooth-Grad-CAM++ as EDF's released code has it, gradients and activations of the last
noisy pass, and plain Grad-CAM.
"""

import torch
import torch.nn.functional as F

NOISY, SIGMA, TINY = (
    4,
    0.3,
    1e-8,
)  # noisy passes, their noise on standardised pixels, and what keeps denominators above 0


def activations(net, x, classes):
    """The last feature map A (n, k, h, w) of images x (n, K, H, W), and the gradient of each image's score of its class by it."""
    found = []
    handles = [
        m.register_forward_hook(lambda module, inputs, output: found.append(output))
        for m in net.modules()
        if isinstance(m, torch.nn.ReLU)
    ]
    try:
        with torch.enable_grad():
            scores = (
                net(x.detach().requires_grad_()).gather(1, classes[:, None]).sum()
            )  # images do not see each other: the sum has each one's gradient
            last = [a for a in found if a.ndim == 4][-1]
            return last.detach(), torch.autograd.grad(scores, last)[0]
    finally:
        for handle in handles:
            handle.remove()


def smooth_gradcam_pp(net, x, classes, generator):
    """Maps (n, h, w), not yet between 0 and 1."""
    clean, _ = activations(net, x, classes)
    passes = []
    for _ in range(NOISY):
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        passes.append(activations(net, x + SIGMA * noise, classes))
    second, third = (sum(g**power for _, g in passes) / NOISY for power in (2, 3))
    share = second / (2 * second + (third * clean).sum((2, 3), keepdim=True) + TINY)
    last, gradient = passes[-1]
    return ((share * gradient.relu()).sum((2, 3), keepdim=True) * last).sum(1).relu()


def gradcam(net, x, classes, generator):
    """Maps (n, h, w), not yet between 0 and 1."""
    last, gradient = activations(net, x, classes)
    return (gradient.mean((2, 3), keepdim=True) * last).sum(1).relu()


MAPS = {"smooth_gradcam_pp": smooth_gradcam_pp, "gradcam": gradcam}


def scaled(maps):
    """Maps (n, h, w), each from 0 to 1."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + TINY)


def class_maps(kind, net, x, classes, generator):
    """Maps (n, 1, H, W) from 0 to 1 of images x (n, K, H, W) for `classes` (n,), of a network in evaluation mode."""
    maps = scaled(MAPS[kind](net, x, classes, generator))
    return F.interpolate(maps[:, None], x.shape[-2:], mode="bilinear", align_corners=False)


def complexity(net, x, generator):
    """Share (n,) of each image's map, for the class that the network itself finds, that is not above a half (EDF's sheet, section 8)."""
    return (scaled(smooth_gradcam_pp(net, x, net(x).argmax(1), generator)) <= 0.5).float().mean((1, 2))


def emphasis(maps, beta):
    """Weights of pixels (n, 1, H, W): map plus beta where the map (n, 1, H, W) reaches its own mean, 1 elsewhere."""
    return torch.where(maps < maps.mean((2, 3), keepdim=True), torch.ones_like(maps), maps + beta)
