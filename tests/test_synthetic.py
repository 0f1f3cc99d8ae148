"""The distilled set: its start, its file, and files that others hand in."""

import pytest
import torch

from lib.data.labels import initial_labels
from lib.files import FileError
from lib.rng import generator
from lib.synthetic.initial import sample_real
from lib.synthetic.set import SyntheticSet, load_set, save_set
from lib.tensors import load_tensors, save_tensors

SHAPE = (1, 8, 8)


def test_real_start_is_class_major_distinct_and_seeded():
    labels = torch.randint(10, (500,), generator=generator(0, "labels"))
    chosen = sample_real(labels, range(10), 5, generator(1, "init"))
    assert labels[chosen].tolist() == [c for c in range(10) for _ in range(5)]
    assert len(set(chosen.tolist())) == 50
    assert torch.equal(chosen, sample_real(labels, range(10), 5, generator(1, "init")))
    assert not torch.equal(chosen, sample_real(labels, range(10), 5, generator(2, "init")))
    with pytest.raises(ValueError, match="fewer than the 400 asked for"):
        sample_real(labels, range(10), 400, generator(1, "init"))


def test_only_learned_labels_take_a_gradient():
    x, y = torch.randn(10, *SHAPE), initial_labels(torch.arange(10), 10)
    assert SyntheticSet(x, y).y.requires_grad and not SyntheticSet(x, y, learn_labels=False).y.requires_grad


def test_saved_set_is_the_same_and_carries_its_provenance(tmp_path):
    x, y = torch.randn(10, *SHAPE), initial_labels(torch.arange(10), 10)
    save_set(tmp_path / "s.safetensors", [{"x": x, "y": y}], cell="c", seed=3)
    got = load_set(tmp_path / "s.safetensors", SHAPE, 10)
    assert torch.equal(x, got.x) and torch.equal(y, got.y) and got.lr is None and got.start is None
    assert load_tensors(tmp_path / "s.safetensors")[1] == {"cell": "c", "seed": 3}


def test_schedule_is_stored_as_rates_and_comes_back(tmp_path):
    """What is learned is softplus's argument; what others read are rates, softmaxed labels, and the start."""
    syn = SyntheticSet(torch.randn(20, *SHAPE), torch.randn(20, 10))
    syn.add_schedule(
        torch.tensor([[0.02, 1.5], [17.5, 0.001]]).expm1().log(), torch.nn.functional.softplus, torch.arange(7.0)
    )
    syn.softmax_labels = True
    assert syn.rates.flatten().tolist() == pytest.approx([-3.902006, 1.247518, 17.5, -6.907255], abs=1e-5)
    save_set(tmp_path / "s.safetensors", [syn.snapshot()])
    got = load_set(tmp_path / "s.safetensors", SHAPE, 10)
    assert got.lr.flatten().tolist() == pytest.approx([0.02, 1.5, 17.5, 0.001], rel=1e-5)
    assert torch.equal(got.y, syn.y.softmax(1)) and torch.equal(got.start, torch.arange(7.0))
    assert len(syn.learned) == 3
    again = SyntheticSet(torch.zeros(20, *SHAPE), torch.zeros(20, 10))
    again.add_schedule(torch.zeros(2, 2), torch.nn.functional.softplus, torch.zeros(7))
    again.load_state_dict(syn.state_dict())
    assert torch.equal(again.rates, syn.rates) and torch.equal(again.start, syn.start) and torch.equal(again.y, syn.y)


def test_low_rank_set_stores_its_factors_and_loads_as_images(tmp_path):
    factors = torch.randn(10, 1, 8, 2), torch.randn(10, 1, 2, 8)
    syn = SyntheticSet(factors, initial_labels(torch.arange(10), 10, "one_hot"))
    save_set(tmp_path / "s.safetensors", [syn.snapshot()])
    x, y, *_ = load_set(tmp_path / "s.safetensors", SHAPE, 10)
    assert set(load_tensors(tmp_path / "s.safetensors")[0]) == {"a", "b", "y"}
    assert torch.equal(x, factors[0] @ factors[1]) and torch.equal(y, torch.eye(10))


GOOD = {"x": torch.zeros(10, *SHAPE), "y": torch.zeros(10, 10)}
BAD = [
    ({"x": GOOD["x"]}, r"holds \['x'\]"),
    (GOOD | {"x": torch.zeros(10, 3, 8, 8)}, r"x \(10, 3, 8, 8\).* needs x \(N, 1, 8, 8\)"),
    (GOOD | {"y": torch.zeros(10, 100)}, r"y \(10, 100\)"),
    (GOOD | {"y": torch.zeros(9, 10)}, r"y \(9, 10\)"),
    ({"a": torch.zeros(10, 1, 8, 2), "b": torch.zeros(10, 1, 3, 8), "y": GOOD["y"]}, "have no product"),
    (GOOD | {"x": torch.full((10, *SHAPE), float("nan"))}, "not finite"),
    (GOOD | {"lr": torch.full((1, 1), float("nan"))}, "not finite"),
    (GOOD | {"lr": torch.ones(3)}, r"lr \(3,\) must be \(passes, minibatches\)"),
    (GOOD | {"lr": torch.ones(1, 3)}, r"lr \(1, 3\).* dividing the 10 images"),
]


@pytest.mark.parametrize("tensors, words", BAD)
def test_sets_that_do_not_fit_the_data_are_refused(tmp_path, tensors, words):
    save_tensors(tmp_path / "s.safetensors", tensors)
    with pytest.raises(FileError, match=words):
        load_set(tmp_path / "s.safetensors", SHAPE, 10)


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100)])
def test_files_that_are_no_safetensors_are_refused(tmp_path, data):
    """Empty, a pickle, a zip as torch.save writes it: none is opened as code."""
    (tmp_path / "s.safetensors").write_bytes(data)
    with pytest.raises(FileError, match="not a complete safetensors file"):
        load_tensors(tmp_path / "s.safetensors")
    with pytest.raises(FileError, match="not found"):
        load_tensors(tmp_path / "absent.safetensors")
