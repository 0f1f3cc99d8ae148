"""Preprocessing against the reference sheets' closed forms, exact inverses, and real CIFAR-10."""

import numpy as np
import pytest
import torch

from lib.config.load import load_params
from lib.config.models import Preprocessing
from lib.data.preprocess import Preprocess, fit, fit_zca, polyphase, unpolyphase
from lib.data.real import load_arrays
from lib.files import read_json


def matrix(vectors, scale, power=1):
    return (vectors * scale**power) @ vectors.T


def with_covariance(covariance):
    """Four images of two pixels whose covariance over n is exactly this."""
    factor = torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64)).T * 2**0.5
    return torch.cat([factor, -factor]).view(4, 1, 1, 2)


def test_frepo_form_of_the_sheet():
    x = with_covariance([[2.0, 1.0], [1.0, 2.0]])
    mean, vectors, scale = fit_zca(lambda: iter([x[:3], x[3:]]), "frepo", 0.1)
    assert mean.abs().max() < 1e-12 and scale**-2 == pytest.approx([3.2, 1.2])
    w = matrix(vectors, scale)
    assert torch.allclose(
        w, torch.tensor([[0.735944, -0.176927], [-0.176927, 0.735944]], dtype=torch.float64), atol=1e-6
    )
    whitened = w @ torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64) @ w
    assert torch.allclose(
        whitened, torch.tensor([[0.885417, 0.052083], [0.052083, 0.885417]], dtype=torch.float64), atol=1e-6
    )
    assert torch.allclose(w @ matrix(vectors, scale, -1), torch.eye(2, dtype=torch.float64), atol=1e-12)


def test_mtt_form_of_the_sheet():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64).view(3, 1, 1, 2)
    mean, vectors, scale = fit_zca(lambda: iter([x]), "mtt", 0.1)
    z = (x.flatten(1) - mean.flatten()) @ matrix(vectors, scale)
    assert torch.allclose(
        z, torch.tensor([[0, 1.0127], [0.9535, -0.5064], [-0.9535, -0.5064]], dtype=torch.float64), atol=1e-4
    )


def test_rank_control_leaves_directions_beyond_the_images_alone():
    x = torch.randn(5, 1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, vectors, scale = fit_zca(lambda: iter([x]), "frepo", 0.1)
    assert (scale[5:] == 1).all() and (scale[:4] != 1).all()
    assert torch.allclose(
        matrix(vectors, scale) @ matrix(vectors, scale, -1), torch.eye(8, dtype=torch.float64), atol=1e-10
    )


def test_polyphase_of_the_ramp():
    ramp = torch.arange(16.0).view(1, 1, 4, 4)
    phases = polyphase(ramp, 2)
    assert phases[:, 0].tolist() == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]
    assert torch.equal(unpolyphase(phases, (1, 4, 4), 2), ramp)


def test_checkerboard_shares_one_matrix_over_the_phases_mean_covariance():
    x = torch.randn(50, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, vectors, scale = fit_zca(lambda: iter([x]), "frepo", 0.1, checkerboard=2)
    covariance = (
        sum(np.cov((x - mean)[:, :, i::2, j::2].flatten(1).numpy().T, bias=True) for i in range(2) for j in range(2))
        / 4
    )
    values = np.linalg.eigvalsh(covariance)[::-1]
    assert np.allclose(scale.numpy() ** -2, values + 0.1 * values.mean())
    pre = Preprocess(torch.zeros(2), torch.ones(2), (mean, vectors, scale), 2)
    assert torch.allclose(pre.invert(pre.apply(x)), x, atol=1e-10)


def test_rat_form_whitens_images_of_mean_zero_and_norm_one(prepared):
    folder = prepared("digits")
    pixels, _ = load_arrays(folder, "train")
    x = torch.from_numpy(pixels / 255)
    pre = fit(Preprocessing(dataset="digits", zca="rat", zca_eps=1e-12), pixels, read_json(folder / "manifest.json"))
    plain = Preprocess(pre.mean, pre.std, per_image=True).apply(x).flatten(1)
    assert plain.mean(1).abs().max() < 1e-12 and torch.allclose(
        plain.norm(dim=1), torch.ones(len(x), dtype=torch.float64)
    )
    values, vectors = torch.linalg.eigh(plain.T @ plain / len(x))
    kept = vectors[:, values > 1e-6 * values.mean()]  # digits have pixels that never change
    white = pre.apply(x).flatten(1)
    assert torch.allclose(
        kept.T @ (white.T @ white / len(x)) @ kept, torch.eye(kept.shape[1], dtype=torch.float64), atol=1e-5
    )
    regular = fit(Preprocessing(dataset="digits", zca="rat"), pixels, read_json(folder / "manifest.json"))
    assert torch.allclose(regular.zca[2] ** -2, values.flip(0) + 0.1 * values.mean())
    again = pre.apply(pre.invert(pre.apply(x)))
    assert torch.allclose(again, pre.apply(x), atol=1e-5), "what comes back differs in mean and norm alone"


@pytest.mark.parametrize("zca", ["none", "frepo", "mtt"])
def test_saved_preprocessing_is_the_same_and_inverts(tmp_path, prepared, zca):
    folder = prepared("digits")
    pixels, _ = load_arrays(folder, "train")
    cfg = Preprocessing(dataset="digits", zca=zca, standardise=zca != "mtt")
    pre = fit(cfg, pixels, read_json(folder / "manifest.json"))
    pre.save(tmp_path / "p.safetensors")
    x = torch.from_numpy(pixels[:20] / 255)
    assert torch.equal(Preprocess.load(tmp_path / "p.safetensors").apply(x), pre.apply(x))
    assert torch.allclose(pre.invert(pre.apply(x)), x, atol=1e-9)


def test_cifar10_zca_has_the_sheets_spectrum_and_inverts(prepared, archives):
    """Eigenvalues of the whitened covariance to 1e-4, the inverse to 1e-5, in a run's float32; on 15,000 images."""
    folder = prepared("cifar10", archives)
    pixels = load_arrays(folder, "train")[0][:15000]
    pre = fit(load_params().preprocessing["cifar10-zca"], pixels, read_json(folder / "manifest.json"))
    x = torch.from_numpy(pixels.astype(np.float32)) / 255
    z = torch.cat([pre.apply(part) for part in x.split(5000)])
    assert (pre.invert(z[:2000]) - x[:2000]).abs().max() < 1e-5
    flat = z.flatten(1)
    covariance = (flat.T.double() @ flat.double() / len(flat)) - flat.double().mean(0).outer(flat.double().mean(0))
    measured = torch.linalg.eigvalsh(covariance).flip(0)
    ridge = (pre.zca[2] ** -2).mean() * 0.1 / 1.1  # trace(S) / D * 0.1, recovered from the scales
    assert (measured - (1 - ridge * pre.zca[2] ** 2)).abs().max() < 1e-4
