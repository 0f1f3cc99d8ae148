"""What a cell takes of its experts: their trajectories, or starts for its networks."""

import torch

from lib.data.trajectories import Trajectories, network_with
from lib.experts import labelled_images
from lib.files import read_json
from lib.networks.pretrained import imagenet_resnet18
from lib.rng import generator
from lib.schema import METHOD_PARAMS, TRAJECTORIES
from lib.synthetic import initial_set

from .common import EXPERTS, PREPARED
from .own import archives_of


def judge_of(params, cell, experts, device):
    """EDF's judge of images: a trained network, and the class that each label is to it."""
    if not isinstance(cell.distill, METHOD_PARAMS["edf"]):
        return {}
    if cell.distill.judge == "experts":
        net, classes = network_with(experts.index, experts.weights(0, -1)), list(range(experts.index["num_classes"]))
    else:
        manifest = read_json(PREPARED / cell.dataset / "manifest.json")
        net, classes = imagenet_resnet18(archives_of(params)), manifest.get("imagenet")
        if cell.distill.judge_class == "released" or classes is None:
            classes = list(range(manifest["num_classes"]))
    return {"judge": (net.to(device).eval(), torch.tensor(classes, device=device))}


def experts_of(params, cell, num_nets, device):
    """(what the cell's method takes of its experts, by name; the weights (1, num_nets, P) from which evaluations start, or None).

    Evaluations start from trained networks where distillation does, from held-out ones, each as often as it takes to have `num_nets`.
    """
    if cell.experts is None:
        return {}, None
    experts, held_out = Trajectories(EXPERTS / cell.experts), params.experts[cell.experts].held_out
    if isinstance(cell.distill, TRAJECTORIES):
        return {"experts": experts, **judge_of(params, cell, experts, device)}, None
    starts = None
    if cell.distill.start == "random":
        first = len(experts) - held_out
        starts = experts.last([first + i % held_out for i in range(num_nets)]).to(device)[None]
    return {"experts": experts, "held_out": held_out}, starts


def start_of(cell, real, name, experts=None):
    """What a run starts from, as SyntheticSet takes it; labels that are to be softened are the experts' logits."""
    cfg = cell.distill
    if not isinstance(cfg, METHOD_PARAMS["datm"]):
        return initial_set(real, cfg, name)
    gen = generator(name, "init", device=real.train_y.device)
    return labelled_images(real, cfg.net, experts, cfg.ipc, gen, agreed=cfg.init == "correct")
