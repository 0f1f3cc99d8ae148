"""Subsets of ImageNet-1K, laid out as its owners have it: sheets of MTT (1) and of EDF (2.1, 8, 11.14)."""

import io
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lib.config.load import load_params
from lib.config.models import Dataset
from lib.config.recipes import recipes
from lib.config.settings import Settings
from lib.data.imagenet import labels_of, read_subset, resized
from lib.data.prepare import prepare
from lib.data.sources import SUBSETS
from lib.files import FileError, read_json
from lib.methods.class_maps import activations
from lib.networks.pretrained import imagenet_resnet18

COMP_DD = ("birds", "cars", "dogs", "fish", "snake", "insect", "round", "music")  # each easy and hard


def jpeg(value, size=(20, 16)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255 - value)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_lists_are_the_published_ones():
    assert SUBSETS["imagenette"][0] == (0, "n01440764") and SUBSETS["imagenette"][-1] == (701, "n03888257")
    assert [name for name in SUBSETS if name.endswith(("_easy", "_hard"))] == [
        f"{c}_{d}" for c in COMP_DD for d in ("easy", "hard")
    ]
    for name, pairs in SUBSETS.items():
        doubled = {"music_hard": 9}.get(name, 9 if name.endswith("nine") else 10)
        assert len({index for index, _ in pairs}) == len({wnid for _, wnid in pairs}) == doubled
        assert sorted(pairs) == sorted(pairs, key=lambda pair: pair[1]), f"{name}: indices go as the ids do"
    by_id = {}
    for index, wnid in (pair for pairs in SUBSETS.values() for pair in pairs):
        assert by_id.setdefault(wnid, index) == index


def tree(folder, subset, train=3, val=2):
    for split, count in (("train", train), ("val", val)):
        for label, (_, wnid) in enumerate(SUBSETS[subset]):
            (folder / split / wnid).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (folder / split / wnid / f"{wnid}_{i}.JPEG").write_bytes(jpeg(20 * label + i))
    return folder


def found(folder, subset, split):
    return [(round(image[..., 0].mean()), label) for image, label in read_subset(folder, subset, split, 8, True)]


def test_folders_archives_and_kaggles_table_give_the_same(tmp_path):
    plain = tree(tmp_path / "plain", "fish_easy")
    train, val = (found(plain, "fish_easy", split) for split in ("train", "test"))
    assert [label for _, label in train] == [c for c in range(10) for _ in range(3)] and len(val) == 20
    assert all(abs(value - 20 * label) <= 5 for value, label in train), "each picture has its own class's label"
    kaggle = tmp_path / "kaggle"
    (kaggle / "ILSVRC/Data/CLS-LOC").mkdir(parents=True)
    (plain / "train").rename(kaggle / "ILSVRC/Data/CLS-LOC/train")
    flat = kaggle / "ILSVRC/Data/CLS-LOC/val"
    flat.mkdir()
    rows, tars = ["ImageId,PredictionString"], tmp_path / "tars"
    tars.mkdir()
    pictures = []
    for n, path in enumerate(sorted((plain / "val").rglob("*.JPEG"), reverse=True)):
        name = f"ILSVRC2012_val_{n:08}"
        (flat / f"{name}.JPEG").write_bytes(path.read_bytes())
        pictures.append((f"{name}.JPEG", path.read_bytes()))
        rows.append(f"{name},{path.parent.name} 1 2 3 4 n99999999 5 6 7 8")
    for folder in (kaggle, tars):
        (folder / "LOC_val_solution.csv").write_text("\n".join(rows))
    assert found(kaggle, "fish_easy", "train") == train and sorted(found(kaggle, "fish_easy", "test")) == sorted(val)
    with tarfile.open(tars / "ILSVRC2012_img_val.tar", "w") as archive:
        add(archive, pictures)
    with tarfile.open(tars / "ILSVRC2012_img_train.tar", "w") as archive:
        for folder in sorted((kaggle / "ILSVRC/Data/CLS-LOC/train").iterdir()):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as each:
                add(each, [(p.name, p.read_bytes()) for p in sorted(folder.iterdir())])
            add(archive, [(f"{folder.name}.tar", inner.getvalue())])
    for split, expected in (("train", train), ("test", val)):
        assert sorted(found(tars, "fish_easy", split)) == sorted(expected)


def add(archive, files):
    for name, data in files:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileError, match="imagenet_dir"):
        found(None, "imagenette", "train")
    with pytest.raises(FileError, match=r"looked for .*train/WNID.*CLS-LOC/train/WNID.*ILSVRC2012_img_train.tar"):
        found(tmp_path, "imagenette", "train")
    tree(tmp_path, "imagenette")
    for path in (tmp_path / "train/n02979186").iterdir():
        path.unlink()
    (tmp_path / "train/n02979186").rmdir()
    with pytest.raises(FileError, match="no folder of n02979186"):
        found(tmp_path, "imagenette", "train")
    (tmp_path / "val/n01440764/x.JPEG").write_bytes(b"no picture")
    with pytest.raises(FileError, match="x.JPEG: not a readable picture"):
        found(tmp_path, "imagenette", "test")


@pytest.mark.parametrize("antialias", [True, False])
def test_pictures_are_resized_to_a_square(antialias):
    gen = np.random.default_rng(0)
    image = Image.fromarray(gen.integers(0, 256, (30, 50, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    small = resized(buffer.getvalue(), 16, antialias, "x")
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double()
    expected = F.interpolate(x, (16, 16), mode="bilinear", antialias=antialias)[0].permute(1, 2, 0)
    assert small.shape == (16, 16, 3) and np.abs(small - expected.numpy()).max() <= 1e-3, "and not rounded"


def test_every_list_of_comp_dd_is_prepared_from_one_tree(tmp_path):
    for category in COMP_DD:
        for difficulty in ("easy", "hard"):
            tree(tmp_path / "in", f"{category}_{difficulty}", train=1, val=1)
    assert len(list((tmp_path / "in/train").iterdir())) == len(
        {w for c in COMP_DD for d in ("easy", "hard") for _, w in SUBSETS[f"{c}_{d}"]}
    )
    for subset, classes in (
        ("round_hard", list(range(10))),
        ("music_hard", list(range(1, 10))),
        ("music_hard_nine", list(range(9))),
    ):
        prepare(
            subset,
            Dataset(resolution=8, subset=subset),
            tmp_path / subset,
            tmp_path / "downloads",
            imagenet=tmp_path / "in",
        )
        manifest = read_json(tmp_path / subset / "manifest.json")
        assert manifest["classes"] == classes and manifest["imagenet"] == [index for index, _ in SUBSETS[subset]]
        assert manifest["num_train"] == len(classes) and manifest["num_classes"] == max(classes) + 1
    assert labels_of("music_hard")["n02787622"] == 2, "of a class named twice, the later label"


def test_real_pictures_of_imagenette(archives, tmp_path):
    with tarfile.open(archives / "imagenette/imagenette2-224-subset.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    prepare(
        "nette",
        Dataset(resolution=16, subset="imagenette"),
        tmp_path / "out",
        tmp_path / "downloads",
        imagenet=tmp_path / "imagenette2-224",
    )
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["class_counts"] == [65] * 10 and manifest["num_test"] == 250
    assert all(0.2 < mean < 0.7 for mean in manifest["mean"])


def test_imagenets_network_is_taken_from_torchvisions_own_file_alone(tmp_path):
    with pytest.raises(FileError, match="resnet18-f37072fd.pth: not found.*judge: experts"):
        imagenet_resnet18(tmp_path)
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"something else")
    with pytest.raises(FileError, match="not torchvision's file"):
        imagenet_resnet18(tmp_path)


def test_complexity_of_a_subsets_classes(tmp_path, monkeypatch, capsys):
    """The stage, with a network of random weights in the place of torchvision's file, on classes of known pictures."""
    from torchvision.models import resnet18

    from stages import complexity

    params, name = load_params(), "in1k_birds_easy"
    tree(tmp_path / "in", "birds_easy", train=2, val=1)
    prepare(
        name,
        Dataset(resolution=32, subset="birds_easy"),
        tmp_path / "data/prepared" / name,
        tmp_path / "downloads",
        imagenet=tmp_path / "in",
    )
    torch.manual_seed(0)
    monkeypatch.setattr(complexity, "imagenet_resnet18", lambda archives: resnet18())
    monkeypatch.chdir(tmp_path)
    complexity.stage(Settings.of(recipes(params)["prepare"][name]), params.runtime)
    found = read_json(tmp_path / f"build/evaluate/complexity/{name}.json")
    assert list(found["classes"]) == [str(c) for c in range(10)] and found["images"] == 20 and found["resolution"] == 32
    assert all(0 < value < 100 for value in found["classes"].values()) and found["mean"] == pytest.approx(
        sum(found["classes"].values()) / 10, abs=0.06
    )
    assert "published: 66.0" in capsys.readouterr().out


def test_class_maps_take_torchvisions_last_layer():
    from torchvision.models import resnet18

    last, gradient = activations(resnet18().eval(), torch.randn(2, 3, 64, 64), torch.tensor([3, 999]))
    assert last.shape == gradient.shape == (2, 512, 2, 2) and (last >= 0).all()
    assert torch.allclose(gradient, gradient[:, :, :1, :1].expand_as(gradient)), (
        "before a global average it is the same everywhere"
    )
