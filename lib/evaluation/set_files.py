"""Files of arrays that others wrote, read without running code of theirs.

PyTorch's files (tensors alone), npz and npy (no objects), safetensors, the msgpack checkpoints of flax in which FRePo's
code keeps its sets, and folders of pictures, one folder a class.
"""

import hashlib
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ..data.archives import read_npy, read_npz
from ..data.folders import PictureFolder, class_folders, pictures_below
from ..data.pictures import SUFFIXES, opened
from ..files import FileError, kind_of, parsing, read_bytes, refuse_unless_file, sha256

MOST_NAMES, MOST_LETTERS = 8, 40  # of what a file holds, in one sentence
REMEDY = "get it again, or save its arrays alone"


def read_torch(path):
    """What torch.save wrote. It packs without compression, so that a file holds no more than its size."""
    with open(path, "rb") as file:
        infos = zipfile.ZipFile(file).infolist() if file.read(2) == b"PK" else []  # else of PyTorch's first form
    if packed := [info.filename for info in infos if info.compress_type != zipfile.ZIP_STORED]:
        raise FileError(
            f"{path}: its record {shown(packed[:1])} is compressed, as torch.save never does; save it again"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # the sentence that follows says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of code in a file, PyTorch advises to run it
        raise ValueError("it holds code or objects") if "weights_only" in str(error) else error from None


def read_flax(path):
    """The tree of a checkpoint of flax. Its arrays are msgpack's extension types 1 and 3 (one number)."""
    import msgpack  # for these files alone

    tree = msgpack.unpackb(read_bytes(path, REMEDY), ext_hook=flax_array)
    return tree.get("params", tree) if isinstance(tree, dict) else tree


def flax_array(code, data):
    """An array of its bytes: a packed tuple (shape, name of the dtype, values in C order)."""
    import msgpack

    if code not in (1, 3):
        raise ValueError(f"extension type {code} is no array")
    shape, dtype, values = msgpack.unpackb(data, raw=True)
    return np.frombuffer(values, np.dtype(dtype.decode())).reshape(shape)


NUMBERS = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
NUMBERS |= {torch.int64, torch.int32, torch.int16, torch.int8, torch.bool}
NUMBERS |= {torch.uint64, torch.uint32, torch.uint16, torch.uint8}
FORMATS = {
    ".pt": read_torch,
    ".pth": read_torch,
    ".npz": read_npz,
    ".npy": lambda path: read_npy(read_bytes(path, REMEDY), path),
    ".safetensors": safetensors.torch.load_file,
    ".msgpack": read_flax,
    "": read_flax,  # flax calls its files checkpoint_STEP
}


def read_arrays(path):
    """What a file holds: {name: array or other value}, or an array. FileError says what is wrong."""
    path = Path(path)
    refuse_unless_file(path, "`file` and `label_file` of a row of `external` name files that are there")
    if path.suffix not in FORMATS:
        known = ", ".join(filter(None, FORMATS))
        raise FileError(f"{path}: has the ending {path.suffix!r}; known are {known}, none (flax), and folders")
    if not path.stat().st_size:
        raise FileError(f"{path}: is empty; get it again")
    with parsing(path, "is damaged, of another format, or holds more than arrays, and is not read", REMEDY):
        return FORMATS[path.suffix](path)


def shown(names):
    """The first names of many, each shortened where it is long, in one line."""
    few = [str(name) if isinstance(name, str) and name.isprintable() else ascii(name) for name in names[:MOST_NAMES]]
    few = [name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}..." for name in few]
    return ", ".join(few) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def plain_tensor(value, name):
    """An array or a number as float32 or int64 on the CPU; FileError, begun with `name`, where it is something else."""
    if isinstance(value, np.ndarray | np.generic | int | float):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":
            raise FileError(f"{name} has values of type {value.dtype}; they must be numbers")
        native = "f8" if value.dtype.kind == "f" else value.dtype.newbyteorder("=")
        value = torch.from_numpy(np.array(value, native, order="C"))
    if not isinstance(value, torch.Tensor):
        raise FileError(f"{name} is of type {type(value).__name__}; it must be an array of numbers")
    kinds = {
        "sparse": value.layout != torch.strided or value.is_nested,
        "quantised": value.is_quantized,
        "complex": value.is_complex(),
        "without values (on the device meta)": value.is_meta,
    }
    if found := [kind for kind, holds in kinds.items() if holds]:
        raise FileError(f"{name} is {found[0]}; save it as a plain tensor of numbers")
    if value.dtype not in NUMBERS:
        raise FileError(f"{name} has values of type {value.dtype}; save it as float32 or int64")
    held = value.untyped_storage().nbytes() // value.itemsize
    if any(size > 1 and not stride for size, stride in zip(value.shape, value.stride())) or value.numel() > held:
        raise FileError(f"{name} repeats numbers by a stride of 0 or an overlap; save a copy of it (`.contiguous()`)")
    if value.is_floating_point():
        return value.detach().float()
    if value.dtype == torch.uint64 and (value.view(torch.int64) < 0).any():
        raise FileError(f"{name} holds a number of 2^63 or more; save it as int64")
    return value.long()


def read_pictures(folder, shape, class_names):
    """A folder of class folders -> (images (N, K, H, W) int64 from 0 to 255, classes (N,) int64, how they were told).

    shape: (K, H, W) that all must have. A class is known by its name, where all names are the data's own; else there is
    a folder for every class, and they count in alphabetical order, as torchvision's ImageFolder has it.
    """
    found = PictureFolder(Path(folder))
    names = list(class_folders(found, found.root))
    if names and set(names) <= set(class_names):
        classes, told = {name: class_names.index(name) for name in names}, "by the names of its class folders"
    elif len(names) == len(class_names):
        classes, told = {name: i for i, name in enumerate(names)}, "by the alphabetical order of its class folders"
    else:
        must = f"{len(class_names)} folders, one a class, or folders with the classes' names ({class_names[0]}, ...)"
        raise FileError(f"{folder}: holds {len(names)} folders ({', '.join(names[:3])}); this data needs {must}")
    found.pairs["train"] = [
        (path, label)
        for name, label in classes.items()
        for path in sorted(pictures_below(found, found.root / name, set()))
    ]
    if not found.pairs["train"]:
        raise FileError(f"{folder}: its class folders hold no pictures ({' '.join(sorted(SUFFIXES))})")
    channels, height, width = shape
    for path, _ in found.pairs["train"]:
        if (size := opened(read_bytes(path, REMEDY), path).size) != (width, height):
            raise FileError(f"{path}: is {size[0]} x {size[1]} pixels; this data has {width} x {height}")
    images, labels = zip(*found.examples("train", height, channels))
    told = "; ".join([told, *found.notes()])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).long(), torch.tensor(labels), told


def digest(*paths):
    """The sha256 of a file; of a folder or of several files, of all their names and digests."""
    whole = [file for path in dict.fromkeys(paths) for file in (sorted(Path(path).rglob("*")) or [Path(path)])]
    files = [(path.name, sha256(path)) for path in whole if kind_of(path) == "file"]
    return files[0][1] if len(files) == 1 else hashlib.sha256(json.dumps(files).encode()).hexdigest()
