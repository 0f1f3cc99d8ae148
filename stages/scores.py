"""Fair scores of a cell's distilled sets, and their accuracy with a teacher: `python -m stages scores CELL`."""

import time
from dataclasses import asdict

import torch

from lib.data.trajectories import Trajectories, network_with
from lib.files import write_json
from lib.kd import kd_students
from lib.losses import class_labels
from lib.schema import METHOD_PARAMS
from lib.scores import accuracy, fair_scores
from lib.synthetic import DistilledSet, load_set

from .common import DISTILLED, EVALUATED, EXPERTS, device_of, provenance, real_set, tracker


def stage(params, key):
    """Write the label- and augmentation-robust scores of each seed's set, and of its images with a teacher's outputs for labels."""
    row, cell, device = params.scores[key], params.cells[key], device_of(params)
    cfg, prov, started = cell.distill, provenance(device), time.monotonic()
    print(f"{key}: {row}\n{prov}", flush=True)
    real, experts = real_set(params, cell, device), Trajectories(EXPERTS / row.experts)
    teacher = network_with(experts.index, experts.weights(0, -1)).to(device).eval()
    protocol, hard = params.protocols[cell.evaluate.protocol], params.protocols[row.hard]
    whole = DistilledSet(real.train_x, class_labels(real.train_y, real.num_classes, "one_hot"))
    soft = isinstance(cfg, METHOD_PARAMS["datm"])
    rows, net = [], row.net

    @torch.no_grad()
    def teach(x):
        return teacher(x).softmax(1)

    with tracker("scores", key, asdict(row), prov) as track:
        full = accuracy(net, whole._replace(lr=torch.full((1, 1), params.protocols[row.full].lr)), real, params.protocols[row.full], 0)
        for seed in cfg.seeds:
            own = load_set(DISTILLED / cell.suite / key / f"seed{seed}.safetensors", real.shape, real.num_classes, device)
            for run in range(row.runs):
                found = fair_scores(net, own, real, cfg, protocol, hard, row.augment, full, teach if soft else None, f"{seed}.{run}")
                students = kd_students(net, own.x, teacher, real, row, 1, f"{seed}.{run}")
                found["with a teacher"] = students.accuracy(real.test_x, real.test_y).item() / 100
                rows.append(found)
                track.log(len(rows), found)
                print(f"{key} seed {seed} run {run}: {', '.join(f'{name} {100 * value:.1f}' for name, value in found.items())}", flush=True)
    teacher_accuracy = (teacher(real.test_x).argmax(1) == real.test_y).float().mean().item()
    measured = {"cell": key, "net": net, "rows": rows, "full": full, "teacher": teacher_accuracy, "wall_s": round(time.monotonic() - started, 1)}
    write_json(EVALUATED / cell.suite / f"{key}.scores.json", {**measured, **prov})
