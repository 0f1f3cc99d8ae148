"""Data: download, verification, readers and preparation, on real archives where at hand and on small ones made here."""

import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from lib.config.load import load_params
from lib.config.models import Dataset
from lib.data import READERS, readers
from lib.data.archives import gunzip, members
from lib.data.prepare import prepare
from lib.data.real import load_arrays, load_real
from lib.data.sources import Archive, download, locate, verify
from lib.files import FileError, read_json
from lib.rng import generator
from lib.training.batches import Batches, ClassBatches


def made(path, data):
    """An Archive that describes `data`, which is written to `path` unless that is None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Archive("file.bin", None, len(data), "sha256:" + hashlib.sha256(data).hexdigest())


def tar_gz(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


def picture_bytes(value, size=(20, 16), fmt="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, value).save(buffer, fmt)
    return buffer.getvalue()


# Download


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `data`, honours ranges, and records what was asked for."""

    data, asked, cut = b"", [], None

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        type(self).asked.append(start)
        body = self.data[start : self.cut]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.asked, Server.cut, Server.data = [], None, os.urandom(3 << 20)
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{http_server.server_port}/file.bin"
    yield Archive("file.bin", url, len(Server.data), "sha256:" + hashlib.sha256(Server.data).hexdigest())
    http_server.shutdown()


def test_download_is_verified_and_not_repeated(server, tmp_path):
    path = download(server, tmp_path)
    assert path.read_bytes() == Server.data and Server.asked == [0]
    assert download(server, tmp_path) == path and Server.asked == [0]


def test_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    Server.cut = 1 << 20
    with pytest.raises(FileError, match="could not be downloaded.*goes on from there"):
        download(server, tmp_path)
    have = (tmp_path / "file.bin.part").stat().st_size
    Server.cut = None
    assert 0 < have < len(Server.data)
    assert download(server, tmp_path).read_bytes() == Server.data and Server.asked == [0, have]


def test_wrong_bytes_from_the_network_are_refused_and_dropped(server, tmp_path):
    with pytest.raises(FileError, match="not the published file"):
        download(replace(server, digest="sha256:" + "0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_network_says_what_to_do(tmp_path):
    started = time.monotonic()
    with pytest.raises(FileError, match="DISTILLERY_ARCHIVES"):
        download(Archive("x.zip", "http://127.0.0.1:9/x.zip", 5, "md5:0"), tmp_path)
    assert time.monotonic() - started < 5


def test_own_copies_are_verified_and_used_in_place(tmp_path):
    data = b"published"
    source = {"family": "mnist", "archives": [vars(made(tmp_path / "own/mnist/file.bin", data))]}
    assert locate(source, tmp_path / "dl", tmp_path / "own") == ([tmp_path / "own/mnist/file.bin"], False)
    (tmp_path / "own/mnist/file.bin").write_bytes(b"something")
    with pytest.raises(FileError, match="file.bin: sha256 is .* expected"):
        locate(source, tmp_path / "dl", tmp_path / "own")
    assert not (tmp_path / "dl").exists()


def test_truncated_and_foreign_files_are_told_apart(tmp_path):
    archive = made(None, b"0123456789")
    for data, word in (
        (b"01234", "has 5 bytes, expected 10 .truncated"),
        (b"0123456789ab", "not the published file"),
        (b"9876543210", "sha256 is"),
    ):
        (tmp_path / "file.bin").write_bytes(data)
        with pytest.raises(FileError, match=word):
            verify(tmp_path / "file.bin", archive)


# Archives


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/passwd", "a/../../x", "..\\x"])
@pytest.mark.parametrize("pack", [tar_gz, zipped])
def test_names_that_leave_the_folder_are_refused(tmp_path, name, pack):
    (tmp_path / "a").write_bytes(pack([("fine.txt", b"1"), (name, b"2")]))
    with pytest.raises(FileError, match="outside of its folder"):
        list(members(tmp_path / "a", 1000))


def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    (tmp_path / "bomb.tgz").write_bytes(tar_gz([("zeros", bytes(10 << 20))]))
    with pytest.raises(FileError, match="unpacks to more than"):
        list(members(tmp_path / "bomb.tgz", 1 << 20))
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(10 << 20)))
    with pytest.raises(FileError, match="more than 100 bytes, expected 100"):
        gunzip(tmp_path / "bomb.gz", 100)


@pytest.mark.parametrize("data", [tar_gz([("a", os.urandom(9000))])[:5000], b"no archive at all", b""])
def test_damaged_archives_are_refused(tmp_path, data):
    (tmp_path / "a.tgz").write_bytes(data)
    with pytest.raises(FileError, match="not a complete archive"):
        list(members(tmp_path / "a.tgz", 1 << 30))


def test_pictures_are_cropped_to_their_centre_and_averaged():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = np.arange(4)[:, None, None] * 60  # the central square; the rest must not count
    image[:, :2] = image[:, 6:] = 255
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    assert (readers.picture(buffer.getvalue(), 2, "x")[:, :, 0] == [[30, 30], [150, 150]]).all()


@pytest.mark.parametrize("size, resolution", [(160, 128), (500, 32), (20, 32), (28, 28)])
def test_resizing_averages_by_exact_area(size, resolution):
    """Against the mean over a grid that both sides divide; and the deviation that it leaves of white noise."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    found = readers.picture(buffer.getvalue(), resolution, "x")
    fine = noise[:, :, 0].astype(float).repeat(resolution, 0)  # each pixel `resolution` times, then means of `size`
    fine = fine.reshape(resolution, size, size).mean(1).repeat(resolution, 1).reshape(resolution, resolution, size)
    assert np.abs(found[:, :, 0] - fine.mean(2)).max() <= 0.51
    if (size, resolution) == (160, 128):
        assert (found / 255).std() == pytest.approx(0.174, abs=0.003)


@pytest.mark.parametrize("data", [b"not a picture", b"", picture_bytes((9, 9, 9))[:150]])
def test_unreadable_pictures_are_named(data):
    with pytest.raises(FileError, match="cat/7.jpg: not a readable picture"):
        readers.picture(data, 8, "cat/7.jpg")


# Readers of the formats that cannot be had offline, on archives of the same layout


def read_all(source, path, split, resolution, packed=False):
    return list(READERS[source]([path] if isinstance(path, Path) else path, packed, split, resolution))


def test_cifar_records(tmp_path):
    rng = np.random.default_rng(0)
    images, fine = rng.integers(0, 256, (6, 3, 32, 32), np.uint8), np.array([3, 99, 7, 0, 50, 42], np.uint8)
    records = b"".join(bytes([c % 20, c]) + x.tobytes() for c, x in zip(fine, images))
    path = tmp_path / "c.tgz"
    path.write_bytes(
        tar_gz(
            [("cifar-100-binary/train.bin", records[: 4 * 3074]), ("cifar-100-binary/test.bin", records[4 * 3074 :])]
        )
    )
    got = read_all("cifar100", path, "train", 32) + read_all("cifar100", path, "test", 32)
    assert [y for _, y in got] == fine.tolist()
    assert all((x == images[i].transpose(1, 2, 0)).all() for i, (x, _) in enumerate(got))


def test_svhn_layout(tmp_path):
    """MATLAB files of columns-last images, in which the digit 0 has the label 10."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (7, 32, 32, 3), np.uint8), np.array([1, 10, 9, 2, 10, 5, 3], np.uint8)
    for i, name in enumerate(("train_32x32.mat", "test_32x32.mat")):
        savemat(tmp_path / name, {"X": x[i * 4 : i * 4 + 4].transpose(1, 2, 3, 0), "y": y[i * 4 : i * 4 + 4, None]})
    files = [tmp_path / "train_32x32.mat", tmp_path / "test_32x32.mat"]
    got = [pair for split in ("train", "test") for pair in READERS["svhn"](files, False, split, 32)]
    assert all(np.array_equal(image, own) for (image, _), own in zip(got, x))
    assert [label for _, label in got] == [1, 0, 9, 2, 0, 5, 3]
    savemat(files[0], {"Z": x})
    for damage in (None, b"MATLAB 5.0 MAT-file" + bytes(200)):
        if damage:
            files[0].write_bytes(damage)
        with pytest.raises(FileError, match="train_32x32.mat: not a MATLAB file of X and y"):
            list(READERS["svhn"](files, False, "train", 32))


def test_tiny_imagenet_layout(tmp_path):
    root, files = "tiny-imagenet-200", []
    files.append((f"{root}/wnids.txt", b"n02\nn01\n"))
    for wnid, value in (("n01", 10), ("n02", 200)):
        files.append((f"{root}/train/{wnid}/images/{wnid}_0.JPEG", picture_bytes((value,) * 3, (64, 64))))
        files.append((f"{root}/train/{wnid}/{wnid}_boxes.txt", b"x"))
    files.append((f"{root}/val/images/val_0.JPEG", picture_bytes((200,) * 3, (64, 64))))
    files.append((f"{root}/val/val_annotations.txt", b"val_0.JPEG\tn02\t0\t0\t1\t1\n"))
    path = tmp_path / "tiny.zip"
    path.write_bytes(zipped(files))
    assert [(int(x.mean().round()), y) for x, y in read_all("tiny_imagenet", path, "train", 64)] == [(10, 0), (200, 1)]
    assert [(int(x.mean().round()), y) for x, y in read_all("tiny_imagenet", path, "test", 64)] == [(200, 1)]
    assert readers.class_names("tiny_imagenet", [path]) == ["n01", "n02"]


def test_imagenette_layout_and_caltech_birds(tmp_path):
    path = tmp_path / "i.tgz"
    path.write_bytes(
        tar_gz(
            [
                (f"imagenette2-160/{s}/{w}/{w}_1.JPEG", picture_bytes((v,) * 3))
                for s in ("train", "val")
                for w, v in (("n1", 50), ("n2", 99))
            ]
        )
    )
    for split in readers.SPLITS:
        assert [(int(x.mean().round()), y, x.shape) for x, y in read_all("imagenette", path, split, 8)] == [
            (50, 0, (8, 8, 3)),
            (99, 1, (8, 8, 3)),
        ]
    lists = {
        "images.txt": "1 001.A/a.jpg\n2 002.B/b.jpg\n",
        "image_class_labels.txt": "1 1\n2 2\n",
        "train_test_split.txt": "1 1\n2 0\n",
        "classes.txt": "1 001.A\n2 002.B\n",
    }
    files = [(f"CUB_200_2011/{k}", v.encode()) for k, v in lists.items()]
    files += [
        (f"CUB_200_2011/images/{n}", picture_bytes((v,) * 3)) for n, v in (("001.A/a.jpg", 30), ("002.B/b.jpg", 60))
    ]
    path.write_bytes(tar_gz(files))
    assert [
        (int(x.mean().round()), y) for s in readers.SPLITS for x, y in read_all("caltech_birds2011", path, s, 8)
    ] == [(30, 0), (60, 1)]
    assert readers.class_names("caltech_birds2011", [path]) == ["001.A", "002.B"]


def test_imagenet_resized_layout(tmp_path):
    rng = np.random.default_rng(0)
    images, paths = rng.integers(0, 256, (3, 3, 64, 64), np.uint8), []
    for i, name in enumerate(("train_data_batch_1", "train_data_batch_2", "val_data")):
        buffer = io.BytesIO()
        np.savez(buffer, data=images[i].reshape(1, -1), labels=np.array([i + 1]))
        paths.append(tmp_path / f"{i}.zip")
        paths[-1].write_bytes(zipped([(f"{name}.npz", buffer.getvalue())]))
    got = read_all("imagenet_resized", paths, "train", 64) + read_all("imagenet_resized", paths, "test", 64)
    assert [y for _, y in got] == [0, 1, 2] and all(
        (x == images[i].transpose(1, 2, 0)).all() for i, (x, _) in enumerate(got)
    )


# Preparation, through tensorflow-datasets


def test_a_grey_source_comes_in_three_equal_channels_where_that_is_asked_for(tmp_path, prepared):
    prepare("digits_rgb", Dataset(source="digits", resolution=8, channels=3), tmp_path / "rgb", tmp_path)
    (x, y), (grey, labels) = load_arrays(tmp_path / "rgb", "train"), load_arrays(prepared("digits"), "train")
    assert x.shape == (1297, 3, 8, 8) and read_json(tmp_path / "rgb/manifest.json")["shape"] == [3, 8, 8]
    assert (x == grey).all() and (y == labels).all()


def test_digits_prepared_whole_and_in_order(tmp_path):
    from sklearn.datasets import load_digits

    prepare("digits", load_params().datasets["digits"], tmp_path / "digits", tmp_path)
    (train_x, train_y), (test_x, test_y) = (load_arrays(tmp_path / "digits", s) for s in readers.SPLITS)
    bunch = load_digits()
    assert len(train_y) == 1297 and len(test_y) == 500
    assert (np.concatenate([train_y, test_y]) == bunch.target).all()
    assert np.abs(np.concatenate([train_x, test_x])[:, 0] / 255 - bunch.images / 16).max() < 0.5 / 255 + 1e-6
    manifest = read_json(tmp_path / "digits/manifest.json")
    assert (
        manifest["shape"] == [1, 8, 8]
        and manifest["num_classes"] == 10
        and set(manifest["sha256"]) == {f"{s}_{l}.npy" for s in readers.SPLITS for l in "xy"}
    )
    assert manifest["mean"][0] == pytest.approx(0.3053, abs=1e-3) and manifest["std"][0] == pytest.approx(
        0.3760, abs=1e-3
    )


def own_folder(root, layout):
    for i, path in enumerate(layout):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture_bytes((i % 256,) * 3, fmt="PNG"))


@pytest.mark.parametrize("splits", [["train", "test"], ["train", "val"], [""]])
def test_a_folder_of_class_folders_is_a_dataset(tmp_path, splits):
    own_folder(tmp_path / "mine", [Path(s) / c / f"{i}.png" for s in splits for c in ("cat", "dog") for i in range(5)])
    prepare("my-set", Dataset(resolution=8, folder=str(tmp_path / "mine")), tmp_path / "out", tmp_path)
    manifest = read_json(tmp_path / "out/manifest.json")
    assert manifest["class_names"] == ["cat", "dog"] and manifest["shape"] == [3, 8, 8]
    assert (manifest["num_train"], manifest["num_test"]) == ((8, 2) if splits == [""] else (10, 10))


@pytest.mark.parametrize(
    "layout, words",
    [
        (["cat/1.png"], "holds 1 class folder"),
        (["cat/1.png", "dog/readme.txt.bak"], "dog: no pictures"),
        (["cat/1.png", "dog/1.png"], "too few pictures"),
    ],
)
def test_folders_that_are_no_dataset(tmp_path, layout, words):
    own_folder(tmp_path / "mine", layout)
    with pytest.raises(FileError, match=words):
        prepare("mine", Dataset(resolution=8, folder=str(tmp_path / "mine")), tmp_path / "out", tmp_path)
    with pytest.raises(FileError, match="no such folder"):
        prepare("mine", Dataset(resolution=8, folder=str(tmp_path / "absent")), tmp_path / "out", tmp_path)


def test_held_out_images_come_from_the_training_set_as_many_of_each_class(tmp_path, prepared):
    whole_x, whole_y = load_arrays(prepared("digits"), "train")
    dataset = Dataset(source="digits", resolution=8, held_out=300)
    prepare("held", dataset, tmp_path / "held", tmp_path)
    (train_x, train_y), (test_x, test_y) = (load_arrays(tmp_path / "held", split) for split in ("train", "test"))
    assert np.bincount(test_y).tolist() == [30] * 10 and len(train_x) == len(whole_x) - 300
    both = np.concatenate([train_x, test_x])
    order, expected = (np.lexsort(x.reshape(len(x), -1).T) for x in (both, whole_x))
    assert (both[order] == whole_x[expected]).all(), "every training image once, and no test image"
    assert (np.concatenate([train_y, test_y])[order] == whole_y[expected]).mean() > 0.99
    manifest = read_json(tmp_path / "held" / "manifest.json")
    assert (manifest["num_train"], manifest["num_test"]) == (997, 300)
    prepare("again", dataset, tmp_path / "again", tmp_path)
    assert (load_arrays(tmp_path / "again", "test")[0] == test_x).all()


def test_a_split_of_the_wrong_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "DIGITS_TRAIN", 1000)
    with pytest.raises(FileError, match=r"digits: \[1000, 797\] train and test examples"):
        prepare("digits", load_params().datasets["digits"], tmp_path / "digits", tmp_path)


def idx_arrays(folder, images, labels):
    """An independent reading of MNIST's format."""
    with gzip.open(folder / images) as f:
        x = np.array(bytearray(f.read())[16:], np.uint8).reshape(-1, 1, 28, 28)
    with gzip.open(folder / labels) as f:
        return x, np.array(list(f.read()[8:]))


def test_mnist_and_fashion_mnist_do_not_mix_although_their_files_share_names(tmp_path, archives):
    """The trap: the same file names in one data folder. Arrays against an independent reading of the archives."""
    for name in ("mnist", "fashion_mnist"):
        prepare(name, load_params().datasets[name], tmp_path / name, tmp_path / "dl", archives)
        for split, prefix in (("train", "train"), ("test", "t10k")):
            x, y = load_arrays(tmp_path / name, split)
            expected_x, expected_y = idx_arrays(
                archives / name, f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"
            )
            assert (x == expected_x).all() and (y == expected_y).all()
    assert not (tmp_path / "dl").exists(), "own copies are read in place"


def test_cifar10_prepared_from_its_packed_copy_equals_an_independent_reading(prepared, archives):
    """Against the sha256 that the copy's makers give of the published records, label byte and planes."""
    folder = prepared("cifar10", archives)
    x, y = load_arrays(folder, "train")
    batch = b"".join(bytes([label]) + image.tobytes() for label, image in zip(y[:10000], x[:10000]))
    assert hashlib.sha256(batch).hexdigest() == "0def081c410489f98b3935c2d405fc7436d23377894a5d6a710ce1fad8082588"
    x, y = load_arrays(folder, "test")
    batch = b"".join(bytes([label]) + image.tobytes() for label, image in zip(y, x))
    assert hashlib.sha256(batch).hexdigest() == "b7a8afae140bbcc0153185efcbd5d6b73bc11a49943288e23ba94c44c391c169"
    manifest = read_json(folder / "manifest.json")
    assert manifest["repacked"] and manifest["mean"] == pytest.approx([0.49139966, 0.48215827, 0.44653080], abs=1e-6)


# On the device


def test_real_set_is_standardised_with_the_training_sets_constants(tmp_path):
    from lib.data.preprocess import fit

    params = load_params()
    prepare("digits", params.datasets["digits"], tmp_path / "digits", tmp_path)
    pixels, _ = load_arrays(tmp_path / "digits", "train")
    fit(params.preprocessing["digits"], pixels, {}).save(tmp_path / "p.safetensors")
    real = load_real(tmp_path / "digits", tmp_path / "p.safetensors", "cpu")
    assert real.shape == (1, 8, 8) and real.num_classes == 10 and real.train_x.dtype == torch.float32
    assert real.train_x.mean().abs() < 0.01 and (real.train_x.std() - 1).abs() < 0.01
    assert torch.allclose(
        real.preprocess.invert(real.test_x) * 255,
        torch.from_numpy(np.array(load_arrays(tmp_path / "digits", "test")[0])).float(),
        atol=1e-3,
    )


def test_batches_see_every_image_once_per_epoch_and_resume_bit_for_bit():
    batches = Batches((torch.arange(10), torch.arange(10) * 2), 4, generator(0, "b"))
    drawn, doubled = (torch.cat(column) for column in zip(*(batches.next() for _ in range(5))))
    assert torch.equal(drawn * 2, doubled)
    assert sorted(drawn[:10].tolist()) == list(range(10)) == sorted(drawn[10:].tolist())
    state = batches.state_dict()
    after = [batches.next()[0] for _ in range(5)]
    again = Batches(batches.tensors, 4, generator(99, "other"))
    again.load_state_dict(state)
    assert all(torch.equal(a, again.next()[0]) for a in after)


def test_class_batches_hold_distinct_images_of_each_class_and_resume_bit_for_bit():
    y = torch.tensor([3] * 5 + [0] * 9 + [7] * 6)
    batches = ClassBatches(torch.arange(20.0), y, [0, 3, 7], 5, generator(0, "b"))
    for _ in range(10):
        x, chosen = batches.next()
        assert x is batches.x and torch.equal(y[chosen], torch.tensor([0, 3, 7])[:, None].expand(3, 5))
        assert all(len(set(row)) == 5 for row in chosen.tolist())
    smaller = ClassBatches(torch.arange(20.0), y, [0, 3, 7], 2, generator(0, "b")).next()[1]
    assert smaller.shape == (3, 5), "the batch, and others of the class"
    state, after = batches.state_dict(), batches.next()[1]
    again = ClassBatches(torch.arange(20.0), y, [0, 3, 7], 5, generator(1, "b"))
    again.load_state_dict(state)
    assert torch.equal(after, again.next()[1])


@pytest.mark.parametrize(
    "name, words", [("train_x.npy", "train_x.npy: changed since"), ("manifest.json", "not valid JSON")]
)
def test_damaged_prepared_files_are_named(tmp_path, name, words):
    from lib.data.preprocess import fit

    prepare("digits", load_params().datasets["digits"], tmp_path / "digits", tmp_path)
    pixels, _ = load_arrays(tmp_path / "digits", "train")
    fit(load_params().preprocessing["digits"], pixels, {}).save(tmp_path / "p.safetensors")
    (tmp_path / "digits" / name).write_bytes(b"\x00garbage")
    with pytest.raises(FileError, match=words):
        load_real(tmp_path / "digits", tmp_path / "p.safetensors", "cpu")
