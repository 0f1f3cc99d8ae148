"""Kernel ridge regression with the conjugate kernel <f(x), f(x')>: the optimal linear head on a set, in closed form.

Source: reference sheet of FRePo, section 2. The ridge is relative and tiny (1e-6 of the kernel's mean eigenvalue), so
the kernel and its Cholesky factor are at least float32, whatever the precision of the convolutions.
"""

import torch

RIDGE = 1e-6


def krr_coefficients(phi_syn, y_syn, ridge=RIDGE):
    """alpha (N, C) = (K + ridge tr(K) / N I)^-1 y for K = phi phi^T; phi_syn (N, F), y_syn (N, C). Differentiable.

    A kernel that is singular at this precision gives NaN, not an error: no value is fetched from the device here.
    """
    kernel = phi_syn @ phi_syn.T
    n = len(kernel)
    kernel = kernel + (ridge * kernel.trace() / n) * torch.eye(n, dtype=kernel.dtype, device=kernel.device)
    factor, info = torch.linalg.cholesky_ex(kernel)
    factor = torch.where(info == 0, factor, torch.nan)
    return torch.cholesky_solve(y_syn, factor)


def krr_predict(phi_syn, y_syn, phi_real, ridge=RIDGE):
    """Predictions (B, C) for phi_real (B, F) of kernel ridge regression on the support (phi_syn, y_syn)."""
    return phi_real @ (phi_syn.T @ krr_coefficients(phi_syn, y_syn, ridge))
