"""Sets for other programs: what is written, what loads it, and that it is worth as much when it is read back."""

import itertools
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
import yaml
from safetensors.torch import load_file

from lib.config.load import load_params
from lib.config.models import External
from lib.data.preprocess import fit
from lib.data.real import load_arrays, load_real
from lib.data.sources import SOURCES
from lib.evaluation.external import read_external
from lib.files import FileError, read_json, sha256
from lib.records import write_metrics, write_record
from lib.report.export import LICENCES, class_folders, export_set, normalisation_code
from lib.rng import generator
from lib.synthetic.set import DistilledSet, load_set, save_set
from lib.training.students import evaluate
from stages import common
from stages.export import stage
from tests.toy import ENV, edit

PARAMS = load_params()
SGD, ADAM, SCHEDULE = (PARAMS.protocols[name] for name in ("digits-sgd", "digits", "dd-fixed"))
ROOT = Path(__file__).parent.parent
NET, CLASSES = "mlp", torch.arange(10)
FACTS = {"key": "k", "seed": 0, "cell": {"dataset": "digits", "method": "dm"}, "accuracy": [], "made": {"date": "d"}}


MADE = {"date": "today", "commit": "abc", "device": "CPU", "torch": "2"}


@pytest.fixture(scope="module")
def digits(prepared, tmp_path_factory):
    """(the RealSet of the digits, its manifest)."""
    folder, path = prepared("digits"), tmp_path_factory.mktemp("digits") / "digits.safetensors"
    pixels, manifest = load_arrays(folder, "train")[0], read_json(folder / "manifest.json")
    fit(PARAMS.preprocessing["digits"], pixels, manifest).save(path)
    return load_real(folder, path, "cpu"), manifest


def exported(out, form, own, real, manifest, protocol=SGD):
    export_set(out, form, own, real.preprocess, manifest, FACTS | {"protocol": protocol.model_dump()})
    return out if form == "folder" else out / f"set.{form}"


def row(path, labels):
    files = {"file": str(path), "label_file": str(path)}
    return External(dataset="d", preprocessing="d", protocol="p", nets=(NET,), labels=labels, **files)


def accuracy(own, real, protocol):
    x, y, lr, start = (None if t is None else t[None] for t in own)
    return evaluate(NET, x, y, real, protocol, 0, lr, start)


def sets(real, path):
    """{name: (a set of a file of ours, its labels' kind, protocol)}: pixels, low rank, soft labels, a schedule."""
    means = torch.stack([real.train_x[real.train_y == c].mean(0) for c in CLASSES])
    gen = generator(0, "sets")
    soft = torch.eye(10) - 0.1 + 0.02 * torch.randn(10, 10, generator=gen)
    u, s, v = torch.linalg.svd(means)
    factors = {"a": u[..., :2] * s[..., None, :2], "b": v[..., :2, :]}
    snapshots = {
        "pixels": ({"x": means, "y": torch.eye(10), "lr": torch.full((1, 1), 0.03)}, "probabilities", SGD),
        "rank": ({**factors, "y": torch.eye(10)}, "free", SGD),
        "soft": ({"x": means, "y": soft}, "centred", ADAM),
        "schedule": ({"x": means, "y": soft, "lr": torch.rand(5, 2, generator=gen) / 5 + 0.1}, "free", SCHEDULE),
    }
    for name, (tensors, kind, protocol) in snapshots.items():
        save_set(path / f"{name}.safetensors", [tensors], seed=0)
        yield name, load_set(path / f"{name}.safetensors", real.shape, 10), kind, protocol


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_a_set_read_back_is_worth_what_it_was_to_the_bit(digits, tmp_path, form):
    real, manifest = digits
    for name, own, kind, protocol in sets(real, tmp_path):
        path = exported(tmp_path / f"{name}-{form}", form, own, real, manifest, protocol)
        again, notes = read_external(row(path, kind), real, protocol)
        assert not [note for note in notes if note.startswith("warning")]
        for given, got in zip(own, again):
            assert given is None and got is None or torch.equal(given, got), name
        before = accuracy(own, real, protocol)
        assert torch.equal(before, accuracy(again, real, protocol)) and before.mean() > 40, name


def test_pictures_read_back_are_worth_as_much_within_a_tenth_of_a_point(digits, tmp_path):
    """Values between black and white: PNG then rounds alone."""
    real, manifest = digits
    means = torch.stack([real.train_x[real.train_y == c].mean(0) for c in CLASSES])
    own = DistilledSet(means, torch.eye(10))
    path = exported(tmp_path / "a", "folder", own, real, manifest)
    again, _ = read_external(row(path, "classes"), real, SGD)
    assert torch.equal(again.y, own.y) and (again.x - own.x).abs().max() <= 0.5 / 255 / 0.376 + 1e-5
    assert accuracy(again, real, SGD).mean() == pytest.approx(accuracy(own, real, SGD).mean().item(), abs=0.1)


def test_torchvision_loads_the_folder_with_the_classes_in_order(digits, tmp_path):
    real, manifest = digits
    x = 3 * torch.randn(10, *real.shape, generator=generator(0, "x"))
    y = torch.eye(10)[[0, 0, 1, 3, 3, 5, 6, 7, 8, 9]] + 0.01
    out = exported(tmp_path / "a", "folder", DistilledSet(x, y), real, manifest)
    loaded = torchvision.datasets.ImageFolder(out, torchvision.transforms.ToTensor(), allow_empty=True)
    assert loaded.targets == y.argmax(1).tolist() and len(loaded.classes) == 10
    pixels = real.preprocess.invert(x.double()).float().clamp(0, 1)
    for (image, _), expected in zip(loaded, pixels):
        assert torch.allclose(image[:1], expected, atol=0.5 / 255 + 1e-6), "grey levels, three times"
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert torch.equal(torch.tensor([line["y"] for line in lines]), y)
    assert [line["label"] for line in lines] == loaded.targets
    assert [str(out / line["file_name"]) for line in lines] == [path for path, _ in loaded.samples]
    card, outside = (out / "README.md").read_text(), (pixels <= 0) | (pixels >= 1)
    assert f"{100 * outside.double().mean():.1f} % of the values" in card and "classes 2, 4 have no picture" in card
    assert "allow_empty=True" in card


def test_folders_of_classes_sort_as_their_labels(digits):
    names = [*"ba/c d", *map(str, range(20))]
    folders = class_folders({"num_classes": len(names), "class_names": names})
    assert folders == sorted(folders) and len(set(folders)) == len(names) and not any("/" in name for name in folders)
    assert class_folders({"num_classes": 2, "class_names": ["0", "1"]}) == ["0", "1"]


@pytest.mark.parametrize("zca, checkerboard", [("none", 1), ("frepo", 1), ("frepo", 2), ("mtt", 1), ("rat", 1)])
def test_the_cards_code_normalises_as_the_networks_see_images(tmp_path, zca, checkerboard):
    """The code that the card prints, run on the tensors of the export."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 3, 4, 4), np.uint8)
    mean, std = pixels.mean((0, 2, 3)) / 255, pixels.std((0, 2, 3)) / 255
    manifest = {"mean": mean.tolist(), "std": std.tolist(), "shape": [3, 4, 4], "num_classes": 2}
    manifest |= {"class_names": ["a", "b"], "source": "folder"}
    standardise = zca != "mtt"
    cfg = PARAMS.preprocessing["digits"].changed(
        mean=None, std=None, zca=zca, checkerboard=checkerboard, standardise=standardise
    )
    preprocess = fit(cfg, pixels, manifest)
    x = preprocess.apply(torch.from_numpy(pixels[:4]).float() / 255)
    own = DistilledSet(x, torch.eye(2)[[0, 0, 1, 1]])
    path = exported(tmp_path / "a", "safetensors", own, SimpleNamespace(preprocess=preprocess), manifest)
    names = {"torch": torch, "itertools": itertools, "s": load_file(path)}
    code = (path.parent / "README.md").read_text().split("```python\n")[2].split("```")[0]
    assert code.strip() == normalisation_code(preprocess)
    exec(code, names)
    tested = torch.from_numpy(pixels[100:150]).float() / 255
    assert torch.allclose(names["normalise"](tested), preprocess.apply(tested), atol=1e-4)
    if zca != "rat":  # which has no exact inverse
        assert torch.allclose(names["s"]["images"], torch.from_numpy(pixels[:4]).float() / 255, atol=1e-5)


def test_licences_are_of_known_sources_and_stand_on_the_card(digits, tmp_path):
    real, manifest = digits
    assert set(LICENCES) <= set(SOURCES) and all(entry.keys() == {"id", "text"} for entry in LICENCES.values())
    own = DistilledSet(real.train_x[:10], torch.eye(10))
    for source, words in (("digits", "CC BY 4.0"), ("usps", "Not stated here"), ("folder", "Not stated here")):
        out = tmp_path / source
        exported(out, "npz", own, real, manifest | {"source": source})
        card = (out / "README.md").read_text()
        front = yaml.safe_load(card.split("---")[1])
        assert words in card and front.get("license") == ("cc-by-4.0" if source == "digits" else None)
    with pytest.raises(FileError, match="is there already"):
        exported(out, "folder", own, real, manifest)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "folder", "usps"]


def test_the_command_writes_a_cell_and_says_in_one_sentence_why_not(digits, prepared, tmp_path, monkeypatch, capsys):
    real, key, text = digits[0], "digits-dm-digits-ipc1", "digits-sldd-topics-ipc1"
    for name in ("lib", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    edit(tmp_path, lambda p: p.update(cells={each: p["cells"][each] for each in (key, text)}, suites=["digits"]))
    edit(tmp_path, lambda p: p.update(continual={}, membership={}, scores={}, experts={}))
    (tmp_path / "data/prepared").mkdir(parents=True)
    (tmp_path / "data/prepared/digits").symlink_to(prepared("digits"))
    (tmp_path / "data/prepared/topics").symlink_to(prepared("topics"))
    real.preprocess.save(tmp_path / "data/preprocessing/digits.safetensors")

    command = [sys.executable, "-m", "stages", "export", key, "--to", "npz", "--seed", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == 1 and re.search(f"^error: .*`dvc repro distill@{key}`$", done.stderr.strip())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "export")  # the plan is there now

    def run(key, to, out=None, seed=None):
        try:
            common.run(partial(stage, to=to, out=out, seed=seed), "evaluate", key)
        except SystemExit as error:
            return str(error)
        return capsys.readouterr().out

    folder = tmp_path / "build/distill/digits"
    files = [folder / key / f"seed{seed}.safetensors" for seed in (0, 1)]
    for seed, path in enumerate(files):
        save_set(path, [{"x": real.train_x[:10] + seed, "y": torch.eye(10)}])
    write_history(files)
    assert "10 images" in run(key, "npz", "mine/set", 1)
    loaded = np.load(tmp_path / "mine/set/set.npz", allow_pickle=False)
    assert np.array_equal(loaded["x"], real.train_x[:10].numpy() + 1) and "Not measured" in card_of(
        tmp_path / "mine/set"
    )
    rows = {NET: {kind: {"accuracy": [[50.0, 60.0], [1.0, 1.0]]} for kind in ("distilled", "real_subset")}}
    record = {"cell": key, "seeds": [0, 1], "nets": rows, **MADE}
    write_metrics(tmp_path / f"build/evaluate/digits/{key}.json", {}, record)
    assert "build/export" in run(key, "folder")
    card = card_of(tmp_path / f"build/export/{key}-seed0-folder")
    assert f"| {NET} | 55.00 | 5.00 | 2 |" in card and "commit: abc" in card and "lr_img: " in card
    assert "found 7; " in run(key, "npz", seed=7)
    save_set(folder / text / "seed0.safetensors", [{"x": torch.zeros(4, 1, 2, 2), "y": torch.eye(4)}])
    write_history([folder / text / "seed0.safetensors"])
    assert "export writes images" in run(text, "npz")
    save_set(files[0], [{"x": real.train_x[:10] - 1, "y": torch.eye(10)}])
    assert re.search("seed0.safetensors: changed since its stage wrote it: found SHA-256", run(key, "npz"))


def write_history(files):
    """history.json beside distilled sets, as the distill stage leaves it."""
    run = {"history": [], "losses": [], "wall_s": 1.0}
    seeds = {str(i): {**MADE, "runs": [run], "files": {path.name: sha256(path)}} for i, path in enumerate(files)}
    write_record(files[0].with_name("history.json"), {"cell": "c", "identity": "i", "seeds": seeds})


def card_of(folder):
    return (folder / "README.md").read_text()
