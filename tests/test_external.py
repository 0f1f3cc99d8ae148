"""Sets that others made: every form of file that is read, and one sentence for each that is not."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lib.config.load import load_params
from lib.config.models import External
from lib.config.settings import ParamsError
from lib.data.preprocess import Preprocess
from lib.data.real import RealSet
from lib.evaluation.external import read_external
from lib.evaluation.set_files import digest
from lib.files import FileError
from lib.networks import build
from lib.rng import generator
from lib.synthetic.set import save_set
from lib.tensors import save_tensors
from tests.toy import edit

ROOT, DATA = Path(__file__).parent.parent, Path(__file__).parent / "data"
PROTOCOLS = load_params().protocols
SGD, ADAM, SCHEDULE = PROTOCOLS["digits-sgd"], PROTOCOLS["digits"], PROTOCOLS["dd-fixed"]
NAMES = ["cat", "dog", "ant"]  # not in alphabetical order


def data(channels):
    """Three classes of 6x6 images, standardised: mean 0.5, deviation 0.25 of pixels."""
    x = torch.randn(120, channels, 6, 6, generator=generator(0, "real"))
    preprocess = Preprocess(torch.full((channels,), 0.5), torch.full((channels,), 0.25))
    y = torch.arange(120) % 3
    return RealSet(x[:60], y[:60], x[60:], y[60:], preprocess, {"num_classes": 3, "class_names": NAMES})


REAL, COLOUR = data(1), data(2)
X = torch.randn(6, 1, 6, 6, generator=generator(0, "x"))
Y = torch.randn(6, 3, generator=generator(0, "y"))
CLASSES = torch.tensor([0, 0, 1, 1, 2, 2])


def read(path, labels="classes", protocol=SGD, real=REAL, label_file=None, **row):
    files = {"file": str(path), "label_file": str(label_file or path)}
    row = External(dataset="d", preprocessing="p", protocol="q", nets=("dense1-w16",), labels=labels, **files, **row)
    return read_external(row, real, protocol)


def saved(path, values):
    """Write tensors as the ending of `path` says."""
    if path.suffix == ".safetensors":
        save_tensors(path, values)
    elif path.suffix == ".npz":
        np.savez(path, **{name: t.numpy() for name, t in values.items()})
    else:
        torch.save(values, path)
    return path


def warnings(notes):
    return [note for note in notes if note.startswith("warning")]


@pytest.mark.parametrize("ending", ["pt", "pth", "npz", "safetensors"])
def test_every_kind_of_file_gives_its_exact_numbers(tmp_path, ending):
    rate = torch.tensor([0.02])
    own, notes = read(saved(tmp_path / f"a.{ending}", {"x": X, "y": Y, "lr": rate}), "logits")
    assert torch.equal(own.x, X) and torch.equal(own.y, Y.softmax(1)) and own.lr.item() == rate.item()
    assert own.x.dtype == own.y.dtype == torch.float32 and own.start is None
    assert "space network" in notes[0] and not warnings(notes)
    path = saved(tmp_path / f"b.{ending}", {"images": X.double(), "labels": Y.softmax(1), "syn_lr": rate})
    shares, _ = read(path, "probabilities", lr=0.5)
    assert torch.equal(shares.x, X) and torch.allclose(shares.y, own.y) and shares.lr.item() == 0.5
    plain, _ = read(saved(tmp_path / f"c.{ending}", {"image": X, "label": CLASSES}))
    assert torch.equal(plain.y, F.one_hot(CLASSES, 3).float()) and plain.lr is None


def test_labels_are_what_the_loss_takes(tmp_path):
    path = saved(tmp_path / "a.pt", {"x": X, "y": Y, "labels": CLASSES})
    assert torch.equal(read(path, "centred", ADAM)[0].y, Y) and torch.equal(read(path, "free")[0].y, Y)
    scaled = (F.one_hot(CLASSES, 3) - 1 / 3) / 0.3**0.5
    assert torch.allclose(read(path, "classes", ADAM)[0].y, scaled), "of a squared error, as FRePo's code begins"


def test_images_and_labels_may_be_two_files(tmp_path):
    torch.save(X, tmp_path / "images.pt")
    torch.save(CLASSES, tmp_path / "labels.pt")
    np.save(tmp_path / "labels.npy", CLASSES.numpy())
    saved(tmp_path / "both.pt", {"x": X, "y": CLASSES.flip(0)})
    for labels in ("labels.pt", "labels.npy"):
        for images in ("images.pt", "both.pt"):
            own, _ = read(tmp_path / images, label_file=tmp_path / labels)
            assert torch.equal(own.x, X) and own.y.argmax(1).tolist() == CLASSES.tolist()
    assert digest(tmp_path / "labels.pt", tmp_path / "labels.pt") != digest(tmp_path / "labels.npy")
    with pytest.raises(FileError, match="two files, `file` and `label_file`"):
        read(tmp_path / "images.pt")


def test_a_checkpoint_of_flax_is_read_without_flax():
    own, notes = read(DATA / "frepo_checkpoint", "centred", ADAM, COLOUR)
    expected = torch.arange(216.0).view(3, 6, 6, 2).permute(0, 3, 1, 2) / 128
    assert torch.equal(own.x, expected) and torch.equal(own.y, torch.eye(3) - 1 / 3)
    assert any("channels last" in note for note in notes)


def test_frepos_npz_has_channels_last_and_grey_images_may_have_none(tmp_path):
    own, _ = read(saved(tmp_path / "a.npz", {"image": X.permute(0, 2, 3, 1), "label": Y}), "centred", ADAM)
    grey, _ = read(saved(tmp_path / "b.npz", {"image": X[:, 0], "label": Y}), "centred", ADAM)
    assert torch.equal(own.x, X) and torch.equal(grey.x, X)


def test_pixels_are_normalised_as_the_row_says(tmp_path):
    pixels = torch.randint(0, 256, X.shape, generator=generator(0, "p"))
    expected = (pixels / 255 - 0.5) / 0.25
    for values, space in ((pixels, None), (pixels.byte(), None), (pixels.float(), "0..255"), (pixels / 255, "0..1")):
        own, notes = read(saved(tmp_path / "a.pt", {"x": values, "y": CLASSES}), space=space)
        assert torch.allclose(own.x, expected, atol=1e-6) and not warnings(notes)
        assert f"space {space or '0..255'}" in notes[0]
    both = saved(tmp_path / "b.pt", {"x": X, "images": pixels / 255, "y": CLASSES})
    assert torch.equal(read(both)[0].x, X) and torch.allclose(read(both, space="0..1")[0].x, expected, atol=1e-6)


def test_what_looks_otherwise_is_warned_of(tmp_path):
    def told(images, labels, kind="classes", **row):
        return " ".join(warnings(read(saved(tmp_path / "a.pt", {"x": images, "y": labels}), kind, **row)[1]))

    pixels = torch.rand(X.shape, generator=generator(0, "p"))
    assert "like 0..1" in told(pixels, CLASSES) and "like 0..255" in told(255 * pixels, CLASSES)
    assert "like 0..255" in told(255 * pixels, CLASSES, space="0..1")
    assert "like 0..1" in told(pixels, CLASSES, space="0..255")
    assert "like network" in told(X, CLASSES, space="0..1") and "like network" in told(X, CLASSES, space="0..255")
    one_hot = F.one_hot(CLASSES, 3).float()
    assert "like classes" in told(X, one_hot, "logits") and "like probabilities" in told(X, Y.softmax(1), "logits")
    assert "centred" in told(X, one_hot - 1 / 3, "logits") and told(X, one_hot, "probabilities") == ""


def picture_folder(folder, names, pixels):
    for name, image in zip(names, pixels):
        (folder / name).mkdir(parents=True)
        Image.fromarray(image).save(folder / name / "1.png")


def test_a_folder_of_pictures_is_read_by_names_or_in_alphabetical_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 6), np.uint8)
    expected = (torch.from_numpy(pixels[:, None] / 255) - 0.5) / 0.25
    for folder, names, order in (("own", NAMES, [0, 1, 2]), ("other", ["c", "a", "b"], [2, 0, 1])):
        picture_folder(tmp_path / folder, names, pixels)
        own, _ = read(tmp_path / folder)
        found = dict(zip(own.y.argmax(1).tolist(), own.x))
        assert all(torch.allclose(found[label], expected[i].float(), atol=1e-6) for i, label in enumerate(order))
    picture_folder(tmp_path / "two", ["a", "b"], pixels)
    picture_folder(tmp_path / "large", NAMES, np.zeros((3, 7, 6), np.uint8))
    (tmp_path / "empty").mkdir()
    for folder, row, message in (
        ("two", {}, "holds 2 folders"),
        ("empty", {}, "holds 0 folders"),
        ("large", {}, "is 6 x 7 pixels"),
        ("own", {"labels": "logits"}, "labels: classes"),
        ("own", {"space": "network"}, "space: 0..255"),
    ):
        with pytest.raises(FileError, match=message):
            read(tmp_path / folder, **row)
    (tmp_path / "own/ant/1.png").write_text("no picture")
    with pytest.raises(FileError, match="not a readable picture"):
        read(tmp_path / "own")


def test_our_own_files_are_read_as_they_are(tmp_path):
    """A schedule with starting weights, and low-rank factors."""
    start = torch.cat([p.flatten() for p in build("dense1-w16", (1, 6, 6), 3).parameters()]).detach()
    rates = torch.rand(4, 2, generator=generator(0, "r")) + 0.01
    save_set(tmp_path / "dd.safetensors", [{"x": X, "y": Y, "lr": rates, "start": start}], seed=0)
    own, notes = read(tmp_path / "dd.safetensors", "free", SCHEDULE)
    assert all(torch.equal(*pair) for pair in zip(own, (X, Y, rates, start)))
    assert any("8 from" in note for note in notes) and any("start from the weights" in note for note in notes)
    a, b = torch.randn(6, 1, 6, 2, generator=generator(0, "a")), torch.randn(6, 1, 2, 6, generator=generator(0, "b"))
    save_set(tmp_path / "rank.safetensors", [{"a": a, "b": b, "y": Y}], seed=0)
    assert torch.equal(read(tmp_path / "rank.safetensors", "free")[0].x, a @ b)
    for values, protocol, message in (
        ({"lr": rates}, SGD, "rates of a schedule"),
        ({"lr": rates[0, :1]}, ADAM.changed(loss="cross_entropy"), "which adam does not take"),
        ({}, SCHEDULE, "holds no rates"),
        ({"lr": torch.rand(3, 5) + 1}, SCHEDULE, "dividing the 6 images"),
        ({"lr": torch.rand(4) + 1}, SCHEDULE, r"lr \(4,\) must be"),
        ({"lr": torch.zeros(0, 2)}, SCHEDULE, "must be one number"),
        ({"lr": -rates}, SCHEDULE, "above 0"),
        ({"lr": torch.tensor(float("nan"))}, SGD, "above 0"),
        ({"lr": "fast"}, SGD, "lr is of type str"),
        ({"lr": {"a": 1.0}}, SGD, "lr is of type dict"),
        ({"lr": rates, "start": start[1:]}, SCHEDULE, "the weights of dense1-w16"),
        ({"lr": rates, "start": start / 0}, SCHEDULE, "not all finite"),
    ):
        with pytest.raises(FileError, match=message):
            read(saved(tmp_path / "a.pt", {"x": X, "y": Y, **values}), "free", protocol)
    for left, right in ((a, b[:1]), (a, b[:, :, :1]), (a[0], b)):
        with pytest.raises(FileError, match="have no product"):
            read(saved(tmp_path / "a.pt", {"a": left, "b": right, "y": Y}), "free")


SHARES = Y.softmax(1)


@pytest.mark.parametrize(
    "images, labels, kind, message",
    [
        (X, CLASSES + 1, "classes", "1 to 3; classes are integers from 0 to 2; they look counted from 1"),
        (X, CLASSES - 1, "classes", "-1 to 1"),
        (X, CLASSES * 4, "classes", "0 to 8"),
        (X, CLASSES + 0.5, "classes", "fractions among"),
        (X, CLASSES * float("nan"), "classes", "labels hold nan"),
        (X, Y, "classes", r"labels \(6, 3\)"),
        (X, CLASSES[:5], "classes", r"labels \(5,\)"),
        (X, Y[:5], "logits", r"labels \(5, 3\)"),
        (X, Y[:, :2], "free", r"labels \(6, 2\)"),
        (X, Y * 1e30, "logits", "e\\+30; all must be finite and at most"),
        (X, Y, "probabilities", "not below 0"),
        (X, Y.abs() + 1, "probabilities", "do not sum to 1"),
        (X * float("inf"), Y, "logits", "images hold -?inf"),
        (X[:0], Y[:0], "logits", "holds no images"),
        (X[:, :, :4], Y, "logits", "this data needs"),
        (torch.zeros(()), Y, "logits", "images"),
        (X.to_sparse(), Y, "logits", "x is sparse"),
        (torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), Y, "logits", "x is quantised"),
        (X.to(torch.complex64), Y, "logits", "x is complex"),
        (X.to("meta"), Y, "logits", "without values"),
        (X[:1].expand(6, -1, -1, -1), Y, "logits", "stride of 0"),
        ("pictures", Y, "logits", "x is of type str"),
        (X, [0, 1], "classes", "y is of type list"),
    ],
)
def test_what_is_no_set_is_refused_in_one_sentence(tmp_path, images, labels, kind, message):
    torch.save({"x": images, "y": labels}, tmp_path / "a.pt")
    with pytest.raises(FileError, match=message) as told:
        read(tmp_path / "a.pt", kind)
    assert str(tmp_path) in str(told.value) and "\n" not in str(told.value)


def test_what_is_no_file_of_arrays_is_refused_in_one_sentence(tmp_path):
    torch.save({"x": X, "y": Y, "f": External}, tmp_path / "code.pt")
    torch.save([X], tmp_path / "list.pt")
    torch.save({"x": X}, tmp_path / "half.pt")
    np.savez(tmp_path / "text.npz", x=np.array(["a"]), y=Y.numpy())
    with io.BytesIO() as file:
        np.savez(file, x=np.array([{}], object), y=Y.numpy())
        (tmp_path / "object.npz").write_bytes(file.getvalue())
    (tmp_path / "empty.pt").touch()
    for ending in (".pt", ".npz", ".npy", ".safetensors", ".msgpack", ""):
        (tmp_path / f"words{ending}").write_text("No tensors are in here.\n")
    for ending in (".pt", ".npz", ".safetensors"):
        whole = saved(tmp_path / f"whole{ending}", {"x": X, "y": Y}).read_bytes()
        (tmp_path / f"cut{ending}").write_bytes(whole[: len(whole) // 2])
    checkpoint = (DATA / "frepo_checkpoint").read_bytes()
    (tmp_path / "cut").write_bytes(checkpoint[:500])
    (tmp_path / "set.txt").write_text("1 2 3\n")
    for name, message in (
        ("none.pt", "not found"),
        ("empty.pt", "is empty"),
        ("set.txt", "has the ending '.txt'"),
        ("code.pt", "more than arrays"),
        ("object.npz", "more than arrays"),
        ("list.pt", "holds list"),
        ("half.pt", "holds x; a set has labels"),
        ("text.npz", "must be numbers"),
        *((f"words{ending}", "is not read") for ending in (".pt", ".npy", ".safetensors", ".msgpack", "")),
        *((f"cut{ending}", "more than arrays") for ending in (".pt", ".safetensors", "")),
        *((f"{name}.npz", "not a complete archive") for name in ("words", "cut")),
    ):
        with pytest.raises(FileError, match=message) as told:
            read(tmp_path / name, "logits")
        assert name in str(told.value) and "\n" not in str(told.value)


def test_rows_that_cannot_be_are_refused_before_anything_runs(tmp_path):
    row = {"dataset": "digits", "preprocessing": "digits", "file": "a.pt", "label_file": "a.pt", "labels": "classes"}
    row |= {"protocol": "digits-sgd", "nets": ["mlp"]}
    edits = {
        "ok": {},
        "home": {"file": "~/a.pt"},
        "loss": {"labels": "centred"},
        "other": {"labels": "free", "protocol": "digits"},
        "rate": {"protocol": "dd-fixed", "lr": 0.1},
        "zero": {"lr": 0.0},
        "space": {"space": "grey"},
        "batches": {"protocol": "rat-class"},
    }
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    edit(tmp_path, lambda p: p.update(external={key: row | change for key, change in edits.items()}))
    with pytest.raises(ParamsError, match="external") as told:
        load_params(tmp_path / "params.yaml")
    lines = str(told.value).splitlines()
    assert len(lines) == len(edits) - 1 and not any("external.ok" in line for line in lines)
    for line, words in (
        ("home.file", "write the folder's whole path"),
        ("loss.protocol", "centred labels need a protocol of squared_error"),
        ("other.protocol", "free labels need a protocol of cross_entropy"),
        ("rate.lr", "a schedule has the file's rates"),
        ("zero.lr", "above 0"),
        ("space.space", "one of network, 0..1, 0..255 or null"),
        ("batches.protocol", "batch_per_class"),
    ):
        assert any(f"external.{line}: found" in each and words in each for each in lines), (line, lines)
