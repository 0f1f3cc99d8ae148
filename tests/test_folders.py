"""A user's own folder of pictures: every mode of Pillow, splits by name, and what is refused, left out and said."""

import io
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.config.models import Dataset
from lib.data.folders import picture_folder
from lib.data.pictures import Seen, understood
from lib.data.prepare import prepare
from lib.data.readers import picture
from lib.data.real import load_arrays
from lib.files import FileError, read_json

from .toy import ENV, clone, edit

WHITE, GREY = (255, 255, 255), (100, 100, 100)


def saved(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def pixels(mode, *values):
    """A square of 2x2 pixels of these values, two or four of them."""
    image = Image.new(mode, (2, 2))
    for i in range(4):
        image.putpixel((i % 2, i // 2), values[i % len(values)])
    return image


def tiff(numbers, bits, photometric, sample_format=1):
    """The bytes of a TIFF of 2x2 grey pixels, written by hand: Pillow writes neither of these kinds."""
    if bits == 12:
        data = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in (numbers[:2], numbers[2:]))
    else:
        data = struct.pack("<4H", *numbers)
    tags = {256: 2, 257: 2, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 2, 279: len(data)}
    tags[339] = sample_format
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def png16(colours, transparent):
    """The bytes of a PNG of 2x2 pixels of 16-bit colours, of which one is transparent."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">6H", *a, *b) for a, b in (colours[:2], colours[2:]))
    head = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", struct.pack(">3H", *transparent)), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


def palette(mode="P"):
    image = pixels(mode, *([0, 1] if mode == "P" else [(0, 255), (1, 51)]))
    image.putpalette([10, 20, 30, 200, 100, 50])
    return image


SHAPE = pixels("RGBA", (0, 0, 0, 0), (0, 0, 0, 255))  # all of it is in its alpha
FILES = {  # what: (bytes of 2x2 pixels, the colours of the first two of them)
    "1": (saved(pixels("1", 0, 1), "PNG"), [(0, 0, 0), WHITE]),
    "L": (saved(pixels("L", 7, 100), "PNG"), [(7, 7, 7), GREY]),
    "L, GIF": (saved(pixels("L", 7, 100), "GIF"), [(7, 7, 7), GREY]),
    "L, BMP": (saved(pixels("L", 7, 100), "BMP"), [(7, 7, 7), GREY]),
    "L, one value transparent": (saved(pixels("L", 7, 100), "PNG", transparency=7), [WHITE, GREY]),
    "LA": (saved(pixels("LA", (100, 255), (0, 51)), "PNG"), [GREY, (204, 204, 204)]),
    "LA, TIFF": (saved(pixels("LA", (100, 255), (0, 51)), "TIFF"), [GREY, (204, 204, 204)]),
    "P": (saved(palette(), "PNG"), [(10, 20, 30), (200, 100, 50)]),
    "P, one value transparent": (saved(palette(), "PNG", transparency=0), [WHITE, (200, 100, 50)]),
    "P, alphas": (saved(palette(), "PNG", transparency=b"\xff\x33"), [(10, 20, 30), (244, 224, 214)]),
    "P, transparent GIF": (saved(palette(), "GIF", transparency=1), [(10, 20, 30), WHITE]),
    "PA": (saved(palette("PA"), "TIFF"), [(10, 20, 30), (244, 224, 214)]),
    "RGB": (saved(pixels("RGB", (1, 2, 3), GREY), "PNG"), [(1, 2, 3), GREY]),
    "RGB, one colour transparent": (
        saved(pixels("RGB", (1, 2, 3), GREY), "PNG", transparency=GREY),
        [(1, 2, 3), WHITE],
    ),
    "RGB of 16 bits": (png16([(257, 514, 771), (65535, 0, 0)] * 2, (65535, 0, 0)), [(1, 2, 3), WHITE]),
    "RGBA": (saved(SHAPE, "PNG"), [WHITE, (0, 0, 0)]),
    "RGBA, WEBP": (saved(SHAPE, "WEBP", lossless=True, exact=True), [WHITE, (0, 0, 0)]),
    "RGBA, opaque": (saved(pixels("RGBA", (1, 2, 3, 255)), "PNG"), [(1, 2, 3)] * 2),
    "RGBX": (saved(pixels("RGBX", (1, 2, 3, 0)), "TIFF"), [(1, 2, 3)] * 2),
    "CMYK": (saved(pixels("CMYK", (0, 0, 0, 0), (255, 0, 0, 51)), "TIFF"), [WHITE, (0, 204, 204)]),
    "CMYK, JPEG": (saved(pixels("CMYK", (0, 0, 0, 0)), "JPEG"), [WHITE] * 2),
    "YCbCr": (saved(pixels("YCbCr", (76, 85, 255), (100, 128, 128)), "TIFF"), [(254, 0, 0), GREY]),
    "I of 8 bits": (saved(pixels("I", 0, 100), "TIFF"), [(0, 0, 0), GREY]),
    "I of 16 bits": (saved(pixels("I", 25700, 65535), "TIFF"), [GREY, WHITE]),
    "I, PPM": (b"P5 2 2 1023\n" + struct.pack(">4H", 0, 1023, 0, 1023), [(0, 0, 0), WHITE]),
    "I;16": (saved(pixels("I;16", 25700, 65535), "PNG"), [GREY, WHITE]),
    "I;16, one value transparent": (saved(pixels("I;16", 25700, 9), "PNG", transparency=9), [GREY, WHITE]),
    "I;16, TIFF": (saved(pixels("I;16", 25700, 65535), "TIFF"), [GREY, WHITE]),
    "I;16B": (saved(pixels("I;16B", 25700, 65535), "TIFF"), [GREY, WHITE]),
    "I;16, 0 is white": (tiff([0, 65535 - 25700] * 2, 16, 0), [WHITE, GREY]),
    "12 bits": (tiff([0, 4095] * 2, 12, 1), [(0, 0, 0), WHITE]),
    "F to 1": (saved(pixels("F", 0.0, 100 / 255), "TIFF"), [(0, 0, 0), GREY]),
    "F to 255": (saved(pixels("F", 100.2, 255.0), "TIFF"), [GREY, WHITE]),
    "F, PFM": (b"Pf 2 2 -1.0\n" + struct.pack("<4f", 0, 1, 0, 1), [(0, 0, 0), WHITE]),
}


@pytest.mark.parametrize("what", FILES)
def test_a_picture_of_any_mode_shows_what_it_shows_elsewhere(what):
    data, colours = FILES[what]
    found = picture(data, 2, "x")
    assert found.dtype == np.uint8 and found[0].tolist() == found[1].tolist() == [list(colour) for colour in colours]


@pytest.mark.parametrize(
    "image, colours",
    [
        (pixels("La", (100, 255), (0, 51)), [GREY, (204, 204, 204)]),
        (pixels("RGBa", (100, 100, 100, 255), (0, 0, 0, 51)), [GREY, (204, 204, 204)]),
        (pixels("HSV", (0, 255, 200), (85, 255, 255)), [(200, 0, 0), (0, 255, 0)]),
        (pixels("RGBX", (1, 2, 3, 9)), [(1, 2, 3)] * 2),
        *((pixels(f"I;16{order}", 25700, 65535), [GREY, WHITE]) for order in ("", "L", "B", "N")),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_modes_that_formats_do_not_keep_are_understood_too(image, colours):
    assert np.asarray(understood(image, "x", Seen()))[0].tolist() == [list(colour) for colour in colours]


def test_lab_is_read_as_its_colours():
    """CIE L*a*b* under D50: sRGB's red is (54.3, 80.8, 69.9); L* of a grey from its definition. 8 bits: within 5."""
    luminance = ((100 / 255 + 0.055) / 1.055) ** 2.4
    grey = 116 * luminance ** (1 / 3) - 16
    image = pixels("LAB", (round(54.3 * 2.55), 128 + 81, 128 + 70), (round(grey * 2.55), 128, 128))
    found = picture(saved(image, "TIFF"), 2, "x").astype(int)
    assert np.abs(found[0] - [(255, 0, 0), GREY]).max() <= 5


@pytest.mark.parametrize("mode, fmt", [("L", "PNG"), ("L", "JPEG"), ("RGB", "PNG"), ("RGB", "JPEG"), ("CMYK", "JPEG")])
def test_plain_pictures_are_read_as_ever(mode, fmt):
    shape = (12, 12) if mode == "L" else (12, 12, len(mode))
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    data = saved(Image.fromarray(noise, mode), fmt)
    assert (picture(data, 12, "x") == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


@pytest.mark.parametrize(
    "image, words",
    [
        (pixels("F", -0.1, 0.5), "floats from -0.1 to 0.5; they must be from 0 to 1 or 0 to 255; save it"),
        (pixels("F", 0.0, 300.0), "floats from 0 to 300"),
        (pixels("F", 0.0, float("nan")), "floats from nan to nan"),
        (pixels("F", 0.0, float("inf")), "floats from 0 to inf"),
        (pixels("I", -5, 7), "32-bit integers from -5 to 7; they must be from 0 to 255 or 0 to 65535"),
        (pixels("I", 0, 70000), "32-bit integers from 0 to 70000"),
        (pixels("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)), "shows nothing when it is laid on white"),
        (pixels("RGBA", (1, 2, 3, 0), (9, 9, 9, 0)), "shows nothing when it is laid on white"),
    ],
)
def test_numbers_without_a_known_white_are_refused(image, words):
    with pytest.raises(FileError, match=f"^cat/7.tif: .*{re.escape(words)}"):
        picture(saved(image, "TIFF"), 2, "cat/7.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_pictures_are_turned_as_their_exif_data_say(fmt, orientation):
    """EXIF 2.3: what the stored rows and columns are, undone by numpy."""
    upright = np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, 3),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if fmt == "WEBP" else {"quality": 100, "subsampling": 0} if fmt == "JPEG" else {}
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), fmt, exif=exif, **options)
    worst = np.abs(picture(data, 48, "x").astype(int) - upright).max()
    assert worst <= (4 if fmt == "JPEG" else 0)  # of JPEG's own rounding


@pytest.mark.parametrize(
    "data, words",
    [
        (saved(pixels("RGB", GREY), "EPS"), "not a readable picture of PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM"),
        (b"P4 13000 13000\n", "has more than 89,478,485 pixels, the most that a picture may have"),
        (b"P4 20000 20000\n", "has more than 89,478,485 pixels"),
    ],
)
def test_other_formats_and_bombs_are_refused_before_they_are_decoded(data, words, monkeypatch, recwarn):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("ghostscript was called"))
    with pytest.raises(FileError, match=f"^cat/7.png: {words}"):
        picture(data, 8, "cat/7.png")
    assert not recwarn.list


# Whole folders


def drawn(i):
    """A picture of its own for each i."""
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8))


def own_folder(root, *layout, count=5):
    """`count` pictures in each folder of the layout."""
    for i, name in enumerate(layout):
        (root / name).mkdir(parents=True, exist_ok=True)
        for j in range(count):
            drawn(100 * i + j).save(root / name / f"{j}.png")
    return root


def prepared(root, tmp_path, **options):
    prepare("mine", Dataset(resolution=8, folder=str(root), **options), tmp_path / "out", tmp_path)
    return read_json(tmp_path / "out/manifest.json")


@pytest.mark.parametrize(
    "layout, splits",
    [
        (["Train", "Test"], ("Train", "Test", [])),
        (["TRAINING", "testing"], ("TRAINING", "testing", [])),
        (["training", "Valid"], ("training", "Valid", [])),
        (["train", "Validation"], ("train", "Validation", [])),
        (["train", "val", "test"], ("train", "test", ["val"])),
        (["Train"], ("the other pictures of each class in Train", "every fifth picture of each class in Train", [])),
        ([""], ("the other pictures of each class", "every fifth picture of each class", [])),
    ],
)
def test_splits_are_known_by_any_usual_spelling_and_said(tmp_path, capsys, layout, splits):
    root = own_folder(tmp_path / "mine", *(str(Path(split, name)) for split in layout for name in ("cat", "dog")))
    manifest, (train, test, unused) = prepared(root, tmp_path), splits
    assert manifest["class_names"] == ["cat", "dog"]
    found = manifest["splits"]
    assert found["train"] == train and found["test"].removesuffix(", sorted by name") == test
    assert found["not_used"] == unused
    counts = (10, 10) if len(layout) > 1 else (8, 2)
    assert (manifest["num_train"], manifest["num_test"]) == counts
    out = capsys.readouterr().out
    assert f"mine: training set: {found['train']}; test set: {found['test']}\n" in out
    assert f"mine: dog: {counts[0] // 2} training and {counts[1] // 2} test pictures\n" in out
    assert ("mine: not used: val\n" in out) == bool(unused)
    expected = drawn(4) if len(layout) == 1 else drawn(100 * 2 * (len(layout) - 1))
    first = load_arrays(tmp_path / "out", "test")[0][0]
    assert (first.transpose(1, 2, 0) == np.asarray(expected)).all()


def test_held_out_pictures_stand_in_for_the_folder_of_the_test(tmp_path, capsys):
    root = own_folder(tmp_path / "mine", *(f"{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")))
    manifest = prepared(root, tmp_path, held_out=4)
    assert manifest["splits"]["not_used"] == ["test"] and manifest["num_test"] == 4
    assert "cat: 3 training and 2 test pictures" in capsys.readouterr().out
    with pytest.raises(FileError, match="held_out is 3; must be a multiple of the 2 classes"):
        prepared(root, tmp_path, held_out=3)


def test_a_class_called_train_is_a_class_beside_other_classes(tmp_path):
    root = own_folder(tmp_path / "mine", "train", "plane", "car")
    manifest = prepared(root, tmp_path)
    assert manifest["class_names"] == ["car", "plane", "train"]
    assert "train: taken for a class, because it holds pictures and lies beside other classes" in manifest["notes"]
    own_folder(root, "train/express")
    with pytest.raises(FileError, match="train would be taken for .* but car with pictures lies beside; rename"):
        picture_folder(root)


@pytest.mark.parametrize(
    "layout, words",
    [
        (["cat"], "holds 1 class folder"),
        (["train", "test"], "train: holds 0 class folder"),
        (["test/cat", "test/dog"], "has test and no train folder"),
        (["train/cat", "train/dog", "Training/cat"], "Training and train both mean train"),
        (["train/cat", "train/dog", "test/cat"], "mine/test: has no folder of dog, which .*mine/train has"),
        (["train/cat", "train/dog", "test/cat", "test/dog", "test/elk"], "mine/train: has no folder of elk, which"),
        (["train/cat", "train/dog", "test/Cat", "test/dog"], "test: has no folder of cat"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "cat: a class that holds test, train; put train and test"),
    ],
)
def test_folders_that_cannot_be_right_are_refused(tmp_path, layout, words):
    with pytest.raises(FileError, match=words):
        picture_folder(own_folder(tmp_path / "mine", *layout))


def test_classes_without_a_test_picture_are_refused_by_name(tmp_path):
    root = own_folder(tmp_path / "mine", "cat", "dog", "elk")
    (root / "cat/0.png").unlink()
    (root / "elk/0.png").unlink()
    with pytest.raises(FileError, match=r"too few pictures for a test set in cat \(4\), elk \(4\); each class needs"):
        picture_folder(root)


def test_pictures_that_show_nothing_are_refused(tmp_path):
    """All alike; nearly alike; two classes of the same pictures, by their arrays and not by their files."""
    root = own_folder(tmp_path / "mine", "cat", "dog")
    for i, path in enumerate(sorted(root.rglob("*.png"))):
        Image.new("RGB", (8, 8), GREY if i else (100, 100, 101)).save(path)
    with pytest.raises(FileError, match="mine: its training pictures are all alike .deviation .*; check"):
        prepared(root, tmp_path)
    for path in root.rglob("*.png"):
        drawn(int(path.stem)).save(path, compress_level=1 if path.parent.name == "cat" else 9)
    with pytest.raises(FileError, match="mine: the classes cat and dog hold the same training pictures"):
        prepared(root, tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (root / "dog").iterdir():
        drawn(int(path.stem)).save(path, exif=exif)
    prepared(root, tmp_path)
    x, y = load_arrays(tmp_path / "out", "train")
    assert (np.rot90(x[y == 0], -1, (2, 3)) == x[y == 1]).all(), "classes that differ by their orientation alone"


def test_what_was_done_to_pictures_is_said(tmp_path, capsys):
    root = own_folder(tmp_path / "mine", "cat", "dog")
    (root / "cat/0.png").write_bytes(FILES["RGBA"][0])
    (root / "cat/1.png").write_bytes(FILES["I;16"][0])
    Image.new("L", (2, 2)).save(root / "cat/2.tif", save_all=True, append_images=[drawn(1), drawn(2)])
    notes = prepared(root, tmp_path)["notes"]
    assert notes == [
        "1 picture(s) of 16-bit greys: 0 is black and 65535 white (the largest is 65535)",
        "1 picture(s) with transparent parts: laid on white",
        "1 picture(s) of several frames or pages: the first is used",
    ]
    assert f"mine: {notes[0]}\n" in capsys.readouterr().out
    assert not load_arrays(tmp_path / "out", "train")[0][3].any(), "the first page is black"


@pytest.mark.parametrize(
    "images, words",
    [
        ([pixels("F", 0.0, 0.5), pixels("F", 0.0, 200.0)], "floats go up to 1, those of .*1.tif up to 255"),
        ([pixels("F", 0.0, 1.02)], "1.02 is the largest number in all pictures of floats, which count up to 255"),
        ([pixels("I;16", 0, 4000)], "4000 is the largest number in all pictures of 16-bit greys, .* 65535: .*black"),
    ],
)
def test_pictures_on_the_wrong_scale_are_refused(tmp_path, images, words):
    root = own_folder(tmp_path / "mine", "cat", "dog")
    for i, image in enumerate(images):
        (root / f"cat/{i}.png").unlink()
        image.save(root / f"cat/{i}.tif")
    with pytest.raises(FileError, match=words):
        prepared(root, tmp_path)


def names_of(found):
    """Names below the root of all pictures, training and test, by label."""
    pairs = [pair for split in found.pairs.values() for pair in split]
    return [sorted(str(path.relative_to(found.root)) for path, of in pairs if of == label) for label in (0, 1)]


def test_files_are_read_by_what_they_are_and_the_rest_is_said(tmp_path):
    root, data = own_folder(tmp_path / "mine", "cat", "dog"), saved(drawn(9), "JPEG")
    extra = ["a.ppm", "b.pgm", "c.pnm", "d.pbm", "e.jfif", "f.JPE", "plain", "sub/g.png"]
    for name in extra:
        (root / "cat" / name).parent.mkdir(exist_ok=True)
        (root / "cat" / name).write_bytes(data)
    hidden = ["._0.png", ".ipynb_checkpoints/0.png", "__MACOSX/0.png", ".DS_Store"]
    for name in [f"cat/{name}" for name in hidden] + hidden:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no picture")
    for name in ("list.csv", "cat/notes.txt", "cat/x.heic", "cat/README", "cat/sub/Thumbs.db", "dog/y.png.bak"):
        (root / name).write_bytes(b"no picture")
    found = picture_folder(root)
    own = [f"{i}.png" for i in range(5)]
    assert names_of(found) == [sorted(f"cat/{name}" for name in own + extra), [f"dog/{name}" for name in own]]
    lines = found.notes()
    assert lines[0] == "1 not read: list.csv, because they lie in no class folder"
    named = "5 not read: cat/README, cat/notes.txt, cat/x.heic, cat/sub/Thumbs.db, dog/y.png.bak"
    assert len(lines) == 2 and lines[1].startswith(f"{named}, because their suffix is none of .apng .bmp")


def test_linked_folders_are_followed_and_a_loop_ends(tmp_path):
    root = own_folder(tmp_path / "mine", "cat", "dog")
    own_folder(tmp_path / "elsewhere", "more", "dogs")
    (root / "cat/linked").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "elsewhere/more/back").symlink_to(root / "cat")
    (root / "cat/up").symlink_to(root)
    (root / "dog/linked.png").symlink_to(tmp_path / "elsewhere/dogs/0.png")
    found = picture_folder(root)
    own = [f"cat/{i}.png" for i in range(5)]
    assert names_of(found)[0] == own + [f"cat/linked/{i}.png" for i in range(5)]
    assert "dog/linked.png" in names_of(found)[1]
    assert found.notes() == ["2 not read: cat/linked/back, cat/up, because they lead to a folder that is read already"]


@pytest.mark.parametrize("place", ["cat", "", "cat/sub"])
@pytest.mark.parametrize(
    "name, make, words",
    [
        ("x.png", lambda path: path.symlink_to("nowhere.png"), "a link that leads nowhere"),
        ("x.png", lambda path: path.symlink_to("x.png"), "a link that leads nowhere"),
        ("x.png", lambda path: path.symlink_to("/dev/zero"), "neither a file nor a folder"),
        ("x", os.mkfifo, "neither a file nor a folder, but a device, a pipe or a socket; remove it"),
    ],
)
def test_what_is_no_file_is_refused_and_never_opened(tmp_path, place, name, make, words):
    root = own_folder(tmp_path / "mine", "cat", "dog")
    (root / place).mkdir(exist_ok=True)
    make(root / place / name)
    with pytest.raises(FileError, match=f"{re.escape(str(root / place / name))}: {words}"):
        picture_folder(root)


def test_a_folder_with_a_pictures_name_is_refused(tmp_path):
    root = own_folder(tmp_path / "mine", "cat", "dog")
    (root / "cat/zz.png").mkdir()
    with pytest.raises(FileError, match="cat/zz.png: a folder with a picture's name; rename or remove it"):
        picture_folder(root)


def test_relative_paths_are_of_the_repository_where_dvc_runs_a_copy(project, tmp_path):
    """`dvc exp run --queue` runs stages in a copy of what git tracks, with the repository's own folder in DVC_ROOT."""
    user, copy = clone(project, tmp_path / "user"), clone(project, tmp_path / "copy")
    own_folder(user / "flowers", "cat", "dog")

    def change(params):
        params["datasets"]["flowers"] = {"folder": "flowers", "resolution": 8}
        params["runtime"]["archives"] = "own"

    def stage(key):
        command, env = [sys.executable, "-m", "stages", "prepare", key], {**ENV, "DVC_ROOT": str(user)}
        env.pop("DISTILLERY_ARCHIVES", None)
        return subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)

    edit(copy, change)
    done = stage("flowers")
    assert done.returncode == 0, done.stderr
    assert "flowers: cat: 4 training and 1 test pictures\n" in done.stdout
    assert read_json(copy / "data/prepared/flowers/manifest.json")["num_train"] == 8
    done = stage("mnist")
    assert f"error: {user / 'own'}: the folder of archives" in done.stderr
