"""Class activation maps: where in an image a network finds its class.

Source: reference sheet of EDF, section 6.2: plain Grad-CAM, and Smooth-Grad-CAM++ as in EDF's released code, with the
gradients and feature maps of the last noisy pass.
"""

import torch
import torch.nn.functional as F

NOISY_PASSES, SIGMA = 4, 0.3  # SIGMA: standard deviation of the noise on standardised pixels
TINY = 1e-8  # keeps denominators above 0


def activations(net, x, classes):
    """The last feature maps A (n, k, h, w) of images x (n, K, H, W); the gradient by A of their `classes` scores."""
    outputs, relus = [], [m for m in net.modules() if isinstance(m, torch.nn.ReLU)]
    handles = [m.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for m in relus]
    try:
        with torch.enable_grad():
            # The images are independent: the sum of their scores has each one's own gradient.
            score = net(x.detach().requires_grad_()).gather(1, classes[:, None]).sum()
            features = [output for output in outputs if output.ndim == 4][-1]
            return features.detach(), torch.autograd.grad(score, features)[0]
    finally:
        for handle in handles:
            handle.remove()


def smooth_gradcam_pp(net, x, classes, generator):
    """Maps (n, h, w), not yet scaled to [0, 1]."""
    clean, _ = activations(net, x, classes)
    passes = []
    for _ in range(NOISY_PASSES):
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        passes.append(activations(net, x + SIGMA * noise, classes))
    squared, cubed = (sum(grad**power for _, grad in passes) / NOISY_PASSES for power in (2, 3))
    alpha = squared / (2 * squared + (cubed * clean).sum((2, 3), keepdim=True) + TINY)
    features, grad = passes[-1]
    return ((alpha * grad.relu()).sum((2, 3), keepdim=True) * features).sum(1).relu()


def gradcam(net, x, classes, generator):
    """Maps (n, h, w), not yet scaled to [0, 1]."""
    features, grad = activations(net, x, classes)
    return (grad.mean((2, 3), keepdim=True) * features).sum(1).relu()


MAPS = {"smooth_gradcam_pp": smooth_gradcam_pp, "gradcam": gradcam}


def scaled(maps):
    """Maps (n, h, w), each scaled to [0, 1]."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + TINY)


def class_maps(kind, net, x, classes, generator):
    """Maps (n, 1, H, W) in [0, 1] of images x (n, K, H, W) for `classes` (n,), of a network in eval mode."""
    maps = scaled(MAPS[kind](net, x, classes, generator))
    return F.interpolate(maps[:, None], x.shape[-2:], mode="bilinear", align_corners=False)


def complexity(net, x, generator):
    """Share (n,) of each image's map, for its predicted class, that is at most a half (EDF's sheet, section 8)."""
    return (scaled(smooth_gradcam_pp(net, x, net(x).argmax(1), generator)) <= 0.5).float().mean((1, 2))


def emphasis(maps, beta):
    """Weights of pixels (n, 1, H, W): map + beta where a map reaches its own mean, 1 elsewhere."""
    return torch.where(maps < maps.mean((2, 3), keepdim=True), torch.ones_like(maps), maps + beta)
