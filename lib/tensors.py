"""Tensors in safetensors files, with JSON-able metadata; sealed by a digest; and nested states without pickle."""

import hashlib
import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .files import REMEDY, FileError, parsing, refuse_unless_file, replacing


def memory_of(device):
    """Bytes of a GPU's memory; of the meta device, an H100's."""
    if device.type == "meta":
        return 80 * 10**9
    return torch.cuda.get_device_properties(device).total_memory


def save_tensors(path, tensors, **meta):
    """Write a dict of tensors and JSON-able metadata as one safetensors file."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with replacing(path) as tmp:
        save_file(tensors, tmp, metadata={"json": json.dumps(meta)})


def load_tensors(path, device="cpu"):
    """Read what `save_tensors` wrote -> (dict of tensors, metadata dict)."""
    refuse_unless_file(path, "run the stage that writes it (`dvc repro`)")
    with parsing(path, "not a complete safetensors file", REMEDY):
        with safe_open(path, framework="pt", device=str(device)) as file:
            meta = json.loads((file.metadata() or {}).get("json", "{}"))
            return {k: file.get_tensor(k) for k in file.keys()}, meta


def save_sealed(path, tensors, **meta):
    """As `save_tensors`, with a digest of all that the file holds."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    save_tensors(path, tensors, **meta, digest=digest_of(tensors, meta))


def load_sealed(path, device="cpu"):
    """Read what `save_sealed` wrote, as `load_tensors` does; FileError where a bit of it has changed."""
    tensors, meta = load_tensors(path)
    if not isinstance(meta, dict) or meta.pop("digest", None) != digest_of(tensors, meta):
        raise FileError(f"{path}: damaged: it differs from the digest that it was written with; {REMEDY}")
    return {k: v.to(device) for k, v in tensors.items()}, meta


def digest_of(tensors, meta):
    """SHA-256 of tensors on the CPU, with their names, dtypes and shapes, and of JSON-able metadata."""
    whole = hashlib.sha256(json.dumps(meta).encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def save_state(path, state, owner):
    """Write a nested state (dicts and lists of tensors and JSON values, as `state_dict()` returns) without pickle.

    owner: a text that says whose state it is.
    """
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
    save_sealed(path, tensors, tree=tree, owner=owner)


def load_state(path, owner, device="cpu"):
    """Read what `save_state` wrote for this owner, tensors on `device`; FileError for what is another's."""
    tensors, meta = load_sealed(path, device)
    if meta.get("owner") != owner:
        raise FileError(f"{path}: a state of {meta.get('owner')!r}, not of {owner!r}; {REMEDY}")

    def restore(node):
        if isinstance(node, list):
            return [restore(v) for v in node]
        if isinstance(node, dict):
            return tensors[node["$tensor"]] if "$tensor" in node else {k: restore(v) for k, v in node["$dict"]}
        return node

    return restore(meta["tree"])
