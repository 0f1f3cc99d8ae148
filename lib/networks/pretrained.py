"""Pretrained networks, from the user's own files: nothing is downloaded, and no code is loaded from a file."""

from pathlib import Path

import torch

from ..files import FileError, kind_of, refuse_unless_file, sha256

RESNET18 = "resnet18-f37072fd.pth"  # of torchvision, on ImageNet-1K
SHA256 = "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"  # the file's name holds its first digits


def imagenet_resnet18(archives):
    """torchvision's ResNet18 with 1000 classes, weights IMAGENET1K_V1 from the folder `archives`."""
    from torchvision.models import resnet18  # a second and a half, of every stage

    path = None if archives is None else Path(archives).expanduser() / RESNET18
    if path is None or kind_of(path) == "not found":
        remedy = "need torchvision's file in your folder of archives, or judge: experts"
        raise FileError(f"{path or RESNET18}: not found; class maps by ImageNet's ResNet18 {remedy}")
    refuse_unless_file(path, "put torchvision's file there")
    if (digest := sha256(path)) != SHA256:
        raise FileError(f"{path}: SHA-256 is {digest}, expected {SHA256}; it is not torchvision's file: get it again")
    net = resnet18()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net
