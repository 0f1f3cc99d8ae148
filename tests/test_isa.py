"""ISA's loss against quadrature, the reference sheet's printed digits (section 8) and its limits."""

import copy

import pytest
import torch
from scipy.integrate import quad

from lib.config.load import load_params
from lib.config.models import ISA
from lib.data.labels import centred_one_hot, initial_labels
from lib.methods import METHODS
from lib.methods.isa import crucial_samples, isa_error, nearest_neighbour, segment_error
from lib.methods.kernel_regression import krr_coefficients, krr_predict
from lib.rng import generator
from lib.synthetic.set import SyntheticSet
from lib.training.losses import squared_error


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def problem(b=7, n=5, d=6, c=3):
    """Features, targets and a linear predictor without bias, float64 -> (phi_real, targets, head (d, c))."""
    gen = generator(0, "isa")
    draw = lambda *shape: torch.randn(*shape, generator=gen, dtype=torch.float64)  # noqa: E731
    phi_syn, y = draw(n, d), draw(n, c)
    return (
        draw(b, d),
        centred_one_hot(torch.randint(c, (b,), generator=gen), c, torch.float64),
        phi_syn.T @ krr_coefficients(phi_syn, y),
    )


@pytest.mark.parametrize("epsilon", [0.5, 1.0, -0.5])
def test_closed_form_equals_quadrature_of_the_pushed_features_and_labels(epsilon):
    """Bar: 1e-12 relative, through the predictor; a negative epsilon is the interpolation towards the neighbour."""
    phi, targets, head = problem()
    neighbour = nearest_neighbour(phi)
    residual = phi @ head - targets
    closed = segment_error(residual, residual - residual[neighbour], epsilon)

    def pushed(s, i, c):  # the squared error at distance s along the line, from the features and labels themselves
        j = neighbour[i]
        if epsilon < 0:
            feature, label = (1 + s) * phi[i] - s * phi[j], (1 + s) * targets[i] - s * targets[j]
        else:
            feature, label = phi[i] + s * (phi[i] - phi[j]), targets[i] + s * (targets[i] - targets[j])
        return ((feature @ head)[c] - label[c]).square().item()

    for i in range(len(phi)):
        for c in range(targets.shape[1]):
            exact = quad(pushed, 0, epsilon, args=(i, c), epsabs=1e-14, epsrel=1e-13)[0] / epsilon
            assert closed[i, c].item() == pytest.approx(exact, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, -0.5, -3.0])
def test_equivalent_forms_of_the_segment(epsilon):
    a, b = problem()[0], problem()[1] @ torch.ones(3, 6, dtype=torch.float64) + 0.3
    closed = segment_error(a, b, epsilon)
    middle = (a + epsilon / 2 * b).square() + epsilon**2 / 12 * b.square()
    points = [epsilon * (0.5 + sign / (2 * 3**0.5)) for sign in (1, -1)]
    gauss = sum((a + s * b).square() for s in points) / 2
    other = a - b
    residuals = (
        (1 + epsilon + epsilon**2 / 3) * a**2 - (epsilon + 2 / 3 * epsilon**2) * a * other + epsilon**2 / 3 * other**2
    )
    for form in (middle, gauss, residuals):
        assert torch.allclose(closed, form, rtol=1e-12, atol=1e-14)
    assert closed.min() >= 0


def test_lowest_value_over_epsilon_is_a_quarter_of_the_plain_error():
    a, b = tensor(0.7), tensor(-0.4)
    best = (-3 * a / (2 * b)).item()
    assert segment_error(a, b, best).item() == pytest.approx((a**2 / 4).item(), rel=1e-12)
    assert all(segment_error(a, b, best + d) > a**2 / 4 for d in (-0.1, 0.1))


@pytest.mark.parametrize("epsilon, value", [(0, 0.04), (0.5, 0.13), (1, 0.28), (-0.5, 0.01)])
def test_tiny_residual_example(epsilon, value):
    a, other = tensor(0.2, -0.2), tensor(-0.4, 0.4)
    assert segment_error(a, a - other, epsilon).mean().item() == pytest.approx(value, rel=1e-12)


def test_equal_and_opposite_neighbours():
    a = tensor(0.2, -0.7)
    assert torch.equal(segment_error(a, a - a, 0.9), a**2)
    assert torch.allclose(segment_error(a, a + a, 0.9), a**2 * (1 + 2 * 0.9 + 4 * 0.81 / 3))


PHI, LABELS = tensor([1, 0], [0.9, 0.1], [0, 1], [0.2, 0.8]), tensor([0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [-0.5, 0.5])


def tiny_prediction():
    return krr_predict(tensor([1, 0], [0, 2]), tensor([0.5, -0.5], [-0.5, 0.5]), PHI)


def test_full_tiny_example_selection_and_neighbours():
    residual = tiny_prediction() - LABELS
    hardness = 0.5 * residual.square().sum(1)
    assert torch.allclose(hardness, tensor(1.56e-12, 0.00562517, 0.06250008, 0.1599999), atol=5e-9)
    chosen = crucial_samples(residual, 0.75)
    assert chosen.tolist() == [3, 2, 1] and chosen[nearest_neighbour(PHI[chosen])].tolist() == [2, 3, 3]


@pytest.mark.parametrize(
    "epsilon, each, mean",
    [
        (0.0, [0.1599999, 0.06250008, 0.00562517], 0.07604171),
        (0.5, [0.19187483, 0.04562509, 0.04224013], 0.09324668),
        (1.0, [0.22749974, 0.03250010, 0.11645941], 0.12548642),
    ],
)
def test_full_tiny_example_to_the_printed_digits(epsilon, each, mean):
    residual = (tiny_prediction() - LABELS)[[3, 2, 1]]
    per_image = segment_error(residual, residual - residual[[1, 0, 0]], epsilon).mean(1)
    assert torch.allclose(per_image, tensor(*each), atol=6e-9)
    assert isa_error(tiny_prediction(), LABELS, PHI, epsilon, 0.75).item() == pytest.approx(mean, abs=6e-9)


def test_selection_keeps_the_complement_of_the_easiest():
    residual = torch.randn(1024, 10, generator=generator(0, "residual"))
    hardness = residual.square().sum(1)
    hard, easy = crucial_samples(residual, 0.8), crucial_samples(residual, -0.8)
    assert len(hard) == len(easy) == 819
    assert set(hard.tolist()) == set(range(1024)) - set(hardness.argsort()[:205].tolist())
    assert set(easy.tolist()) == set(hardness.argsort()[:819].tolist())
    assert crucial_samples(residual, 1).tolist() == crucial_samples(residual, 0).tolist() == list(range(1024))


def test_neighbours_are_of_the_kept_and_never_the_image_itself():
    phi = torch.cat([torch.randn(20, 5, generator=generator(0, "phi")), torch.zeros(1, 5)])
    phi[3] = phi[7]  # exact duplicates are each other's neighbours
    found = nearest_neighbour(phi)
    assert (found != torch.arange(21)).all() and found[3] == 7 and found[7] == 3
    cosine = torch.nn.functional.cosine_similarity(phi[:20, None], phi[None], dim=2)
    cosine[:, :20].fill_diagonal_(-2)
    assert torch.allclose(cosine.max(1).values, cosine[torch.arange(20), found[:20]])


def test_order_and_scale_of_the_batch_change_nothing():
    phi, targets, head = problem(b=30)
    base = isa_error(phi @ head, targets, phi, 0.5, 0.8)
    order = torch.randperm(30, generator=generator(1, "order"))
    assert isa_error((phi @ head)[order], targets[order], phi[order], 0.5, 0.8).item() == pytest.approx(
        base.item(), rel=1e-12
    )
    assert isa_error(phi @ head, targets, 9 * phi, 0.5, 0.8).item() == pytest.approx(base.item(), rel=1e-12)


def test_gradient_equals_finite_differences_and_flows_through_both_terms():
    phi, targets, head = problem()
    prediction = phi @ head
    leaf = prediction.clone().requires_grad_()
    isa_error(leaf, targets, phi, 0.5, 0.8).backward()
    numeric = torch.zeros_like(prediction)
    for i in range(len(phi)):
        for c in range(targets.shape[1]):
            nudge = torch.zeros_like(prediction)
            nudge[i, c] = 1e-6
            numeric[i, c] = (
                isa_error(prediction + nudge, targets, phi, 0.5, 0.8)
                - isa_error(prediction - nudge, targets, phi, 0.5, 0.8)
            ) / 2e-6
    assert torch.allclose(leaf.grad, numeric, atol=1e-8)


def test_without_segment_and_selection_it_is_frepos_term_times_two_over_c():
    phi, targets, head = problem()
    assert isa_error(phi @ head, targets, phi, 0.0, 1.0).item() == pytest.approx(
        2 / 3 * squared_error(phi @ head, targets).item(), rel=1e-12
    )


def test_reduced_to_frepo_its_images_take_the_same_path():
    """With fixed labels nothing else pulls; LAMB does not see the scale 2/C, but for the 1e-6 in its denominator."""
    frepo = load_params().cells["digits-frepo-digits-ipc1"].distill.changed(pool_size=2, steps=20, learn_labels=False)
    fields = frepo.model_dump() | {"method": "isa"}
    reduced, whole = (ISA(**fields | {"epsilon": epsilon, "topk": topk}) for epsilon, topk in ((0.0, 1.0), (0.5, 0.8)))
    gen = generator(8, "real")
    x, targets = torch.randn(64, 1, 8, 8, generator=gen), centred_one_hot(torch.randint(10, (64,), generator=gen), 10)
    start = SyntheticSet(x[:10].clone(), initial_labels(torch.arange(10), 10), learn_labels=False)
    paths = []
    for name, cfg in (("frepo", frepo), ("isa", reduced), ("isa", whole)):
        syn = copy.deepcopy(start)
        method = METHODS[name](cfg, syn, 0)
        for step in range(20):
            method.step(step, x, targets)
        paths.append(syn.x.detach() - x[:10])
    apart = [((path - paths[0]).norm() / paths[0].norm()).item() for path in paths[1:]]
    assert apart[0] < 0.01 and apart[1] > 0.1


def test_every_frepo_cell_has_its_isa_cell_with_the_same_settings():
    cells = load_params().cells
    for key, cell in cells.items():
        if cell.suite != "frepo" or cell.distill.class_steps > 1 or cell.distill.chunk:
            continue
        twin = cells[key.replace("frepo-frepo-", "isa-isa-")]
        assert (twin.distill.epsilon, twin.distill.topk, twin.baseline) == (0.5, 0.8, key)
        aside = {"method": None, "epsilon": 0, "topk": 0}
        assert twin.distill.model_dump() | aside == cell.distill.model_dump() | aside
        assert twin.evaluate.nets == cell.evaluate.nets
