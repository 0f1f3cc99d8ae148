"""Files of arrays that others wrote, read without running code of theirs.

PyTorch's files (tensors alone), npz and npy (no objects), safetensors, the msgpack checkpoints of flax in which FRePo's
code keeps its sets, and folders of pictures, one folder a class.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ..data.folders import PictureFolder, class_folders, pictures_below
from ..data.pictures import SUFFIXES, opened
from ..files import FileError, sha256


def read_torch(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def read_numpy(path):
    arrays = np.load(path, allow_pickle=False)
    return arrays if isinstance(arrays, np.ndarray) else {name: arrays[name] for name in arrays.files}


def read_flax(path):
    """The tree of a checkpoint of flax. Its arrays are msgpack's extension types 1 and 3 (one number)."""
    import msgpack  # for these files alone

    tree = msgpack.unpackb(path.read_bytes(), ext_hook=flax_array)
    return tree.get("params", tree) if isinstance(tree, dict) else tree


def flax_array(code, data):
    """An array of its bytes: a packed tuple (shape, name of the dtype, values in C order)."""
    import msgpack

    if code not in (1, 3):
        raise ValueError(f"extension type {code} is no array")
    shape, dtype, values = msgpack.unpackb(data, raw=True)
    return np.frombuffer(values, np.dtype(dtype.decode())).reshape(shape)


FORMATS = {
    ".pt": read_torch,
    ".pth": read_torch,
    ".npz": read_numpy,
    ".npy": read_numpy,
    ".safetensors": safetensors.torch.load_file,
    ".msgpack": read_flax,
    "": read_flax,  # flax calls its files checkpoint_STEP
}


def read_arrays(path):
    """What a file holds: {name: array or other value}, or an array. FileError says what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: not found; `file` and `label_file` of a row of `external` name files that are there")
    if path.suffix not in FORMATS:
        known = ", ".join(filter(None, FORMATS))
        raise FileError(f"{path}: has the ending {path.suffix!r}; known are {known}, none (flax), and folders")
    if not path.stat().st_size:
        raise FileError(f"{path}: is empty; get it again")
    try:
        return FORMATS[path.suffix](path)
    except Exception as error:  # of a damaged file these parsers raise almost anything
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise FileError(
            f"{path}: is damaged, of another format, or holds more than arrays, and is not read ({told}); "
            "save its arrays alone"
        ) from None


def plain_tensor(value, name):
    """An array or a number as float32 or int64 on the CPU; FileError, begun with `name`, where it is something else."""
    if isinstance(value, np.ndarray | np.generic | int | float):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":
            raise FileError(f"{name} has values of type {value.dtype}; they must be numbers")
        value = torch.from_numpy(np.ascontiguousarray(value, "f8" if value.dtype.kind == "f" else "i8"))
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
    if any(size > 1 and not stride for size, stride in zip(value.shape, value.stride())):
        raise FileError(f"{name} repeats one number by a stride of 0; save a copy of it (`.contiguous()`)")
    return value.detach().float() if value.is_floating_point() else value.long()


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
        if (size := opened(path.read_bytes(), path).size) != (width, height):
            raise FileError(f"{path}: is {size[0]} x {size[1]} pixels; this data has {width} x {height}")
    images, labels = zip(*found.examples("train", height, channels))
    told = "; ".join([told, *found.notes()])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).long(), torch.tensor(labels), told


def digest(*paths):
    """The sha256 of a file; of a folder or of several files, of all their names and digests."""
    whole = [file for path in dict.fromkeys(paths) for file in (sorted(Path(path).rglob("*")) or [Path(path)])]
    files = [(path.name, sha256(path)) for path in whole if path.is_file()]
    return files[0][1] if len(files) == 1 else hashlib.sha256(json.dumps(files).encode()).hexdigest()
