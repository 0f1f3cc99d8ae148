"""Files of others that are damaged or hostile: each is answered by one sentence, in seconds and within the memory."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import re
import resource
import signal
import struct
import subprocess
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as safetensors
from safetensors.torch import save_file
from scipy.io import savemat

from lib.config.models import Words
from lib.data import examples_of
from lib.data.archives import gunzip, members
from lib.data.folders import picture_folder
from lib.data.imagenet import read_subset
from lib.data.pictures import FORMATS
from lib.data.readers import class_names, picture
from lib.data.sources import SUBSETS, own_copy
from lib.data.text import fit_words
from lib.files import FileError, read_bytes
from lib.networks.pretrained import imagenet_resnet18

from .test_data import picture_bytes, tar_gz, zipped
from .test_external import CLASSES, SCHEDULE, SGD, X, Y, read
from .test_folders import own_folder
from .test_imagenet import tree

SECONDS, MEMORY = 5, 400 << 20  # what the answer to a bad file may take
ZEROS = bytes(16 << 20)


@contextmanager
def bounded():
    """Nothing inside may take longer than SECONDS, or MEMORY more than the process has."""

    def too_long(*_):
        raise TimeoutError(f"no answer in {SECONDS} s")

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits, before = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


# How the files are made: each function gives the bytes of a file, or writes to a path


def deflated_gigabyte():
    """1 GiB of zeros, deflated: one part many times, as a flush makes a part independent of those before."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (packer.compress(ZEROS) + packer.flush(zlib.Z_FULL_FLUSH)) * 64 + b"\3\0"


GIGABYTE = deflated_gigabyte()
GZ_GIGABYTE = b"\x1f\x8b\x08" + bytes(7) + GIGABYTE + bytes(8)


def torched(values, **options):
    buffer = io.BytesIO()
    torch.save(values, buffer, **options)
    return buffer.getvalue()


def pt(**values):
    return torched({"x": X, "y": Y} | values)


def repacked(data, old, new):
    """A zip of torch.save with a change in its pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    assert any(old in each for each in files.values())
    return zipped([(name, each.replace(old, new)) for name, each in files.items()])


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(shape, dtype="<f4", data=b""):
    """An npy file whose header declares a shape and a type, whatever it holds."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + data


def safe(header, data=b"", size=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def safe_x(dtype="F32", shape=(6, 1, 6, 6), offsets=(0, 864), data=bytes(864)):
    return safe({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}, data)


def flax(shape=(6, 1, 6, 6), dtype=b"float32", values=bytes(864), code=1):
    array = msgpack.ExtType(code, msgpack.packb((shape, dtype, values)))
    return msgpack.packb({"x": array, "y": array})


def flax_set(**arrays):
    return msgpack.packb(
        {
            name: msgpack.ExtType(1, msgpack.packb((each.shape, each.dtype.name, each.tobytes())))
            for name, each in arrays.items()
        }
    )


def zip_bytes(*files, pack=zipfile.ZIP_DEFLATED, **fields):
    """A zip of (name, data), whose headers then have these fields: flags, method, crc, size, packed_size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", pack) as archive:
        for name, data in files:
            archive.writestr(name, data)
    data = bytearray(buffer.getvalue())
    places = {"flags": (6, "<H"), "method": (8, "<H"), "crc": (14, "<I"), "packed_size": (18, "<I"), "size": (22, "<I")}
    for signature, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):  # the file's own header, and that of the directory
        start = data.find(signature)
        for name, value in fields.items():
            place, form = places[name]
            struct.pack_into(form, data, start + place + shift, value)
    return bytes(data)


def tar_bytes(*infos, data=b"", packed=gzip.compress):
    """A tar of TarInfos, or of (name, fields), whose data all are `data`; not padded to its declared sizes."""
    blocks = b""
    for name, fields in infos:
        info = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(info, field, value)
        blocks += info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)
    return packed(blocks + bytes(1024))


def png(width, height, data=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def saved(size, fmt, mode="L", **options):
    return encoded(Image.new(mode, size), fmt, **options)


def webp(side):
    """The beginning of a lossless WebP picture: Pillow takes seconds to write a large one."""
    size = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14)
    body = b"WEBPVP8L" + struct.pack("<I", len(size) + 1) + size + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def matlab(**arrays):
    buffer = io.BytesIO()
    savemat(buffer, arrays)
    return buffer.getvalue()


def gz_header(kind):
    """The gz of a tar's header of this kind that declares 1 GiB of its own."""
    info = tarfile.TarInfo("a")
    info.size, info.type = 1 << 30, kind
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
XZ_4_GIB = bytearray(lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
XZ_4_GIB[16] = 40  # the size of its dictionary: 4 GiB
XZ_4_GIB[20:24] = struct.pack("<I", zlib.crc32(XZ_4_GIB[12:20]))  # of its block's header


# How they are read


def reading(labels, protocol=SGD):
    return lambda path: read(path, labels, protocol)


logits, probabilities, classes = (reading(labels) for labels in ("logits", "probabilities", "classes"))
schedule = reading("free", SCHEDULE)


def archive(path):
    return list(members(path, 1 << 20))


def hundred(path):
    return gunzip(path, 100)


def shown(path):
    return picture(read_bytes(path, "replace or remove it"), 8, path)


def own_pictures(path):
    """All of a folder with the classes cat and dog, of which each has five pictures beside what is there."""
    if path.is_dir():
        own_folder(path, "cat", "dog")
    return list(picture_folder(path).examples("train", 8, 3))


def one_class(path):
    """ImageNet's training images of ten classes, of which one is `path`."""
    tree(path.parent / "in", "fish_easy", train=1, val=1)
    (path.parent / "in/train" / path.name / f"{path.name}_0.JPEG").unlink()
    for file in path.iterdir():
        file.rename(path.parent / "in/train" / path.name / file.name)
    return list(read_subset(path.parent / "in", "fish_easy", "train", 8, True))


def training(path):
    return list(read_subset(path.parent, "fish_easy", "train", 8, True))


def validation(path):
    (path.parent / "val").mkdir()
    return list(read_subset(path.parent, "fish_easy", "test", 8, True))


def packed_cifar(path):
    make(path.parent, "1.webp", EPS)
    return list(examples_of("cifar10", [path.with_name("1.webp")] * 6 + [path], True, "train", 32))


def examples(name, count=1, packed=False, split="train"):
    return lambda path: list(examples_of(name, [path] * count, packed, split, 8))


def sentences(name, packed=False):
    return lambda path: list(examples_of(name, [path] * 2, packed, "train"))


def vectors(path):
    cfg = Words(dataset="d", tokens=3, length=4, dim=2, vectors=path.name)
    return fit_words(cfg, ["<unk>", "<pad>", "a"], path.parent)


def link_to(target):
    return lambda path: path.symlink_to(target)


def make(root, name, data=b""):
    """A file in a folder, and the folders above it."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data or picture_bytes((1, 2, 3)))


FISH = SUBSETS["fish_easy"][0][1]
NO_FILE = "neither a file nor a folder, but a device, a pipe or a socket"
UNREAD = "is damaged, of another format, or holds more than arrays, and is not read"
NO_ARCHIVE = "not a complete archive"
NO_PICTURE = "not a readable picture"
LARGE = "has more than 89,478,485 pixels, the most that a picture may have"
LINKS = {
    "a pipe": (os.mkfifo, NO_FILE),
    "a device": (link_to("/dev/zero"), NO_FILE),
    "a dangling link": (link_to("nowhere"), "a link that leads nowhere"),
    "a loop": (lambda path: path.symlink_to(path.name), "a link that leads nowhere"),
}
BAD = {  # (what is read, its name, how): {what it is: (its bytes, or how it is made; words of the answer)}
    ("torch", "a.pt", logits): LINKS
    | {
        "a folder": (Path.mkdir, "its row has labels: classes, label_file"),
        "no bytes": (b"", "is empty; get it again"),
        "cut": (pt()[:900], UNREAD),
        "code": (pt(f=os.system), "and is not read .ValueError: it holds code or objects.; get it again"),
        "a tar": (tar_gz([("storages", b"1")]), UNREAD),
        "a list": (torched([X, Y]), "holds list; a set has images"),
        "a number": (torched(7), "holds int; a set has images"),
        "a table of tables": (pt(x={"x": X}), "a.pt: x is of type dict; it must be an array of numbers"),
        "strange names": (
            torched({("a\nb", 1): X, "c\nd" * 99: Y}),
            r"holds \('a\\nb', 1\), 'c\\ndc.*\.\.\.; a set has",
        ),
        "99 names": (torched({f"{i}": X for i in range(99)}), "holds 0, 1, 2, 3, 4, 5, 6, 7 and 91 more; a set has"),
        "sparse": (pt(x=X.to_sparse()), "x is sparse; save it as a plain tensor"),
        "sparse rows": (pt(x=X[:, 0, 0].to_sparse_csr()), "x is sparse"),
        "nested": (pt(x=torch.nested.nested_tensor([X[0], X[1]])), UNREAD),
        "complex": (pt(x=X + 1j), "x is complex"),
        "without values": (pt(x=X.to("meta")), "x is without values"),
        "10^14 times one number": (pt(x=X[:1, :, :1, :1].expand(10**6, 1, 10**4, 10**4)), "by a stride of 0"),
        "10^10 numbers that overlap": (pt(x=torch.zeros(10**6).as_strided((10**5, 10**5), (1, 1))), "or an overlap"),
        "bits": (pt(x=X.byte().view(torch.bits8)), "values of type torch.bits8; save it as float32 or int64"),
        "2^63 and more": (pt(y=(CLASSES - 1).view(torch.uint64)), r"y holds a number of 2\^63 or more"),
        "the least integer": (pt(x=torch.full(X.shape, -(2**63))), r"images hold -9.22337e\+18; all must be finite"),
        "2 GB declared": (
            repacked(pt(), b"cpuq\x06K\xd8", b"cpuq\x06J\0\0\0\x7f"),
            "record size .864 bytes. does not match",
        ),
        "a compressed record": (
            zip_bytes(("a/data.pkl", b""), ("a/data/0", ZEROS)),
            "a/data.pkl is compressed, as torch",
        ),
        "the old form, 256 MB declared": (
            torched({"x": X}, _use_new_zipfile_serialization=False).replace(b"cpuq\x06K\xd8", b"cpuq\x06J\0\0\0\4"),
            "storage has wrong byte size: expected 864",
        ),
        "no images": (pt(x=X[:0], y=Y[:0]), "holds no images"),
        "images of nan": (pt(x=X * torch.nan), "images hold nan; all must be finite and at most 10000 in size"),
        "images of infinity": (pt(x=X / 0), "images hold -?inf; all must be finite"),
        "images of another size": (pt(x=X[..., :5]), r"images \(6, 1, 6, 5\); this data needs \(N, 1, 6, 6\)"),
        "logits of 1e30": (pt(y=Y * 0 + 1e30), r"labels hold 1e\+30; all must be finite and at most 10000"),
        "text for logits": (pt(y="logits"), "y is of type str; it must be an array of numbers"),
    },
    ("torch", "a.pt", probabilities): {"below 0": (pt(), "probabilities are not below 0: are they logits")},
    ("torch", "a.pt", classes): {
        "fractions": (pt(y=CLASSES + 0.5), "fractions among 0.5 to 2.5; classes are integers from 0 to 2"),
        "out of range": (pt(y=CLASSES + 7), "labels hold 7 to 9; classes are integers from 0 to 2"),
        "negative": (pt(y=CLASSES - 1), "labels hold -1 to 1; classes are integers from 0 to 2"),
        "nan": (pt(y=CLASSES * torch.nan), "labels hold nan; all must be finite"),
        "many to an image": (pt(y=Y), r"labels \(6, 3\); the classes of 6 images are \(6,\)"),
    },
    ("a rate in torch", "a.pt", schedule): {
        "text": (pt(lr="0.1"), "lr is of type str; it must be an array of numbers"),
        "a table": (pt(lr={"a": 0.1}), "lr is of type dict"),
        "10^400": (pt(lr=10**400), "lr has values of type object; they must be numbers"),
        "1e30": (pt(lr=1e30), r"lr holds 1e\+30; rates must be above 0 and at most 10000"),
        "nan": (pt(lr=float("nan")), "lr holds nan; rates must be above 0"),
        "below 0": (pt(lr=-0.1), "lr holds -0.1; rates must be above 0"),
        "none": (pt(lr=X[:0]), r"lr \(0, 1, 6, 6\) must be one number, or"),
        "five to six images": (pt(lr=torch.ones(2, 5)), r"lr \(2, 5\) must be .* dividing the 6 images"),
    },
    ("a rate in torch", "a.pt", logits): {
        "several": (pt(lr=torch.ones(2, 3)), r"lr \(2, 3\) are the rates of a schedule")
    },
    ("npz", "a.npz", logits): LINKS
    | {
        "no bytes": (b"", "is empty; get it again"),
        "a pickle": (npz(x=np.array([{}], object)), "x.npy: .*Object arrays cannot be loaded"),
        "text": (npz(x=np.array(["a"])), "x has values of type <U1; they must be numbers"),
        "complex": (npz(x=X.numpy() * 1j), "x has values of type complex64"),
        "dates": (npz(x=np.zeros(6, "M8[s]")), r"x has values of type datetime64\[s\]"),
        "a table": (npz(x=np.zeros(6, "f4,i4")), "x has values of type .*; they must be numbers"),
        "bfloat16 as bytes": (npz(x=np.zeros((6, 1, 6, 6), "V2")), r"x has values of type \|V2"),
        "10^15 numbers": (
            zip_bytes(("x.npy", npy((10**15,)))),
            r"x.npy: declares shape \(1000000000000000,\) of float32, 4000000000000000 bytes, and holds 0",
        ),
        "4 GB declared": (
            zip_bytes(("x.npy", b""), size=0xFFFFFFF0),
            "unpacks to more than .* bytes at member 'x.npy'",
        ),
        "1 GB": (
            zip_bytes(("x.npy", GIGABYTE), pack=0, method=8, size=1 << 30),
            "unpacks to more than 1[0-9]{8} bytes at member 'x.npy'; this archive is hostile",
        ),
        "no array": (zipped([("x.npy", b"words")]), f"x.npy: {UNREAD}"),
        "another version": (zipped([("x.npy", b"\x93NUMPY\x09\0" + bytes(99))]), f"x.npy: {UNREAD}"),
        "a name twice": (
            zip_bytes(("x.npy", npy((0,))), ("y.npy", b"")).replace(b"y.npy", b"x.npy"),
            "holds member 'x.npy' twice",
        ),
    },
    ("npy", "a.npy", logits): LINKS
    | {
        "a pickle": (npy((1,), "|O", b"cos\nsystem\n(S'false'\ntR."), "Object arrays cannot be loaded"),
        "10^15 numbers": (npy((10**15,)), "4000000000000000 bytes, and holds 0; get it again"),
        "10^10 numbers": (npy((10**5, 10**5), "<f4", bytes(400)), "40000000000 bytes, and holds 400; get it again"),
        "a negative shape": (npy((-6, -1), "<f4", bytes(24)), r"declares shape \(-6, -1\) of float32"),
        "more than declared": (npy((6,), "<f4", bytes(99)), "24 bytes, and holds 99; get it again"),
        "a header that is code": (b"\x93NUMPY\x01\0\x20\0" + b"__import__('os').system('false')\n", UNREAD),
        "a header of brackets": (b"\x93NUMPY\x01\0\xff\xff" + b"(" * 65535, UNREAD),
        "cut": (npy((6,))[:20], UNREAD),
        "one array alone": (npy((6,), "<f4", bytes(24)), "holds ndarray; a set has images"),
    },
    ("safetensors", "a.safetensors", logits): LINKS
    | {
        "no bytes": (b"", "is empty; get it again"),
        "a header of 8 EB": (safe(b"{}", size=2**63 - 1), UNREAD),
        "a header of 90 MB": (safe(b"{}", size=90_000_000), UNREAD),
        "no JSON": (safe(b"not json"), UNREAD),
        "no text": (safe(b"\xff\xfe\0"), UNREAD),
        "nested 10,000 deep": (safe(b'{"x":' + b"[" * 10_000), UNREAD),
        "offsets beyond its end": (safe_x(offsets=(0, 10**15)), UNREAD),
        "offsets that turn back": (safe_x(offsets=(864, 0)), UNREAD),
        "a shape of 2^80": (safe_x(shape=(2**40, 2**40)), UNREAD),
        "a negative shape": (safe_x(shape=(-6, -36)), UNREAD),
        "an unknown type": (safe_x("F33"), UNREAD),
        "no labels": (safe_x(), "holds x; a set has labels"),
        "no tensors": (safe({}), "holds nothing; a set has images"),
    },
    ("flax", "checkpoint_1", logits): LINKS
    | {
        "4 GB declared": (b"\x81\xa1x\xc6\xff\xff\xff\xff", UNREAD),
        "a list of 4 G": (b"\xdd\xff\xff\xff\xff", UNREAD),
        "a table of 4 G": (b"\xdf\xff\xff\xff\xff", UNREAD),
        "nested 100,000 deep": (b"\x91" * 100_000 + b"\xc0", UNREAD),
        "objects": (flax(dtype=b"O"), UNREAD),
        "a type that is none": (flax(dtype=b"float33"), UNREAD),
        "another shape": (flax((7, 1, 6, 6)), UNREAD),
        "a shape of 10^15": (flax((10**15,)), UNREAD),
        "complex": (flax(code=2), "extension type 2 is no array"),
        "bytes after its end": (flax() + b"more", UNREAD),
        "a number": (b"\x07", "holds int; a set has images"),
    },
    ("another ending", "a.pkl", logits): {
        "a pickle": (b"cos\nsystem\n(S'false'\ntR.", "has the ending '.pkl'; known are .pt")
    },
    ("a name of 300 letters", "a" * 300 + ".pt", logits): {"": (None, "cannot be read .File name too long")},
    ("zip", "a.zip", archive): LINKS
    | {
        "a folder": (Path.mkdir, "a folder, not a file; delete it and get it again"),
        "encrypted": (zip_bytes(("a", b"1"), flags=1), "member 'a' is encrypted; pack it again without a password"),
        "method 97": (
            zip_bytes(("a", b"1"), method=97),
            r"compressed by method 97; methods 0 \(stored\) and 8 \(deflated\)",
        ),
        "a bomb of bz2": (zip_bytes(("a", ZEROS), pack=zipfile.ZIP_BZIP2, size=100), "compressed by method 12"),
        "a bomb of lzma": (zip_bytes(("a", ZEROS), pack=zipfile.ZIP_LZMA, size=100), "compressed by method 14"),
        "damaged": (zip_bytes(("a", bytes(999)), packed_size=3), NO_ARCHIVE),
        "another checksum": (zip_bytes(("a", b"1"), crc=1), "not a complete archive .BadZipFile: Bad CRC-32"),
        "more than declared": (zip_bytes(("a", GIGABYTE), pack=0, method=8, size=100), NO_ARCHIVE),
        "less than declared": (zip_bytes(("a", b"1" * 99), size=999), "holds 99 bytes and declares 999; delete it"),
        "1 GB": (
            zip_bytes(("a", GIGABYTE), pack=0, method=8, size=1 << 30),
            "unpacks to more than 1048576 bytes at member 'a'",
        ),
        "10,000 empty members": (
            zip_bytes(*((f"{i}", b"") for i in range(10_000))),
            "unpacks to more than 1048576 bytes",
        ),
        "a name twice": (zip_bytes(("a", b"1"), ("b", b"2")).replace(b"b", b"a"), "holds member 'a' twice"),
        "a name that leaves": (zip_bytes(("../a", b"1")), "'../a' would be written outside of its folder"),
        "a long name that leaves": (
            zip_bytes(("../" + "a" * 60_000, b"1")),
            "a' would be written outside of its folder",
        ),
        "cut": (zip_bytes(("a", b"1" * 99))[:60], NO_ARCHIVE),
        "its end alone": (zip_bytes(("a", bytes(99)), ("b", b"1"))[40:], NO_ARCHIVE),
        "its beginning alone": (b"PK", NO_ARCHIVE),
    },
    ("tar", "a.tgz", archive): LINKS
    | {
        "no bytes": (b"", NO_ARCHIVE),
        "a link in it": (
            tar_bytes(("a", {"type": b"2", "linkname": "/etc/passwd"})),
            "member 'a' is a link or a device; a file",
        ),
        "a device in it": (tar_bytes(("a", {"type": b"3"})), "member 'a' is a link or a device; a file was expected"),
        "a pipe in it": (tar_bytes(("a", {"type": b"6"})), "member 'a' is a link or a device; a file was expected"),
        "an absolute name": (tar_bytes(("/etc/a", {})), "'/etc/a' would be written outside of its folder"),
        "a name twice": (tar_bytes(("a", {}), ("a", {})), "holds member 'a' twice"),
        "8 EB declared": (tar_bytes(("a", {"size": 2**63 - 1})), "unpacks to more than 1048576 bytes at member 'a'"),
        "a negative size": (tar_bytes(("a", {"size": -512}), ("b", {})), "unpacks to more than|not a complete archive"),
        "another type of negative size": (
            tar_bytes(("a", {"size": -512, "type": b"Q"})),
            "unpacks to more than|not a comp",
        ),
        "a header of 1 GB": (gz_header(b"x") + GZ_GIGABYTE, "a header declares 1073741824 bytes of its own"),
        "a name of 1 GB": (gz_header(b"L") + GZ_GIGABYTE, "a header declares 1073741824 bytes of its own"),
        "10,000 empty members": (
            tar_bytes(*((f"{i}", {}) for i in range(10_000))),
            "unpacks to more than 1048576 bytes",
        ),
        "9,999 headers of headers": (tar_bytes(*([("a", {"type": b"x"})] * 9999)), NO_ARCHIVE),
        "a damaged header": (
            tar_bytes(("a", {}), ("bcd", {}), packed=bytes).replace(b"bcd", b"bce"),
            "a header is damaged",
        ),
        "another checksum": (tar_gz([("a", b"1")])[:-8] + bytes(8), "not a complete archive .*CRC"),
        "cut": (tar_gz([("a", random.Random(0).randbytes(9000))])[:5000], NO_ARCHIVE),
        "nothing, packed": (gzip.compress(b""), NO_ARCHIVE),
        "xz of 4 GiB memory": (bytes(XZ_4_GIB), "Memory usage limit exceeded"),
        "a bomb of xz": (
            lzma.compress(ZEROS),
            "unpacks to more than 1048576 bytes, expected 1048576 at most; delete it",
        ),
        "xz, cut": (lzma.compress(random.Random(0).randbytes(999))[:500], "its end is missing"),
        "a bomb of bz2": (bz2.compress(ZEROS), "unpacks to more than 1048576 bytes, expected 1048576 at most"),
    },
    ("gz", "a.gz", hundred): LINKS
    | {
        "1 GB": (GZ_GIGABYTE, "unpacks to more than 100 bytes, expected 100 at most; delete it and get it again"),
        "two parts": (gzip.compress(bytes(100)) * 2, "other bytes follow its end"),
        "another checksum": (
            gzip.compress(bytes(100))[:-8] + bytes(8),
            "not a complete gz, bz2 or xz file .error: .*data check",
        ),
        "no bytes": (b"", "not a complete gz, bz2 or xz file .ValueError: begins with b''"),
        "too few": (gzip.compress(b"1"), "unpacks to 1 bytes, expected 100; delete it and get it again"),
    },
    ("an own copy", "a.gz", lambda path: own_copy(path.parent, "mnist", path.name)): LINKS,
    ("mnist", "a.gz", examples("mnist", 4)): {
        "too few": (gzip.compress(bytes(99)), "unpacks to 99 bytes, expected 47040016")
    },
    ("usps", "a.bz2", examples("usps", 2)): {
        "words": (bz2.compress(b"words and words\n"), "not laid out as usps is published .ValueError"),
        "the 999th of 256 numbers": (bz2.compress(b"1 999:1\n"), "not laid out as usps is published .IndexError"),
    },
    ("usps, packed", "a.npz", examples("usps", 1, packed=True)): {
        "other arrays": (npz(z=Y.numpy()), "not laid out as usps is published .KeyError: 'x_train'"),
    },
    ("svhn", "a.mat", examples("svhn", 2)): {
        "other arrays": (matlab(Z=1), "not a MATLAB file of X and y .KeyError: 'X'"),
        "too many": (
            matlab(X=np.zeros((32, 32, 3, 1)), y=np.zeros((80000, 1))),
            r"y \(80000, 1\), more than 73257 images",
        ),
        "a label short": (
            matlab(X=np.zeros((32, 32, 3, 2)), y=np.zeros((1, 1))),
            "not a MATLAB file of X and y .ValueError",
        ),
        "version 7.3": (b"MATLAB 7.3 MAT-file" + bytes(105) + b"\0\2IM" + bytes(99), "not a MATLAB file of X and y"),
        "cut": (matlab(X=np.zeros((32, 32, 3, 9)), y=np.zeros((9, 1)))[:3000], "not a MATLAB file of X and y"),
    },
    ("cifar10", "a.tgz", examples("cifar10")): {
        "half a record": (tar_gz([("c/data_batch_1.bin", bytes(99))]), "data_batch_1.bin does not hold whole records"),
    },
    ("cifar10, packed", "labels.npz", packed_cifar): {
        "beside an EPS": (npz(train=np.zeros(9)), "1.webp: not a readable picture of PNG"),
        "without labels": (npz(test=np.zeros(9)), "not laid out as cifar10 is published .KeyError: 'train'"),
    },
    ("cifar100", "a.tgz", lambda path: class_names("cifar100", [path])): {
        "no names": (tar_gz([("a", b"")]), "fine_label_names.txt is missing"),
        "names in another code": (
            tar_gz([("fine_label_names.txt", b"\xff")]),
            "its classes cannot be read .UnicodeDecodeError",
        ),
    },
    ("tiny_imagenet", "a.zip", examples("tiny_imagenet", split="test")): {
        "no classes": (zipped([("t/val/images/a.JPEG", b"")]), "wnids.txt is missing"),
        "no annotations": (
            zipped([("t/wnids.txt", b"n1"), ("t/val/images/a.JPEG", picture_bytes((1, 2, 3)))]),
            "not laid out as tiny_imagenet is published .KeyError: 'a.JPEG'",
        ),
    },
    ("imagenet_resized", "a.zip", examples("imagenet_resized", 3)): {
        "no labels": (
            zipped([("a.npz", npz(data=np.zeros((1, 12288))))]),
            "imagenet_resized is published .KeyError: 'labels'",
        ),
        "words": (zipped([("a.npz", b"words")]), "a.zip: a.npz: not a complete archive"),
    },
    ("caltech_birds2011", "a.tgz", examples("caltech_birds2011")): {
        "no lists": (tar_gz([("a", b"")]), "not laid out as caltech_birds2011 is published .KeyError: 'images.txt'"),
    },
    ("trec", "a", sentences("trec6")): {
        "a class": (b"LAW:x Why ?\n", "not laid out as trec6 is published .ValueError")
    },
    ("sst", "a", sentences("sst5", packed=True)): {
        "no tree": (b"words\n", "not a tree with a class from 0 to 4: 'words'")
    },
    ("word vectors", "v.txt", vectors): LINKS
    | {
        "of two lengths": (b"a 1 2\nb 1 2 3\n", "vectors of 2 lengths"),
        "nan": (b"a nan 2\n", "not lines of a word and its numbers, .*a number is not finite"),
        "no text": (b"\xff\xfe\0\1\n", "not lines of a word and its numbers, .*UnicodeDecodeError"),
        "no bytes": (b"", "vectors of 0 lengths"),
        "one line of 16 MiB": (ZEROS, "holds vectors of 0 numbers; the row's dim is 2"),
    },
    ("word vectors", "v.npz", vectors): {
        "fewer than words": (npz(words=np.array(["a", "b"]), vectors=np.ones((1, 2))), "shorter than argument 1"),
        "no words": (npz(vectors=np.ones((1, 2))), "KeyError: 'words'"),
        "of objects": (npz(words=np.array(["a", {}]), vectors=np.ones((2, 2))), "Object arrays cannot be loaded"),
    },
    ("ResNet18", "resnet18-f37072fd.pth", lambda path: imagenet_resnet18(path.parent)): LINKS
    | {"other bytes": (b"words", "SHA-256 is .* expected f37072fd.*; it is not torchvision's file: get it again")},
    ("ImageNet's table", "LOC_val_solution.csv", validation): {
        "other columns": (b"a,b\n1,2\n", "not a table of ImageId and PredictionString .KeyError: 'ImageId'"),
        "no class": (b"ImageId,PredictionString\na,\n", "not a table of ImageId and PredictionString .IndexError"),
        "no text": (b"\xff\xfe\0", "not a table of ImageId and PredictionString .UnicodeDecodeError"),
        "a name that leaves": (b"ImageId,PredictionString\n../a,n01440764 1\n", "'../a' is no picture's name"),
        "a device": (link_to("/dev/zero"), NO_FILE),
    },
    ("ImageNet's archive", "ILSVRC2012_img_train.tar", training): {
        "a class that is none": (tar_gz([(f"{FISH}.tar", b"words")]), ".tar: not a complete archive"),
        "a class that is a link": (
            tar_bytes((f"{FISH}.tar", {"type": b"2"})),
            "is a link or a device; a file was expected",
        ),
        "a pipe": (os.mkfifo, NO_FILE),
    },
    ("a picture", "a.png", shown): LINKS
    | {
        "no bytes": (b"", "not a readable picture of PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM; replace or remove it"),
        "an EPS": (EPS, "not a readable picture of PNG, JPEG"),
        "an icon": (saved((16, 16), "ICO"), "not a readable picture of PNG, JPEG"),
        "cut": (picture_bytes((1, 2, 3))[:300], "not a readable picture .OSError: "),
        "13,000 x 13,000 PNG": (saved((13_000, 13_000), "PNG", "1"), LARGE),
        "13,000 x 13,000 TIFF": (saved((13_000, 13_000), "TIFF", "1", compression="group4"), LARGE),
        "13,000 x 13,000 WebP": (webp(13_000), f"{LARGE}|could not create decoder"),
        "10^9 x 1": (b"P6 1000000000 1 255\n", LARGE),
        "2^31 x 2^31": (png(2**31 - 1, 2**31 - 1), LARGE),
        "0 x 0 PNG": (png(0, 0), NO_PICTURE),
        "0 x 0 PPM": (b"P6 0 0 255\n", NO_PICTURE),
        "9,000 x 9,000 and nothing in it": (png(9000, 9000), NO_PICTURE),
        "floats of nan": (b"Pf 2 2 -1.0\n" + b"\0\0\xc0\x7f" * 4, "holds floats from nan to nan"),
    },
    ("a folder of pictures", "mine", own_pictures): LINKS
    | {
        "a file": (b"1", "no such folder: a file"),
        "a name that is not UTF-8": (
            lambda path: make(path, os.fsdecode(b"cat/caf\xe9.png")),
            "its name is not UTF-8, or has",
        ),
        "a name of two lines": (lambda path: make(path, "cat/a\nb.png"), "a control character; rename it"),
        "an EPS in it": (lambda path: make(path, "cat/z.png", EPS), "cat/z.png: not a readable picture of PNG"),
        "a large picture without a suffix": (
            lambda path: make(path, "cat/z", saved((13_000, 13_000), "PNG", "1")),
            LARGE,
        ),
    },
    ("a folder of one class", FISH, one_class): {
        "a folder in it": (
            lambda path: make(path, "sub/1.png"),
            "sub: a folder among the pictures of a class; remove it",
        ),
        "a pipe in it": (lambda path: (path.mkdir(), os.mkfifo(path / "1.JPEG")), NO_FILE),
    },
}

CASES = [
    pytest.param(read, name, *case, id=f"{what}: {how}")
    for (what, name, read), group in BAD.items()
    for how, case in group.items()
]


@pytest.mark.parametrize("answer, name, content, words", CASES)
def test_a_bad_file_is_answered_by_one_sentence(tmp_path, answer, name, content, words):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        content(path)
    with bounded(), pytest.raises(FileError) as told:
        answer(path)
    sentence = str(told.value)
    assert re.search(words, sentence), sentence
    assert str(tmp_path) in sentence and len(sentence.splitlines()) == 1 and len(sentence) < 500 + 5 * len(str(path))
    assert not re.search("MemoryError|memory is left|allocate", sentence), (
        "memory is not asked for what a file declares"
    )


def test_what_is_unusual_and_right_is_read(tmp_path):
    """Every type of numbers, byte order and compression that is taken, in the numbers that it holds."""
    whole = torch.arange(216).view(6, 1, 6, 6) % 100
    for dtype in ("f2", "f4", ">f8", "i1", "u1", "<i2", ">u2", "u4", "i8", "u8"):
        (tmp_path / "a.npz").write_bytes(npz(x=whole.numpy().astype(dtype), y=Y.numpy()))
        assert torch.equal(read(tmp_path / "a.npz", "logits", space="network")[0].x, whole.float()), dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e5m2, torch.uint16, torch.uint64, torch.int8):
        values = (whole % 4).to(dtype)
        (tmp_path / "a.pt").write_bytes(pt(x=values))
        save_file({"x": values, "y": Y}, tmp_path / "a.safetensors")
        for name in ("a.pt", "a.safetensors"):
            assert torch.equal(read(tmp_path / name, "logits", space="network")[0].x, (whole % 4).float()), dtype
    files = [("a/1", b"1" * 3_000_000), ("b", b"")]
    plain = gzip.decompress(tar_gz(files))
    packed = [plain, gzip.compress(plain), lzma.compress(plain), bz2.compress(plain), zip_bytes(*files), zipped(files)]
    for data in packed:
        (tmp_path / "archive").write_bytes(data)
        assert list(members(tmp_path / "archive", 1 << 22)) == files
        assert list(members("a name", 1 << 22, data=data)) == files


def test_a_million_frames_and_a_thousand_folders_cost_no_time(tmp_path):
    gif = saved((8, 8), "GIF")
    frame = gif[gif.index(b",") : -1]
    path = tmp_path / "a.gif"
    path.write_bytes(gif[:-1] + frame * 10**6 + b";")
    with bounded():
        assert shown(path).shape == (8, 8, 3)
    root = own_folder(tmp_path / "mine", "cat", "dog")
    inner = root / "cat"
    for _ in range(1100):  # more than Python's limit of calls
        inner = inner / "a"
        inner.mkdir()
    (root / "dog/0.png").rename(inner / "0.png")
    own_folder(root, "dog")
    with bounded():
        found = picture_folder(root)
    assert inner / "0.png" in [path for pairs in found.pairs.values() for path, _ in pairs]
    subprocess.run(["rm", "-r", root], check=True)  # pytest would, by as many calls in calls


# Changed at random: a file is read as it then is, or refused in one sentence


def changed(data):
    """Strategy: bytes with some of theirs changed, most near the beginning or the end, put in, repeated or cut off."""
    places = st.integers(0, len(data) - 1)
    near = st.integers(0, min(200, len(data)) - 1)
    places = st.one_of(near, places, near.map(lambda place: len(data) - 1 - place))
    edits = st.tuples(places, st.sampled_from(["set", "flip", "insert", "cut"]), st.binary(min_size=1, max_size=8))

    def apply(edits):
        result = bytearray(data)
        for place, kind, new in edits:
            if kind == "set":
                result[place : place + len(new)] = new
            elif kind == "flip":
                result[place : place + 1] = bytes([result[place] ^ 1 << new[0] % 8]) if place < len(result) else b""
            elif kind == "insert":
                result[place:place] = new
            else:
                del result[place : place + new[0]]
        return bytes(result)

    return st.lists(edits, min_size=1, max_size=3).map(apply)


def answered(path, data, answer):
    """What reading these bytes gives, or None where they are refused in one sentence."""
    path.write_bytes(data)
    try:
        with bounded():
            return answer(path)
    except FileError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1
        return None


def several(count):
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


def check_set(found):
    if found is not None:
        own, _ = found
        assert own.x.shape == X.shape and own.x.isfinite().all() and own.x.abs().max() <= 1e4
        assert own.y.shape == Y.shape and own.y.isfinite().all() and ((own.y.sum(1) - 1).abs() < 1e-3).all()


SETS = {".safetensors": safetensors({"x": X, "y": Y}), ".pt": pt(), ".npz": npz(x=X.numpy(), y=Y.numpy())}
SETS |= {".msgpack": flax_set(x=X.numpy(), y=Y.numpy())}
HEADER = len(SETS[".safetensors"]) - 4 * (X.numel() + Y.numel())  # bytes of its safetensors file before its numbers


@pytest.mark.parametrize("ending", SETS)
@several(250)
@given(drawn=st.data())
def test_a_changed_set_is_read_whole_or_refused(tmp_path_factory, ending, drawn):
    data = drawn.draw(changed(SETS[ending]))
    check_set(answered(tmp_path_factory.getbasetemp() / f"a{ending}", data, logits))


@several(400)
@given(header=changed(SETS[".safetensors"][8:HEADER]))
def test_a_changed_header_of_safetensors_is_read_whole_or_refused(tmp_path_factory, header):
    """With its right length before it, so that what the header says is what counts."""
    data = safe(header, SETS[".safetensors"][HEADER:])
    check_set(answered(tmp_path_factory.getbasetemp() / "a.safetensors", data, logits))


FILES = [("one", b"1" * 500), ("two/three", bytes(range(256))), ("empty", b"")]
ARCHIVES = {"zip": zip_bytes(*FILES), "tar": gzip.decompress(tar_gz(FILES)), "tar.gz": tar_gz(FILES)}
ARCHIVES |= {"tar.xz": lzma.compress(ARCHIVES["tar"]), "zip stored": zipped(FILES)}


@pytest.mark.parametrize("kind", ARCHIVES)
@several(160)
@given(drawn=st.data())
def test_a_changed_archive_is_read_within_its_limit_or_refused(tmp_path_factory, kind, drawn):
    found = answered(tmp_path_factory.getbasetemp() / "archive", drawn.draw(changed(ARCHIVES[kind])), archive)
    names = [name for name, _ in found or ()]
    assert len(set(names)) == len(names) and sum(len(content) for _, content in found or ()) <= 1 << 20
    if kind.startswith("zip"):  # of zip, each member has a checksum
        assert all(content in [data for _, data in FILES] for _, content in found or ())


DRAWN = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8))
PICTURES = {fmt: encoded(DRAWN, fmt) for fmt in FORMATS}
PICTURES |= {
    "PNG of 16 bits": encoded(Image.new("I;16", (9, 9), 70), "PNG"),
    "animated": encoded(DRAWN, "WEBP", save_all=True, append_images=[DRAWN.rotate(90)]),
}


@pytest.mark.parametrize("fmt", PICTURES)
@several(60)
@given(drawn=st.data())
def test_a_changed_picture_is_shown_or_refused(tmp_path_factory, fmt, drawn):
    found = answered(tmp_path_factory.getbasetemp() / "a.png", drawn.draw(changed(PICTURES[fmt])), shown)
    assert found is None or (found.shape, found.dtype) == ((8, 8, 3), np.uint8)
