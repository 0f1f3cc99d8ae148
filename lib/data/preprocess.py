"""Channel standardisation and ZCA whitening: fitted on the training set, and exactly invertible.

Source: reference sheets of FRePo (section 7), MTT (section 1) and dataset distillation (section 12.1).
Three forms of ZCA, on flattened images with mean m and covariance U diag(s) U^T:

  frepo  W = U diag((s + eps * mean(s))^-1/2) U^T on standardised pixels, covariance over n. With fewer images than
         dimensions, the scale of the directions beyond the n-th is 1 (rank control). `checkerboard` p splits an image
         into its p*p polyphase sub-images, which share one W fitted on their mean covariance.
  mtt    W = U diag((s + eps)^-1/2) U^T on [0, 1] pixels (standardise: false), covariance over n - 1.
  rat    RaT-BPTT's: as frepo with m = 0, on images that are each centred and scaled to norm 1. This step has no exact
         inverse: all images get the mean and the norm of the training set back.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ..progress import progress_bar
from ..tensors import load_sealed, save_sealed

BLOCK = 4096  # images per block of the covariance: bounds the memory in float64


def polyphase(x, p):
    """(n, K, H, W) -> (p*p, n, K*H/p*W/p): sub-images x[i::p, j::p], flattened."""
    return torch.stack([x[:, :, i::p, j::p].flatten(1) for i in range(p) for j in range(p)])


def unpolyphase(phases, shape, p):
    """Inverse of `polyphase` for images of `shape` (K, H, W)."""
    channels, height, width = shape
    x = phases.new_empty(phases.shape[1], channels, height, width)
    for k, phase in enumerate(phases):
        x[:, :, k // p :: p, k % p :: p] = phase.view(-1, channels, height // p, width // p)
    return x


def fit_zca(image_blocks, form, eps, checkerboard=1):
    """Fit ZCA on the float64 tensors (n_i, K, H, W) that each call of `image_blocks` yields; it is called twice.

    Returns (mean (K, H, W), vectors (D, D), scale (D,)) in float64, W = vectors diag(scale) vectors^T, with the
    eigenvalues in descending order.
    """
    import scipy.linalg  # a quarter of a second, of every stage

    count, total = 0, 0
    for x in image_blocks():
        count, total = count + len(x), total + x.sum(0)
    mean = total / count if form != "rat" else torch.zeros_like(total)
    covariance = 0
    for x in image_blocks():
        for phase in polyphase(x - mean, checkerboard):
            covariance = covariance + phase.T @ phase
    covariance /= checkerboard**2 * (count - 1 if form == "mtt" else count)
    values, vectors = scipy.linalg.eigh(covariance.numpy(), driver="evd", overwrite_a=True, check_finite=False)
    values = torch.from_numpy(values[::-1].copy()).clamp(min=0)
    vectors = torch.from_numpy(np.ascontiguousarray(vectors[:, ::-1]))
    ridge = eps if form == "mtt" else eps * values.mean()
    scale = (values + ridge) ** -0.5
    if form == "frepo" and count < len(scale):
        scale[count:] = 1.0
    return mean, vectors, scale


class Preprocess:
    """Pixels in [0, 1] <-> the space that networks and distilled sets live in.

    mean, std (K,); zca: None or (mean (K, H, W), vectors (D, D), scale (D,)); checkerboard: polyphase factor.
    per_image: centre and scale each image by itself; `mean` and `std` then serve the inverse only.
    """

    def __init__(self, mean, std, zca=None, checkerboard=1, per_image=False):
        self.mean, self.std, self.zca, self.checkerboard, self.per_image = mean, std, zca, checkerboard, per_image
        self._matrices = {}

    def to(self, device):
        """The same with its tensors on a device: then to apply it copies nothing from the host."""
        zca = self.zca and tuple(t.to(device) for t in self.zca)
        return Preprocess(self.mean.to(device), self.std.to(device), zca, self.checkerboard, self.per_image)

    def _matrix(self, power, like):
        """U diag(scale^power) U^T in the dtype and on the device of `like`; computed in float64, once."""
        key = (power, like.dtype, like.device)
        if key not in self._matrices:
            _, vectors, scale = (t.to(like.device) for t in self.zca)
            self._matrices[key] = ((vectors * scale**power) @ vectors.T).to(like.dtype)
        return self._matrices[key]

    def _linear(self, x, power):
        phases = polyphase(x, self.checkerboard) @ self._matrix(power, x)
        return unpolyphase(phases, x.shape[1:], self.checkerboard)

    def apply(self, pixels):
        """(n, K, H, W) floats in [0, 1] -> preprocessed."""
        if self.per_image:
            flat = pixels.flatten(1) - pixels.flatten(1).mean(1, keepdim=True)
            x = F.normalize(flat, dim=1).view_as(pixels)
        else:
            x = (pixels - _per_channel(self.mean, pixels)) / _per_channel(self.std, pixels)
        return x if self.zca is None else self._linear(x - self.zca[0].to(x), 1)

    def invert(self, x):
        """Preprocessed -> pixels; not clipped."""
        if self.zca is not None:
            x = self._linear(x, -1) + self.zca[0].to(x)
        return x * _per_channel(self.std, x) + _per_channel(self.mean, x)

    def save(self, path, **meta):
        tensors = {"mean": self.mean, "std": self.std}
        if self.zca is not None:
            tensors |= dict(zip(("zca_mean", "zca_vectors", "zca_scale"), self.zca))
        save_sealed(path, tensors, checkerboard=self.checkerboard, own=self.per_image, **meta)

    @classmethod
    def load(cls, path):
        tensors, meta = load_sealed(path)
        zca = tuple(tensors[k] for k in ("zca_mean", "zca_vectors", "zca_scale")) if "zca_mean" in tensors else None
        return cls(tensors["mean"], tensors["std"], zca, meta["checkerboard"], meta["own"])


def _per_channel(values, like):
    """(K,) -> (K, 1, 1), in the dtype and on the device of `like`."""
    return values.to(like)[:, None, None]


def fit(cfg, pixels, manifest):
    """Fit what `cfg` (params.Preprocessing) asks for on training images `pixels` (n, K, H, W), 0 to 255, on the CPU."""
    channels = pixels.shape[1]
    mean = torch.tensor(cfg.mean or manifest["mean"], dtype=torch.float64)
    std = torch.tensor(cfg.std or manifest["std"], dtype=torch.float64)
    if not cfg.standardise:
        mean, std = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    if cfg.zca == "rat":
        std = std * pixels[0].size ** 0.5  # the norm of an image of that deviation
    standardise = Preprocess(mean, std, per_image=cfg.zca == "rat")
    if cfg.zca == "none":
        return standardise

    def image_blocks():
        for start in progress_bar(range(0, len(pixels), BLOCK), desc="covariance", unit="blocks"):
            yield standardise.apply(torch.from_numpy(pixels[start : start + BLOCK].astype(np.float64) / 255))

    zca = fit_zca(image_blocks, cfg.zca, cfg.zca_eps, cfg.checkerboard)
    return Preprocess(mean, std, zca, cfg.checkerboard, standardise.per_image)
