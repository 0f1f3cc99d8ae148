"""A distilled set in the formats of other programs: class folders of PNG, npz or safetensors, with a card."""

import json
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from ..files import FileError, read_yaml
from .page import TEMPLATES

LICENCES = read_yaml(Path(__file__).parents[1] / "data" / "licences.yaml")
NO_LICENCE = {"id": None, "text": "Not stated here; ask the publisher of the data"}
MEANINGS = {
    "x": "images as networks see them",
    "images": "the same on the scale of pixels, 0 black and 1 white; learned values may lie outside",
    "y": "labels as learned",
    "labels": "the class of each label",
    "lr": "step sizes: (passes, minibatches), the set's equal parts in order",
    "start": "weights from which networks start, in the order of their parameters",
    "mean": "of the channels",
    "std": "of the channels",
    "whitening_mean": "what is subtracted before whitening",
    "whitening": "matrix of the whitening",
}
LOSSES = {
    "squared_error": "0.5 * (z - y).square().sum(1).mean()",
    "cross_entropy": "-(y * z.log_softmax(1)).sum(1).mean()",
}


def export_set(out, form, distilled, preprocess, manifest, facts):
    """Write a DistilledSet of images into the new folder `out`: form is folder, npz or safetensors; README.md the card.

    preprocess: the Preprocess of its images; manifest: of the data; facts: what else the card says (stages/export.py).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileError(f"{out}: is there already; remove it, or name another folder by --out")
    tensors, classes = exported_tensors(distilled, preprocess), class_folders(manifest)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as tmp:
        (folder := Path(tmp) / "set").mkdir()
        if form == "folder":
            facts = facts | write_pictures(folder, tensors, classes, preprocess)
        elif form == "npz":
            np.savez(folder / "set.npz", **{name: t.numpy() for name, t in tensors.items()})
        else:
            save_file(tensors, folder / "set.safetensors")
        (folder / "README.md").write_text(card(form, out, tensors, preprocess, manifest, facts), encoding="utf-8")
        os.replace(folder, out)


def exported_tensors(distilled, preprocess):
    """{name: contiguous tensor on the CPU}, by the names of MEANINGS; x, y, lr and start are exact."""
    x, y, lr, start = distilled
    tensors = {"x": x, "images": preprocess.invert(x.double()).float(), "y": y, "labels": classes_of(y)}
    tensors |= {"lr": lr, "start": start, "mean": preprocess.mean.float(), "std": preprocess.std.float()}
    if preprocess.zca is not None:
        mean, vectors, scale = preprocess.zca
        whitening = (vectors * scale) @ vectors.T  # in float64, as Preprocess has it
        tensors |= {"whitening_mean": mean.float(), "whitening": whitening.float()}
    return {name: t.cpu().contiguous() for name, t in tensors.items() if t is not None}


def classes_of(y):
    """The class (N,) of each label (N, C); of one output, that of the more probable."""
    return (y[:, 0] > 0.5).long() if y.shape[1] == 1 else y.argmax(1)


def class_folders(manifest):
    """A folder's name for each class; their alphabetical order is that of the classes."""
    width, names = len(str(manifest["num_classes"] - 1)), manifest["class_names"]
    plain = [re.sub(r"[^\w.-]+", "_", str(name)) for name in names]
    return [f"{c:0{width}}" + (f"-{name}" if name != str(c) else "") for c, name in enumerate(plain)]


def write_pictures(folder, tensors, classes, preprocess):
    """Write PNG files into class folders, and metadata.jsonl -> what the card says of them."""
    images, labels = tensors["images"], tensors["labels"].tolist()
    levels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    for name in classes:
        (folder / name).mkdir()
    lines, digits = [], len(str(len(images) - 1))
    for i, (pixels, label) in enumerate(zip(levels.permute(0, 2, 3, 1).numpy(), labels)):
        name = f"{classes[label]}/{i:0{digits}}.png"
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(folder / name)
        lines.append(json.dumps({"file_name": name, "label": label, "y": tensors["y"][i].tolist()}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    error = preprocess.apply(levels.double() / 255) - tensors["x"]
    return {
        "clipped": 100 * ((images < 0) | (images > 1)).double().mean().item(),
        "error": error.square().mean().sqrt().item(),
        "deviation": tensors["x"].std().item(),
        "empty": [name for c, name in enumerate(classes) if c not in labels],
    }


def normalisation_code(preprocess):
    """Python that defines normalise(p), images (N, K, H, W) from 0 to 1 as networks see them, from the tensors `s`."""
    lines = ["def normalise(p):"]
    if preprocess.per_image:
        lines += ["    p = p - p.mean((1, 2, 3), keepdim=True)"]
        lines += ["    x = torch.nn.functional.normalize(p.flatten(1)).view_as(p)"]
    else:
        lines += ['    x = (p - s["mean"][:, None, None]) / s["std"][:, None, None]']
    if preprocess.zca is not None:
        lines += ['    x = x - s["whitening_mean"]']
        if (p := preprocess.checkerboard) == 1:
            lines += ['    x = (x.flatten(1) @ s["whitening"]).view_as(x)']
        else:
            lines += ["    y = torch.empty_like(x)", f"    for i, j in itertools.product(range({p}), range({p})):"]
            lines += [f"        part = x[:, :, i::{p}, j::{p}]"]
            lines += [f'        y[:, :, i::{p}, j::{p}] = (part.flatten(1) @ s["whitening"]).view_as(part)']
            return "\n".join([*lines, "    return y"])
    return "\n".join([*lines, "    return x"])


def card(form, out, tensors, preprocess, manifest, facts):
    """README.md of an exported set, with the front matter that Hugging Face reads."""
    one_output = tensors["y"].shape[1] == 1
    loss = "F.binary_cross_entropy_with_logits(z, y)" if one_output else LOSSES[facts["protocol"]["loss"]]
    text = TEMPLATES.get_template("card.md").render(
        **{**facts, "protocol": json.dumps(facts["protocol"])},
        recipe=yaml.safe_dump(facts["cell"], sort_keys=False),
        form=form,
        out=out,
        count=len(tensors["x"]),
        num_classes=manifest["num_classes"],
        shape=", ".join(map(str, manifest["shape"])),
        mean=[round(value, 6) for value in preprocess.mean.tolist()],
        std=[round(value, 6) for value in preprocess.std.tolist()],
        held={name: (tuple(t.shape), MEANINGS[name]) for name, t in tensors.items()},
        code=normalisation_code(preprocess),
        loss=loss,
        licence=LICENCES.get(manifest["source"], NO_LICENCE),
        schedule="lr" in tensors,
    )
    return f"{text}\n"
