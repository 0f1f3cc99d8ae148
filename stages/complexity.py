"""How much of its pictures a dataset's classes fill: `python -m stages complexity DATASET`, of a prepared one."""

import torch
import torch.nn.functional as F

from lib.data.real import load_arrays
from lib.files import write_json
from lib.methods.class_maps import complexity
from lib.networks.pretrained import imagenet_resnet18
from lib.report.published import published_figures
from lib.rng import generator

from .common import EVALUATED, PREPARED, provenance
from .inputs import device_of
from .user_files import archives_of

SIDE, BATCH = 224, 32  # of the pictures that the network sees
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def stage(recipe, runtime):
    """Write each class's complexity in percent, a mean over its training images, by ImageNet's ResNet18.

    The network's file is among your archives. Source: reference sheet of EDF, section 8. A knowing departure: pictures
    come at the prepared resolution and are enlarged from there.
    """
    name, device = recipe.key, device_of(runtime)
    net = imagenet_resnet18(archives_of(runtime)).to(device).eval()
    (pixels, labels), gen = load_arrays(PREPARED / name, "train"), generator("complexity", device=device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    found = []
    for start in range(0, len(pixels), BATCH):
        x = torch.from_numpy(pixels[start : start + BATCH].copy()).to(device).float() / 255
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        found.append(complexity(net, (x - mean) / std, gen))
    percent, labels = 100 * torch.cat(found).cpu(), torch.from_numpy(labels)
    classes = {int(c): round(percent[labels == c].mean().item(), 1) for c in labels.unique()}
    overall = round(sum(classes.values()) / len(classes), 1)
    known = published_figures()["complexity"].get(recipe.dataset.subset)
    print(
        f"{name}: {overall} % over {len(classes)} classes, {len(pixels)} images"
        + (f"; published: {known}" if known else "")
    )
    for c, value in classes.items():
        print(f"  class {c}: {value} %")
    meta = {"dataset": name, "resolution": pixels.shape[-1], "images": len(pixels)}
    write_json(
        EVALUATED / "complexity" / f"{name}.json", {**meta, "classes": classes, "mean": overall, **provenance(device)}
    )
