"""Files that are data, never code: JSON and safetensors, written to a temporary name and renamed."""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import strict_yaml

LARGEST_YAML = 4 << 20  # bytes: twenty times params.yaml


class FileError(Exception):
    """A file that is missing, damaged or not what it should be; the message says what to do."""


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path`; it takes the place of `path` if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def write_json(path, value):
    with replacing(path) as tmp:
        tmp.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise FileError(f"{path}: not found; run the stage that writes it (`dvc repro`)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: not valid JSON ({error}); delete it and run its stage again") from None


def read_yaml(path):
    """The plain values of a YAML file (`strict_yaml`); FileError names each line that is wrong."""
    path = Path(path)
    try:
        if not path.is_file():
            raise FileError(
                f"{path}: a folder, pipe or device; must be a file"
                if path.exists()
                else f"{path}: not found; run from the repository's root"
            )
        with open(path, "rb") as file:
            data = file.read(LARGEST_YAML + 1)
        if len(data) > LARGEST_YAML:
            raise FileError(f"{path}: has more than {LARGEST_YAML:,} bytes; nobody writes so much by hand")
        return strict_yaml.load(data.decode("utf-8-sig"))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); correct its permissions") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"{path}: line {line}: byte {data[error.start]:#x} is not UTF-8; save the file as UTF-8"
        ) from None
    except strict_yaml.Refused as error:
        raise FileError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def write_metrics(path, means, record):
    """Write means, scalars by name, for DVC's tables, and the whole record in a list, which the tables leave out."""
    write_json(path, {**means, "measured": [record]})


def read_metrics(path):
    """The record of a metrics file."""
    (record,) = read_json(path)["measured"]
    return record


def link(source, target):
    """Give a file a second name, without storing it twice where the file system can."""
    with replacing(target) as tmp:
        try:
            os.link(source, tmp)
        except OSError:
            shutil.copyfile(source, tmp)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(path, tensors, **meta):
    """Write a dict of tensors and JSON-able metadata as one safetensors file."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with replacing(path) as tmp:
        save_file(tensors, tmp, metadata={"json": json.dumps(meta)})


def load_tensors(path, device="cpu"):
    """Read what `save_tensors` wrote -> (dict of tensors, metadata dict)."""
    if not Path(path).is_file():
        raise FileError(f"{path}: not found; run the stage that writes it (`dvc repro`)")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            meta = json.loads((file.metadata() or {}).get("json", "{}"))
            return {k: file.get_tensor(k) for k in file.keys()}, meta
    except (SafetensorError, json.JSONDecodeError) as error:
        raise FileError(
            f"{path}: not a complete safetensors file ({error}); delete it and run its stage again"
        ) from None


def save_state(path, state):
    """Write a nested state (dicts and lists of tensors and JSON values, as `state_dict()` returns) without pickle."""
    tensors = {}

    def strip(node):
        if isinstance(node, torch.Tensor):
            tensors[f"t{len(tensors)}"] = node.clone()
            return {"$tensor": f"t{len(tensors) - 1}"}
        if isinstance(node, dict):  # pairs, because JSON would turn an optimiser's integer keys into strings
            return {"$dict": [[k, strip(v)] for k, v in node.items()]}
        if isinstance(node, (list, tuple)):
            return [strip(v) for v in node]
        return node

    tree = strip(state)
    save_tensors(path, tensors, tree=tree)


def load_state(path, device="cpu"):
    """Read what `save_state` wrote, tensors on `device`."""
    tensors, meta = load_tensors(path, device)

    def restore(node):
        if isinstance(node, list):
            return [restore(v) for v in node]
        if isinstance(node, dict):
            return tensors[node["$tensor"]] if "$tensor" in node else {k: restore(v) for k, v in node["$dict"]}
        return node

    if "tree" not in meta:
        raise FileError(f"{path}: a safetensors file, but not a saved state; delete it and run its stage again")
    return restore(meta["tree"])
