"""Files that are data, never code: JSON and safetensors, written to a temporary name and renamed."""

import hashlib
import json
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

MOST_TOLD = 200  # characters of another library's message


class FileError(Exception):
    """A file that is missing, damaged or not what it should be; the message says what to do."""


def kind_of(path):
    """What a path leads to: "file", "folder", or in words what must not be opened, as a pipe, which may never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: of a name with a zero byte
        told = getattr(error, "strerror", None) or error
        if os.path.islink(path):
            return f"a link that leads nowhere ({told})"
        return "not found" if isinstance(error, FileNotFoundError | NotADirectoryError) else f"cannot be read ({told})"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "neither a file nor a folder, but a device, a pipe or a socket"


def refuse_unless_file(path, remedy):
    """FileError, with the remedy, unless `path` leads to a regular file."""
    if (kind := kind_of(path)) != "file":
        raise FileError(f"{path}: {'a folder, not a file' if kind == 'folder' else kind}; {remedy}")


def read_bytes(path, remedy):
    """The bytes of a regular file; FileError for all else, which is not opened."""
    refuse_unless_file(path, remedy)
    with parsing(path, "cannot be read", remedy):
        return Path(path).read_bytes()


@contextmanager
def parsing(path, problem, remedy):
    """What a parser raises, which is nearly anything where a file is damaged, becomes one FileError about `path`."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:MOST_TOLD]}"
        told = "".join(letter if letter.isprintable() else "?" for letter in told)
        if isinstance(error, OSError) and error.errno:  # of the machine, not of the file
            problem, told = "cannot be read", error.strerror
        elif isinstance(error, MemoryError):
            problem, told, remedy = (
                "cannot be read",
                "no memory is left",
                "end other programs, or take a larger machine",
            )
        raise FileError(f"{path}: {problem} ({told}); {remedy}") from None


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
    return yaml.load(
        Path(path).read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )  # C: the same, quicker


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
