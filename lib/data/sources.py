"""Where the published archives are, and how they are downloaded and verified.

An archive is verified against its registered checksum before it is parsed, also when it is the user's own copy.
sources.yaml and imagenet.yaml are the tables.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..files import FileError, kind_of, read_yaml, refuse_unless_file
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
    if kind_of(folder) != "folder":
        raise FileError(f"{folder}: the folder of archives (runtime.archives, DISTILLERY_ARCHIVES) does not exist")
    for path in (folder / dataset / name, folder / name):  # datasets share names (MNIST, Fashion-MNIST): first its own
        if kind_of(path) != "not found":
            refuse_unless_file(path, REMEDY)
            return path
    return None


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
