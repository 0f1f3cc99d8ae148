"""Archives and arrays of others, read within limits: what a file declares is checked before memory is taken for it.

Nothing is extracted to disk: members are read one by one. Archives are zip, tar, tar.gz, tar.bz2 and tar.xz, told by
their first bytes; arrays are npy and npz. Whatever is damaged or hostile in them becomes one FileError.
"""

import bz2
import gzip
import io
import lzma
import math
import os
import tarfile
import zipfile
import zlib
from contextlib import ExitStack
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ..files import FileError, parsing, read_bytes, refuse_unless_file

BLOCK = 1 << 20
HEADER = 512  # of each member of a tar; without it, members of no bytes would cost nothing
ENCRYPTED = 1  # a flag of zip's
SHOWN = 100  # characters of a member's name
ALWAYS_TAKEN, MOST_TIMES = 64 << 20, 100  # bytes that an npz may unpack to, and how often its size above them
REMEDY = "delete it and get it again"
DECOMPRESSORS = {  # by the first two bytes; xz itself would take the memory that its header asks for, up to 4 GiB
    b"\x1f\x8b": partial(zlib.decompressobj, 16 + zlib.MAX_WBITS),
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7": partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=1 << 28),
}
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def unpacked(path, limit, packed=None):
    """The bytes of a .gz, .bz2 or .xz file, told by its first two; FileError past `limit` of them, or for damage."""
    packed = read_bytes(path, REMEDY) if packed is None else packed
    with parsing(path, "not a complete gz, bz2 or xz file", REMEDY):
        if packed[:2] not in DECOMPRESSORS:
            raise ValueError(f"begins with {packed[:2]!r}")
        decompressor = DECOMPRESSORS[packed[:2]]()
        data = decompressor.decompress(packed, limit + 1)
        if len(data) > limit:
            raise FileError(f"{path}: unpacks to more than {limit} bytes, expected {limit} at most; {REMEDY}")
        if not decompressor.eof or decompressor.unused_data:
            raise EOFError("its end is missing" if not decompressor.eof else "other bytes follow its end")
    return data


def gunzip(path, size):
    """The `size` bytes that a .gz file must hold; never more than that is unpacked."""
    data = unpacked(path, size)
    if len(data) != size:
        raise FileError(f"{path}: unpacks to {len(data)} bytes, expected {size}; {REMEDY}")
    return data


def members(path, limit, wanted=lambda name: True, data=None):
    """Yield (name, bytes) for each `wanted` file of an archive (zip, tar, tar.gz, tar.bz2, tar.xz), in its order.

    data: the archive's bytes, where it is itself the member `path` of another; else it is read from `path`.
    FileError if the archive is damaged, if a name would leave the archive's folder, if a wanted name comes twice or is
    no file, or past `limit` unpacked bytes, for which what the archive declares counts before it is unpacked.
    """
    total, names = 0, set()
    with parsing(path, "not a complete archive", REMEDY):
        for name, size, opener in _entries(path, limit, data):
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                problem = f"member {name[:SHOWN]!r} would be written outside of its folder"
                raise FileError(f"{path}: {problem}; this archive is hostile")
            total += size + HEADER
            if size < 0 or total > limit:
                problem = f"unpacks to more than {limit} bytes at member {name[:SHOWN]!r}"
                raise FileError(f"{path}: {problem}; this archive is hostile")
            if not wanted(name):
                continue
            if name in names:
                raise FileError(f"{path}: holds member {name[:SHOWN]!r} twice; {REMEDY}")
            names.add(name)
            with opener() as file:  # read in blocks: a member may hold more than it says
                content = b"".join(iter(lambda: file.read(BLOCK), b""))
            if len(content) != size:
                problem = f"member {name[:SHOWN]!r} holds {len(content)} bytes and declares {size}"
                raise FileError(f"{path}: {problem}; {REMEDY}")
            yield name, content


def _entries(path, limit, data):
    """(name, size, function that opens it) of each member of an archive that is no folder."""
    if data is None:
        refuse_unless_file(path, REMEDY)
    with open(path, "rb") if data is None else io.BytesIO(data) as file, ExitStack() as stack:
        start = file.read(2)
        file.seek(0)
        if start == b"PK":
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        yield info.filename, info.file_size, partial(_open_zipped, path, archive, info)
            return
        if start in (b"BZ", b"\xfd7"):
            file = io.BytesIO(unpacked(path, limit, file.read()))
        elif start == b"\x1f\x8b":
            file = stack.enter_context(gzip.open(file))
        guarded = Guarded(file, limit)
        with tarfile.open(fileobj=guarded, mode="r:") as archive:
            for info in archive:
                if not info.isdir():
                    yield info.name, info.size, partial(_open_tarred, path, archive, info)
            guarded.seek(archive.offset)
            if guarded.read(HEADER).strip(b"\0"):  # there tarfile ends without a word
                raise tarfile.ReadError("a header is damaged")
            guarded.read(BLOCK)  # what fills its last block; at the end, gzip compares its checksum


def _open_zipped(path, archive, info):
    if info.flag_bits & ENCRYPTED:
        raise FileError(f"{path}: member {info.filename[:SHOWN]!r} is encrypted; pack it again without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # of others, one block may fill the memory
        problem = f"member {info.filename[:SHOWN]!r} is compressed by method {info.compress_type}"
        raise FileError(f"{path}: {problem}; methods 0 (stored) and 8 (deflated) are taken: pack it again")
    return archive.open(info)


def _open_tarred(path, archive, info):
    if not info.isfile():
        raise FileError(f"{path}: member {info.name[:SHOWN]!r} is a link or a device; a file was expected: {REMEDY}")
    return archive.extractfile(info)


class Guarded:
    """A file as tarfile reads it: whatever a header declares, never more than a block at once and `limit` in all."""

    def __init__(self, file, limit):
        self.file, self.left = file, limit + 2 * BLOCK
        self.seek, self.tell = file.seek, file.tell

    def read(self, size=-1):
        self.left -= size
        if not 0 <= size <= BLOCK or self.left < 0:
            raise tarfile.ReadError(f"a header declares {size} bytes of its own")
        return self.file.read(size)


def read_npz(path, data=None):
    """{name: array} of an npz file, or of its bytes, as `members` takes them."""
    if data is None:
        refuse_unless_file(path, REMEDY)
    size = os.path.getsize(path) if data is None else len(data)
    files = members(path, ALWAYS_TAKEN + MOST_TIMES * size, data=data)
    return {name.removesuffix(".npy"): read_npy(content, f"{path}: {name}") for name, content in files}


def read_npy(data, name):
    """The array of an npy file's bytes; FileError for objects, which are pickles, and where its size is not its own."""
    with parsing(name, "is damaged, of another format, or holds more than arrays, and is not read", REMEDY):
        file = io.BytesIO(data)
        shape, _, dtype = NPY_HEADERS[np.lib.format.read_magic(file)](file)
        declared, held = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
        if not dtype.hasobject and (declared != held or min(shape, default=0) < 0):
            found = f"declares shape {shape} of {dtype}, {declared} bytes, and holds {held}"
            raise FileError(f"{name}: {found}; get it again")
        return np.load(io.BytesIO(data), allow_pickle=False)
