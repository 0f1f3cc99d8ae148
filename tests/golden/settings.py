"""What the traces run: settings of methods, protocols, experts, networks and preprocessing, at toy size."""

from functools import partial

import torch

from lib.augment import POLICIES

from .data import SHAPE, TEXT, real_set, sentences

DENSE, CONV, CONVNET = "dense1-w8", "conv1-w4", "convnet1-w4-instance"

DISTILL = {
    "labels": "one_hot", "batches": "by_class", "classes": None, "minibatches": 1, "real_batch": 8, "attack": None,
    "judge": None, "label_start": "one_hot", "learn_labels": False, "net": CONVNET, "ipc": 2, "seeds": (0,), "steps": 3,
    "init": "real", "rank": 0, "images": 0, "conv_dtype": "float32", "class_steps": 1, "chunk": 0, "augment": "none",
    "eval_at": (1,), "eval_every": 2, "select": "best_test",
}  # fmt: skip
FREPO = {
    "labels": "centred", "batches": "straddling", "real_batch": 20, "net": CONV, "learn_labels": True, "flip": False,
    "outer_lr": 0.02, "outer_lr_final": 0.1, "pool_size": 2, "reset_after": 2, "online_lr": 0.01, "online_batch": 4,
    "krr_dtype": "float64", "steps": 8,
}  # fmt: skip
DC = {
    "lr_img": 0.5, "distance": "layerwise", "outer": 2, "inner_epochs": 2, "lr_net": 0.05, "net_batch": 4, "steps": 4,
}  # fmt: skip
DD = {
    "labels": "outputs", "batches": "epochs", "real_batch": 20, "net": DENSE, "epochs": 2, "lr_start": 0.3, "ipc": 1,
    "start": "fixed", "nets_per_step": 1, "outer_lr": 0.05, "halve_every": 2, "init": "noise",
}  # fmt: skip
RAT = {
    "batches": "epochs", "real_batch": 20, "net": DENSE, "init": "noise", "inner_steps": 6, "inner_batch": 0,
    "batch_per_class": 0, "window": 3, "place": "random", "redraw_every": 1, "lr_net": 0.02, "outer_lr": 0.05,
    "steps": 4,
}  # fmt: skip
MTT = {
    "batches": "segments", "inner_steps": 4, "expert_epochs": 1, "min_start": 0, "max_start": 2, "max_start_first": 0,
    "expand_steps": 0, "batch_syn": 0, "lr_img": 0.5, "lr_start": 0.1, "lr_lr": 1e-3, "augment": "dsa",
    "gradient": "exact",
}  # fmt: skip
DATM = {
    **MTT, "learn_labels": True, "label_start": "experts", "lr_y": 0.5, "threshold": 9.0, "drop": 0.0,
    "max_start_first": 1, "expand_steps": 2,
}  # fmt: skip
BASES = {
    "dd": DD,
    "sldd": {**DD, "learn_labels": True, "label_softmax": False},
    "rat": RAT,
    "frepo": FREPO,
    "isa": {**FREPO, "epsilon": 0.5, "topk": 0.6},
    "dc": DC,
    "dsa": {**DC, "augment": "dsa"},
    "dm": {"lr_img": 0.5, "augment": "dsa"},
    "mtt": MTT,
    "datm": DATM,
    "edf": {**DATM, "drop": 0.25, "map_every": 2, "beta": 1.0, "maps": "smooth_gradcam_pp", "judge": "experts"},
}

NOISE_RANK, SVD_RANK = {"rank": 1, "images": 3, "init": "noise"}, {"rank": 2, "init": "svd"}
SENTENCES = partial(sentences, 4)
TEXT_RUN = {"real": SENTENCES, "lr_start": 0.1, "steps": 2, "ipc": 1}
BATCH_NORM = {"net": "convnet1-w4-batch"}
RUNS = {  # {method: {what is special: fields}}; see traces.prepared_run for those that a cell has not
    "dd": {
        "fixed start": {},
        "minibatches": {"ipc": 4, "minibatches": 2, "epochs": 3, "classes": (0, 2)},
        "random starts": {"start": "random", "nets_per_step": 3, "init": "real"},
        "starts from experts": {"start": "random", "nets_per_step": 2, "pool": True, "images_per_pass": 7},
        "attack": {"start": "random", "nets_per_step": 1, "pool": True, "attack": (0, 1), "classes": (0,)},
        "crop and flip": {"augment": "crop_flip", "net": "conv2-w4"},
        "lenet": {"net": "lenet_dd", "real": partial(real_set, 3, (1, 28, 28)), "lr_start": 0.01, "steps": 2},
        "low-rank": NOISE_RANK,
        "sentences, one output": {**TEXT_RUN, "real": partial(sentences, 2), "net": "textconv"},
        **{name: {**TEXT_RUN, "net": name} for name in ("textrnn", "textlstm", "textconvlstm")},
    },
    "sldd": {
        "fewer images than classes": {"classes": (0, 1)},
        "smoothed ReLUs and a limit": {
            "net": "lenet_dd",
            "real": partial(real_set, 3, (1, 28, 28)),
            "lr_start": 0.01,
            "steps": 2,
            "max_norm": 0.3,
            "relu_width": 0.2,
        },
        "softmax of normal labels": {"ipc": 4, "minibatches": 2, "label_softmax": True, "label_start": "normal"},
        "random starts": {"start": "random", "nets_per_step": 2},
        **{name: {**TEXT_RUN, "net": name} for name in ("textconv", "textrnn", "textlstm", "textconvlstm")},
        "textconv, random starts": {**TEXT_RUN, "net": "textconv", "start": "random", "nets_per_step": 2},
    },
    "rat": {
        "random window": {},
        "late window": {"place": "late", "redraw_every": 2, "learn_labels": True},
        "minibatches": {
            "ipc": 3,
            "inner_batch": 4,
            "batch_per_class": 2,
            "learn_labels": True,
            "augment": "flip-rotate",
        },
        "real images": {"init": "real", "net": "conv1-w4", "redraw_every": 2},
        "clipped gradient": {"ipc": 1, "lr_net": 0.1, "inner_steps": 12, "window": 4},
    },
    "frepo": {
        "learned labels": {},
        "fixed labels": {"learn_labels": False, "online_batch": 100, "pool_size": 1, "reset_after": 9},
        "flip and batch norm": {"flip": True, "net": "conv2-w4-batch", "ipc": 1},
        "low-rank": {**SVD_RANK, "ipc": 1},
        "augmented": {"augment": "rgb"},
    },
    "isa": {"hardest": {}, "easiest": {"topk": -0.6, "epsilon": -0.3}, "all": {"topk": 0.0}},
    "dc": {
        **{distance: {"distance": distance} for distance in ("layerwise", "mse", "cos")},
        "class by class": {"images_per_pass": 5},
        "batch norm": BATCH_NORM,
        "low-rank": {**NOISE_RANK, "outer": 1},
    },
    "dsa": {"all families": {}, "no flip": {"augment": "dsa-noflip", "net": "convnet2-w4-instance"}},
    "dm": {
        "augmented": {},
        "plain": {"augment": "none", "images_per_pass": 5},
        "batch norm": BATCH_NORM,
        "class group": {"real": lambda: real_set(4).only([1, 3])},
        "low-rank": {**SVD_RANK, "ipc": 4},
    },
    "mtt": {
        "exact": {},
        "tesla": {"gradient": "tesla"},
        "minibatches": {"batch_syn": 4, "augment": "none", "net": "convnet2-w4-instance"},
        "without layerwise derivatives": {"net": "dcconv1-w4-batch", "augment": "none"},
        "without records": {"keep_records": False},
        "odd images": {"real": partial(real_set, 3, (1, 7, 7)), "augment": "none"},
        "low-rank": NOISE_RANK,
    },
    "datm": {"all weights": {}, "drop": {"drop": 0.4, "augment": "none"}, "threshold": {"threshold": 1.08, "steps": 6}},
    "edf": {"smooth_gradcam_pp": {}, "gradcam": {"maps": "gradcam", "drop": 0.0, "beta": 2.0}},
}

PROTOCOL = {
    "num_nets": 2, "lr": 0.01, "batch": 4, "augment": "none", "optimizer": "adam", "loss": "squared_error",
    "shuffle": True, "steps": 0, "warmup": 0, "lr_final": 1.0, "epochs": 0, "batch_per_class": 0,
}  # fmt: skip
SGD = {"optimizer": "sgd", "epochs": 5, "lr": 0.05, "loss": "cross_entropy"}
SCHEDULE = {"optimizer": "schedule", "loss": "cross_entropy", "batch": 0}
RATES = 0.01 * torch.tensor([[[10, 20, 5], [30, 10, 20]], [[20, 10, 10], [5, 30, 10]]], dtype=torch.float64)
PROTOCOLS = {  # `net`, `real`, `count`, `lr_of_sets` and `known` are not the protocol's: see traces.students
    "adam, warm-up and cosine": {"steps": 8, "warmup": 3, "lr_final": 0.1},
    "adam, set's order": {"steps": 5, "shuffle": False, "loss": "cross_entropy"},
    "adam, epochs": {"epochs": 3},
    "adam, batch_per_class": {"steps": 6, "batch_per_class": 2},
    "adam, one student": {"steps": 4, "num_nets": 1, "count": 1, "net": "conv2-w4-batch"},
    "sgd": SGD,
    "sgd, one student": {**SGD, "num_nets": 1, "count": 1, "net": "conv2-w4-batch"},
    "sgd, the sets' own rates": {**SGD, "lr_of_sets": RATES[:, :1, :1]},
    "schedule": {**SCHEDULE, "lr_of_sets": RATES},
    "schedule from known weights": {**SCHEDULE, "lr_of_sets": RATES, "known": 1},
    "schedule from many known weights": {**SCHEDULE, "lr_of_sets": RATES, "known": 2},
    "schedule of sentences": {**SCHEDULE, "lr_of_sets": RATES[..., :1], "net": "textconv", "real": SENTENCES},
    **{
        f"augment {policy}": {"steps": 4, "lr": 0.05, "augment": policy, "real": partial(real_set, 3, (3, 8, 8))}
        for policy in sorted({"none", *POLICIES})
    },
}

EXPERT = {
    "net": CONVNET, "optimizer": "sgd", "lr": 0.05, "batch": 16, "augment": "none", "seed": 0, "halve_every": 0,
    "rho": 0.05, "alpha": 0.3, "epochs": 3, "keep": 1,
}  # fmt: skip
EXPERTS = {
    "sgd with dsa": {"augment": "dsa-noflip"},
    "gsam": {"optimizer": "gsam", "net": DENSE},
    "adam, rate halved": {"optimizer": "adam", "lr": 0.01, "halve_every": 1, "net": DENSE},
    "adam, one output": {"optimizer": "adam", "lr": 0.01, "net": DENSE, "classes": 2},
}

NETWORKS = {  # {shape of an image: names}
    SHAPE: """
        conv2-w4 conv2-w4-batch conv2-w4-layer conv2-w32-group conv2-w4-group1 conv2-w4-instance
        dcconv2-w4 dcconv2-w4-batch kipconv2-w4 kipconv2-w4-instance mlp mlp_dc alexnet alexnet-batch
        convnet2-w4 convnet2-w4-batch convnet2-w4-layer convnet2-w8-group convnet2-w4-group1 convnet2-w4-instance
        convnet2-w4-instance-sigmoid convnet2-w4-instance-leaky-max convnet2-w4-none-swish-nopool alexnet_dc-instance
        dense2-w8 dense1-w8-xavieruniform dense1-w8-kaiming dense1-w8-kaimingout dense1-w8-orthogonal dense1-w8-normal
        dense1-w8-default alexcifar resnet18 resnet18_ap-batch
    """,
    (1, 16, 16): "resnet18_ap_dc-instance",
    (1, 28, 28): "conv2-w4 convnet2-w4-instance lenet lenet_dc lenet_dd",
    (3, 32, 32): "lenet_dd-default resnet18_dc resnet18_tv vgg11 vgg11_dc",
    (3, 64, 64): "alexnet_dd-normal",
    TEXT: "textconv textrnn textlstm textconvlstm textlstm-orthogonal",
}

PREPROCESS = {
    "mean": None, "std": None, "standardise": True, "zca": "none", "zca_eps": 0.1, "checkerboard": 1,
}  # fmt: skip
PREPROCESSING = {
    "standardise": {},
    "given moments": {"mean": (0.3,), "std": (0.2,)},
    "frepo": {"zca": "frepo"},
    "frepo, fewer images than pixels": {"zca": "frepo", "count": 40},
    "checkerboard": {"zca": "frepo", "checkerboard": 2},
    "mtt": {"zca": "mtt", "standardise": False},
    "rat": {"zca": "rat"},
}
