"""Where the published archives are, and how they are downloaded, verified and read.

An archive is verified against its registered checksum before it is parsed, also when it is the user's own copy.
Nothing is extracted to disk: members are read one by one, within limits. sources.yaml and imagenet.yaml are the tables.
"""

import gzip
import hashlib
import os
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..files import FileError, read_yaml
from ..progress import progress_bar

BLOCK = 1 << 20
REMEDY = "delete it and get it again"


@dataclass(frozen=True)
class Archive:
    """One published file. `digest` is 'sha256:...', 'md5:...' or 'md5-first-MiB:...'.

    Without a digest, `size` is an upper limit, and the number of examples is checked when the file is read.
    """

    name: str
    url: str | None  # None: only ever the user's own copy
    size: int
    digest: str | None
    exact: bool = True  # false: `size` is an upper limit, where a digest is published without a size


FOLDER = Path(__file__).parent
SOURCES = read_yaml(FOLDER / "sources.yaml")  # a recipe holds only the entry that it needs
SUBSETS = {
    name: [(int(index), f"n{wnid}") for index, wnid in (pair.split(":") for pair in pairs.split())]
    for name, pairs in read_yaml(FOLDER / "imagenet.yaml").items()
}


def in_shape(dataset):
    """(K, H, W) of a dataset's images."""
    channels = dataset.channels or (SOURCES[dataset.source]["channels"] if dataset.source else 3)
    return channels, dataset.resolution, dataset.resolution


def is_text(dataset):
    """Whether a dataset is of sentences, not of images."""
    return bool(dataset.source and SOURCES[dataset.source].get("text"))


def digest(path, kind):
    """Hex digest of a file by one of Archive's kinds."""
    with open(path, "rb") as file:
        if kind == "md5-first-MiB":
            return hashlib.md5(file.read(BLOCK)).hexdigest()
        return hashlib.file_digest(file, kind).hexdigest()


def verify(path, archive):
    """Refuse a file that is not the published one, byte for byte."""
    size, other = Path(path).stat().st_size, "not the published file"
    if archive.digest is None:
        if size > archive.size:
            raise FileError(f"{path}: has {size} bytes, at most {archive.size} are taken ({other}); {REMEDY}")
        return
    if size != archive.size and (archive.exact or size > archive.size):
        problem = "truncated" if size < archive.size else other
        raise FileError(f"{path}: has {size} bytes, expected {archive.size} ({problem}); {REMEDY}")
    kind, expected = archive.digest.split(":")
    actual = digest(path, kind)
    if actual != expected:
        raise FileError(f"{path}: {kind} is {actual}, expected {expected} ({other}); {REMEDY}")


def own_copy(archives, dataset, name):
    """The user's copy of a file, as FOLDER/DATASET/NAME or FOLDER/NAME, or None."""
    if archives is None:
        return None
    folder = Path(archives).expanduser()
    if not folder.is_dir():
        raise FileError(f"{folder}: the folder of archives (runtime.archives, DISTILLERY_ARCHIVES) does not exist")
    # Datasets share file names (MNIST and Fashion-MNIST): a folder of the dataset's own comes first.
    return next((p for p in (folder / dataset / name, folder / name) if p.is_file()), None)


def locate(source, downloads, archives=None):
    """Verified paths of a source's archives: the user's own copies, else downloads -> (list of Paths, repacked?)."""
    dataset = source["family"]
    published, packed = ([Archive(**entry) for entry in source.get(kind, ())] for kind in ("archives", "packed"))
    have_published = own_copy(archives, dataset, published[0].name)
    repacked = bool(packed and not have_published and own_copy(archives, dataset, packed[-1].name))
    paths = []
    for archive in packed if repacked else published:
        path = own_copy(archives, dataset, archive.name)
        if path is None and archive.url is None:
            missing = f"{archives}/{dataset}/{archive.name}"
            raise FileError(f"{missing}: not found, and the other parts of this packed copy are there")
        if path is None:
            path = download(archive, Path(downloads) / dataset)
        else:
            verify(path, archive)
        paths.append(path)
    return paths, repacked


def download(archive, folder):
    """Download one archive into `folder`, resuming an earlier attempt; it is verified before it gets its name."""
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.exists():
        verify(path, archive)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() and archive.digest and archive.exact else 0
    try:
        if have < archive.size:
            _stream(archive, part, have)
    except OSError as error:
        problem = f"could not be downloaded from {archive.url} ({type(error).__name__})"
        raise FileError(
            f"{archive.name}: {problem}; what came is kept and the next try goes on from there. Without a network, put "
            "your own copy in a folder and name it in runtime.archives or DISTILLERY_ARCHIVES"
        ) from error
    try:
        verify(part, archive)
    except FileError:
        part.unlink()  # resuming from wrong bytes would never end
        raise
    os.replace(part, path)
    return path


def _stream(archive, part, have):
    import requests  # of all stages, prepare alone needs it

    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(archive.url, headers=headers, stream=True, timeout=30) as response:
        response.raise_for_status()
        resumed = response.status_code == 206
        sizes = {"total": archive.size, "initial": have if resumed else 0, "unit": "B", "unit_scale": True}
        with open(part, "ab" if resumed else "wb") as file, progress_bar(desc=archive.name, **sizes) as bar:
            for block in response.iter_content(BLOCK):
                if file.tell() + len(block) > archive.size:
                    raise OSError("more bytes than registered")
                file.write(block)
                bar.update(len(block))


def gunzip(path, size):
    """The `size` bytes that a .gz file must hold; never more than that is unpacked."""
    try:
        with gzip.open(path) as file:
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: not a complete gzip file ({error}); {REMEDY}") from None
    if len(data) != size:
        unpacked = f"{'more than ' if len(data) > size else ''}{min(len(data), size)} bytes"
        raise FileError(f"{path}: unpacks to {unpacked}, expected {size}")
    return data


def members(path, limit, wanted=lambda name: True):
    """Yield (name, bytes) for each `wanted` regular file of a tar or zip archive, in its order.

    FileError if the archive is damaged, if a name would leave the archive's folder, or past `limit` unpacked bytes.
    """
    total = 0
    try:
        for name, size, opener in _entries(path):
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                problem = f"member {name!r} would be written outside of its folder"
                raise FileError(f"{path}: {problem}; this archive is hostile")
            total += size
            if total > limit:
                problem = f"unpacks to more than {limit} bytes at member {name!r}"
                raise FileError(f"{path}: {problem}; this archive is hostile")
            if wanted(name):
                with opener() as file:
                    yield name, file.read()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise FileError(f"{path}: not a complete archive ({error}); {REMEDY}") from None


def _entries(path):
    """(name, size, function that opens it) of each regular file of an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: archive.open(info)
    else:
        with tarfile.open(path) as archive:
            for info in archive:
                if info.isfile():
                    yield info.name, info.size, lambda info=info: archive.extractfile(info)
