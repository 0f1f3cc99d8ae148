"""Where the published archives are, how they are fetched, verified and read.

An archive is verified against its registered checksum before a byte of it is interpreted, also when it is the user's own
copy. Nothing is extracted to disk: members are read one by one, within limits.
Checksums: tensorflow-datasets' lists, except where a comment says otherwise.
"""

import gzip
import hashlib
import os
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from ..files import FileError

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


def _idx(base, *files):
    return tuple(Archive(name, f"{base}/{name}", size, f"sha256:{digest}") for name, size, digest in files)


MNIST = _idx(
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    ("train-images-idx3-ubyte.gz", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    ("train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    ("t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    ("t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)
FASHION_MNIST = _idx(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ("train-images-idx3-ubyte.gz", 26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    ("train-labels-idx1-ubyte.gz", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    ("t10k-images-idx3-ubyte.gz", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ("t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)
_KRIZ, _FASTAI = "https://www.cs.toronto.edu/~kriz", "https://s3.amazonaws.com/fast-ai-imageclas"
_TREC, _IMDB = "http://cogcomp.org/Data/QA/QC", "https://ai.stanford.edu/~amaas/data/sentiment"
_LIBSVM = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass"
_HOUSES = "http://ufldl.stanford.edu/housenumbers"
_IMAGENET = "http://www.image-net.org/data/downsample"
ARCHIVES = {
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "cifar10": _idx(_KRIZ, ("cifar-10-binary.tar.gz", 170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd")),
    "cifar100": _idx(_KRIZ, ("cifar-100-binary.tar.gz", 168513733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec")),
    "svhn": _idx(
        _HOUSES,
        ("train_32x32.mat", 182040794, "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
        ("test_32x32.mat", 64275384, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
    ),
    "usps": (  # the md5 that torchvision has; nobody gives the sizes
        Archive("usps.bz2", f"{_LIBSVM}/usps.bz2", 1 << 24, "md5:ec16c51db3855ca6c91edd34d0e9b197", False),
        Archive("usps.t.bz2", f"{_LIBSVM}/usps.t.bz2", 1 << 23, "md5:8ea070ee2aca1ac39742fdd1ef5ed118", False),
    ),
    "imagenette": _idx(_FASTAI, ("imagenette2-160.tgz", 99003388, "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5")),
    "imagewoof": (  # fastai's own record: the size, and the md5 of the first MiB
        Archive("imagewoof2-160.tgz", f"{_FASTAI}/imagewoof2-160.tgz", 92612825, "md5-first-MiB:3559b194123981a540b87132dbda412f"),
    ),
    "tiny_imagenet": (  # the md5 that the course's mirrors and other libraries quote
        Archive("tiny-imagenet-200.zip", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", 248100043, "md5:90528d7ca1a48142e341f4ef8d21d0de"),
    ),
    "trec": _idx(
        _TREC,
        ("train_5500.label", 335858, "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3"),
        ("TREC_10.label", 23354, "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e"),
    ),
    "imdb": _idx(_IMDB, ("aclImdb_v1.tar.gz", 84125825, "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe")),
    "sst": (Archive("trainDevTestTrees_PTB.zip", "https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip", 1 << 24, None),),  # nobody publishes one
    "imagenet_resized": _idx(
        _IMAGENET,
        ("Imagenet64_train_part1_npz.zip", 6783426789, "9422dc1dc5d092e9814a70a1cb7fc74880d2db5d88a0cb8a34ee363b12bde3f1"),
        ("Imagenet64_train_part2_npz.zip", 6780506068, "9fafc115afb7e6c301e66dc16b2d737152b427bd5dab26e1293487a6819c7f30"),
        ("Imagenet64_val_npz.zip", 529522927, "e1e75133158a1924135a9c6f97a80d2d237b158945e0b34074e58e6c8430eeb8"),
    ),
    "caltech_birds2011": (
        Archive(
            "CUB_200_2011.tgz", "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            1150585339, "sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        ),
    ),
}  # fmt: skip
# Other packings, taken from the user's own archives when the published one is not there. CIFAR-10 without loss as WebP tiles (98 of its
# 60,000 images are not bit-exact); IMDB less 8 of its 50,000 reviews; SST's trees as the files of their zip.
PACKED = {}
PACKED["cifar10"] = (
    Archive("data_batch_1.webp", None, 17041184, "sha256:be07d284e29905f3c4a65320995f89e5e540a47b827de77a1d069d332df5a062"),
    Archive("data_batch_2.webp", None, 17084854, "sha256:3bd9a74739622fa11bf5149883abd495a719cc1b7d1fff26d5a1f91851c9e19f"),
    Archive("data_batch_3.webp", None, 17088790, "sha256:0393549413a605200b52e532bb662c2407195742e8f185c58de7eb507d063b72"),
    Archive("data_batch_4.webp", None, 17058802, "sha256:c853be5d93ab1a4846c5c72a80d24f604d3045ded5bca8e9c5ee10419d9c998a"),
    Archive("data_batch_5.webp", None, 17045814, "sha256:e9decd1dacb6ffe65463a079cabc73927cae706aea1e9083ac65e40c5cfd9c23"),
    Archive("test_batch.webp", None, 17071530, "sha256:ee501101df8fb0b405545cbe2315813862bc2b32f0fad72140c9cc76132361f4"),
    Archive("labels.npz", None, 31051, "sha256:bb27d8e790d6680bfc8579eaa73511f62452bbe86612ed9b985de71af41e6554"),
)


PACKED["usps"] = (Archive("usps.npz", None, 1668482, "sha256:cacab83962eeeffa0a35d888c14098592cd3501b387ec70f384975fd3d75cb4c"),)  # grey values as thousandths
PACKED["imdb"] = (Archive("aclImdb-labelled.tar.xz", None, 18303020, "sha256:38b9af9a3c9dca0c0e2dcfecc28bb6850645b15d834aa09537a71ad7c9b9b24c"),)
PACKED["sst"] = tuple(Archive(f"trees/{split}.txt", None, 1 << 24, None) for split in ("train", "test"))
FAMILY = {"trec6": "trec", "trec50": "trec", "sst5": "sst"}  # sources that read the same archives


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
            raise FileError(f"{path}: has {size} bytes, at most {archive.size} are taken (not the published file); {remedy}")
        return
    if size != archive.size and (archive.exact or size > archive.size):
        raise FileError(f"{path}: has {size} bytes, expected {archive.size} ({'truncated' if size < archive.size else 'not the published file'}); {remedy}")
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
        raise FileError(f"{folder}: the folder of archives (data.archives, DISTILLERY_ARCHIVES) does not exist")
    # Datasets share file names (MNIST and Fashion-MNIST): a folder of the dataset's own comes first.
    return next((p for p in (folder / dataset / name, folder / name) if p.is_file()), None)


def locate(dataset, downloads, archives=None):
    """Verified paths of a dataset's archives: the user's own copies, else downloaded ones -> (list of Paths, packed?)."""
    dataset = FAMILY.get(dataset, dataset)
    wanted, packed = ARCHIVES[dataset], False
    if dataset in PACKED and not own_copy(archives, dataset, wanted[0].name) and own_copy(archives, dataset, PACKED[dataset][-1].name):
        wanted, packed = PACKED[dataset], True
    paths = []
    for archive in wanted:
        path = own_copy(archives, dataset, archive.name)
        if path is None and archive.url is None:
            raise FileError(f"{archives}/{dataset}/{archive.name}: not found, and the other parts of this packed copy are there")
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
    except (requests.RequestException, OSError) as error:
        raise FileError(
            f"{archive.name}: could not be downloaded from {archive.url} ({type(error).__name__}); what came is kept and the next "
            f"try goes on from there. Without a network, put your own copy in a folder and name it in data.archives or DISTILLERY_ARCHIVES"
        ) from error
    try:
        verify(part, archive)
    except FileError:
        part.unlink()  # going on from wrong bytes would never end
        raise
    os.replace(part, path)
    return path


def _stream(archive, part, have):
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(archive.url, headers=headers, stream=True, timeout=30) as response:
        response.raise_for_status()
        resumed = response.status_code == 206
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(total=archive.size, initial=have if resumed else 0, unit="B", unit_scale=True, desc=archive.name) as bar,
        ):
            for block in response.iter_content(BLOCK):
                if file.tell() + len(block) > archive.size:
                    raise requests.RequestException("more bytes than registered")
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
        raise FileError(f"{path}: unpacks to {'more than ' if len(data) > size else ''}{min(len(data), size)} bytes, expected {size}")
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
                raise FileError(f"{path}: member {name!r} would be written outside of its folder; this archive is hostile")
            total += size
            if total > limit:
                raise FileError(f"{path}: unpacks to more than {limit} bytes at member {name!r}; this archive is hostile")
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
