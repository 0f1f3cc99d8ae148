"""What a stage computes with: the device, the real set, and what a cell takes of its experts."""

import torch

from lib.config.settings import ParamsError
from lib.data.real import load_real, manifest_of
from lib.networks.pretrained import imagenet_resnet18
from lib.rng import generator
from lib.synthetic.initial import initial_set
from lib.training.compute import device_named
from lib.training.experts import labelled_images
from lib.training.trajectories import Trajectories, network_with

from .common import EXPERTS, PREPARED, PREPROCESSING
from .user_files import archives_of


def device_of(runtime):
    """The torch device that the runtime names."""
    try:
        return device_named(runtime.device, runtime.capture)
    except ValueError as error:
        raise ParamsError(f"params.yaml: runtime.device: {error}") from None


def real_set(row, device):
    """A row's real data, preprocessed, on the device."""
    return load_real(PREPARED / row.dataset, PREPROCESSING / f"{row.preprocessing}.safetensors", device)


def judge_of(cell, runtime, experts, device):
    """EDF's judge of images: a trained network, and the class that each label is to it."""
    if cell.distill.judge is None:
        return {}
    if cell.distill.judge == "experts":
        net, classes = network_with(experts.index, experts.weights(0, -1)), list(range(experts.index["num_classes"]))
    else:
        manifest = manifest_of(PREPARED / cell.dataset)
        net, classes = imagenet_resnet18(archives_of(runtime)), manifest.get("imagenet")
        if cell.distill.judge_class == "released" or classes is None:
            classes = list(range(manifest["num_classes"]))
    return {"judge": (net.to(device).eval(), torch.tensor(classes, device=device))}


def experts_of(recipe, runtime, num_nets, device):
    """(what the method takes of its experts, by name; weights (1, num_nets, P) from which evaluations start, or None).

    Evaluations start from trained networks where distillation does: from held-out ones, repeated up to `num_nets`.
    """
    cell = recipe.cell
    if recipe.experts is None:
        return {}, None
    experts = Trajectories(EXPERTS / cell.experts).of_network(recipe.experts.net)
    held_out = recipe.experts.held_out
    if cell.distill.batches == "segments":
        return {"experts": experts, **judge_of(cell, runtime, experts, device)}, None
    starts = None
    if cell.distill.start == "random":
        first = len(experts) - held_out
        starts = experts.last([first + i % held_out for i in range(num_nets)]).to(device)[None]
    return {"experts": experts, "held_out": held_out}, starts


def start_of(cfg, real, name, experts=None):
    """What a run starts from, as SyntheticSet takes it; labels that are to be softened are the experts' logits."""
    if cfg.label_start != "experts":
        return initial_set(real, cfg, name)
    gen = generator(name, "init", device=real.train_y.device)
    return labelled_images(real, cfg.net, experts, cfg.ipc, gen, agreed=cfg.init == "correct")
