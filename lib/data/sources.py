"""Where the published archives are, how they are fetched, verified and read.

An archive is verified against its registered checksum before a byte of it is interpreted, also when it is the user's own
copy. Nothing is extracted to disk: members are read one by one, within limits.
What the sources publish is in sources.yaml, the subsets of ImageNet in imagenet.yaml.
"""

import gzip
import hashlib
import os
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from ..files import FileError, read_yaml

BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """One published file. `digest` is 'sha256:...', 'md5:...' or 'md5-first-MiB:...'.

    Without one, `size` is the most that is taken, and what the file holds is checked by its counts when it is read.
    """

    name: str
    url: str | None  # None: only ever the user's own copy
    size: int
    digest: str | None
    exact: bool = True  # false: `size` is the most that is taken, where a digest is published without a size


SOURCES = read_yaml(
    Path(__file__).with_name("sources.yaml")
)  # a recipe holds the entry that it needs: another entry is no change of it
SUBSETS = {
    name: [(int(index), f"n{wnid}") for index, wnid in (pair.split(":") for pair in pairs.split())]
    for name, pairs in read_yaml(Path(__file__).with_name("imagenet.yaml")).items()
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
    size = Path(path).stat().st_size
    remedy = "delete it and get it again"
    if archive.digest is None:
        if size > archive.size:
            raise FileError(
                f"{path}: has {size} bytes, at most {archive.size} are taken (not the published file); {remedy}"
            )
        return
    if size != archive.size and (archive.exact or size > archive.size):
        raise FileError(
            f"{path}: has {size} bytes, expected {archive.size} ({'truncated' if size < archive.size else 'not the published file'}); {remedy}"
        )
    kind, expected = archive.digest.split(":")
    found = digest(path, kind)
    if found != expected:
        raise FileError(f"{path}: {kind} is {found}, expected {expected} (not the published file); {remedy}")


def own_copy(archives, dataset, name):
    """The user's copy of a file, as FOLDER/DATASET/NAME or FOLDER/NAME, or None."""
    if archives is None:
        return None
    folder = Path(archives).expanduser()
    if not folder.is_dir():
        raise FileError(f"{folder}: the folder of archives (runtime.archives, DISTILLERY_ARCHIVES) does not exist")
    # Datasets share file names (MNIST and Fashion-MNIST): a folder of the dataset's own comes first.
    return next((p for p in (folder / dataset / name, folder / name) if p.is_file()), None)


def archives_in(source, kind):
    return [Archive(**entry) for entry in source.get(kind, ())]


def locate(source, downloads, archives=None):
    """Verified paths of a source's archives: the user's own copies, else downloaded ones -> (list of Paths, packed?)."""
    dataset, published, other = source["family"], archives_in(source, "archives"), archives_in(source, "packed")
    packed = bool(
        other and not own_copy(archives, dataset, published[0].name) and own_copy(archives, dataset, other[-1].name)
    )
    wanted = other if packed else published
    paths = []
    for archive in wanted:
        path = own_copy(archives, dataset, archive.name)
        if path is None and archive.url is None:
            raise FileError(
                f"{archives}/{dataset}/{archive.name}: not found, and the other parts of this packed copy are there"
            )
        if path is None:
            path = download(archive, Path(downloads) / dataset)
        else:
            verify(path, archive)
        paths.append(path)
    return paths, packed


def download(archive, folder):
    """Fetch one archive into `folder`, going on where an earlier attempt stopped; verified before it gets its name."""
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
        raise FileError(
            f"{archive.name}: could not be downloaded from {archive.url} ({type(error).__name__}); what came is kept and the next "
            f"try goes on from there. Without a network, put your own copy in a folder and name it in runtime.archives or DISTILLERY_ARCHIVES"
        ) from error
    try:
        verify(part, archive)
    except FileError:
        part.unlink()  # going on from wrong bytes would never end
        raise
    os.replace(part, path)
    return path


def _stream(archive, part, have):
    import requests  # of all stages, prepare alone needs it

    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(archive.url, headers=headers, stream=True, timeout=30) as response:
        response.raise_for_status()
        resumed = response.status_code == 206
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                total=archive.size, initial=have if resumed else 0, unit="B", unit_scale=True, desc=archive.name
            ) as bar,
        ):
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
        raise FileError(f"{path}: not a complete gzip file ({error}); delete it and get it again") from None
    if len(data) != size:
        raise FileError(
            f"{path}: unpacks to {'more than ' if len(data) > size else ''}{min(len(data), size)} bytes, expected {size}"
        )
    return data


def members(path, limit, wanted=lambda name: True):
    """Yield (name, bytes) for each `wanted` regular file of a tar or zip archive, in its order.

    FileError on a damaged archive, on any name that would leave its folder, and past `limit` unpacked bytes in all.
    """
    total = 0
    try:
        for name, size, opener in _entries(path):
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                raise FileError(
                    f"{path}: member {name!r} would be written outside of its folder; this archive is hostile"
                )
            total += size
            if total > limit:
                raise FileError(
                    f"{path}: unpacks to more than {limit} bytes at member {name!r}; this archive is hostile"
                )
            if wanted(name):
                with opener() as file:
                    yield name, file.read()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise FileError(f"{path}: not a complete archive ({error}); delete it and get it again") from None


def _entries(path):
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
