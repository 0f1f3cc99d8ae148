"""Fair scores of a cell's distilled sets, and their accuracy with a teacher: `python -m stages scores CELL`."""

import time

import torch

from lib.data.labels import class_labels
from lib.evaluation.fair_scores import accuracy, fair_scores
from lib.evaluation.teacher import kd_students
from lib.records import write_metrics
from lib.synthetic.set import DistilledSet, load_set
from lib.training.students import threads_for
from lib.training.trajectories import Trajectories, network_with

from .common import DISTILLED, EVALUATED, EXPERTS, provenance, tracker
from .distilled import sets_at
from .inputs import device_of, real_set


def stage(recipe, runtime):
    """Write the label- and augmentation-robust scores of each seed's set, and its accuracy with a teacher's labels."""
    key, row, cell, device = recipe.key, recipe.row, recipe.cell, device_of(runtime)
    cfg, started, protocols, real = cell.distill, time.monotonic(), recipe.protocols, real_set(cell, device)
    threads_for([row.net], real.shape, protocols.full.batch, protocols.full.num_nets, device)
    prov, experts = provenance(device), Trajectories(EXPERTS / row.experts)
    print(f"{key}: {row}\n{prov}", flush=True)
    teacher = network_with(experts.index, experts.weights(0, -1)).to(device).eval()
    whole = DistilledSet(real.train_x[:], class_labels(real.train_y, real.num_classes, "one_hot"))
    rows, net, soft = [], row.net, cfg.label_start == "experts"

    @torch.no_grad()
    def teach(x):
        return teacher(x).softmax(1)

    with tracker("scores", key, vars(row), prov) as track:
        whole = whole._replace(lr=torch.full((1, 1), protocols.full.lr))
        full = accuracy(net, whole, real, protocols.full, 0)
        for seed, path in zip(cfg.seeds, sets_at(DISTILLED / cell.suite / key, cfg.seeds)):
            distilled = load_set(path, real.shape, real.num_classes, device)
            for run in range(row.runs):
                name, labels = f"{seed}.{run}", teach if soft else None
                found = fair_scores(
                    net, distilled, real, cfg, protocols.protocol, protocols.hard, row.augment, full, labels, name
                )
                students = kd_students(net, distilled.x, teacher, real, row, 1, name)
                found["with a teacher"] = students.accuracy(real.test_x, real.test_y).item() / 100
                rows.append(found)
                track.log(len(rows), found)
                shown = ", ".join(f"{score} {100 * value:.1f}" for score, value in found.items())
                print(f"{key} seed {seed} run {run}: {shown}", flush=True)
    teacher_accuracy = (teacher(real.test_x[:]).argmax(1) == real.test_y).float().mean().item()
    means = {score: round(100 * sum(found[score] for found in rows) / len(rows), 2) for score in rows[0]}
    record = {"cell": key, "net": net, "rows": rows, "full": full, "teacher": teacher_accuracy}
    record |= {"wall_s": round(time.monotonic() - started, 1), **prov}
    write_metrics(EVALUATED / cell.suite / f"{key}.scores.json", {"scores": means}, record)
