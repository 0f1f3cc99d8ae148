"""Attack networks trained on a cell's distilled sets, and controls: `python -m stages membership CELL`."""

import time

from lib.data.labels import initial_labels
from lib.data.real import part_of
from lib.evaluation.membership import Candidates
from lib.records import write_metrics
from lib.synthetic.initial import real_subsets
from lib.synthetic.set import load_set
from lib.training.students import threads_for

from .common import DISTILLED, EVALUATED, provenance, tracker
from .distilled import sets_at
from .inputs import device_of, real_set


def stage(recipe, runtime):
    """Train networks on the distilled sets, on the images these started from and on the chunks; attack each."""
    key, row, cell, device = recipe.key, recipe.row, recipe.cell, device_of(runtime)
    cfg, protocols, real, started = cell.distill, recipe.protocols, real_set(cell, device), time.monotonic()
    threads_for([row.net], real.shape, protocols.real_protocol.batch, protocols.real_protocol.num_nets, device)
    folder, prov = DISTILLED / cell.suite / key, provenance(device)
    print(f"{key}: {row}\n{prov}", flush=True)
    candidates = Candidates(real, cfg)
    chunks = [part_of(real, cfg, seed) for seed in cfg.seeds]
    kinds = {  # `initial` is what the released script attacked in place of the distilled set
        "distilled": [load_set(path, real.shape, real.num_classes, device)[:2] for path in sets_at(folder, cfg.seeds)],
        "initial": [real_subsets(real, cfg, seed) for seed in cfg.seeds],
        "real": [(chunk.train_x[:], initial_labels(chunk.train_y, real.num_classes)) for chunk in chunks],
    }
    rows, means = [], {"accuracy": {}, "auc": {}}
    with tracker("membership", key, vars(row), prov) as track:
        for kind, sets in kinds.items():
            protocol = protocols.real_protocol if kind == "real" else protocols.protocol
            has_shadows = kind == "real" and row.shadows
            shadows, inside = candidates.train_shadows(row, protocol) if has_shadows else (None, None)
            for updates, (logits, accuracy) in candidates.train(row, protocol, sets, seed=kind).items():
                attacks = candidates.attack(row, logits, shadows and (shadows[updates], inside))
                rows.append({"kind": kind, "updates": updates, "accuracy": accuracy.tolist(), "attacks": attacks})
                auc = {name: sum(m["auc"] for m in each) / len(each) for name, each in attacks.items()}
                logged = {f"{kind}/accuracy": accuracy.mean().item()}
                track.log(updates, logged | {f"{kind}/auc_{name}": value for name, value in auc.items()})
                means["accuracy"][kind] = round(accuracy.mean().item(), 2)  # of the most updates
                means["auc"][kind] = {name: round(value, 4) for name, value in auc.items()}
                shown = ", ".join(f"{name} {value:.3f}" for name, value in auc.items())
                print(f"{kind:9} after {updates} updates: {accuracy.mean():.1f} %; AUC {shown}", flush=True)
    record = {"cell": key, "chunks": cfg.seeds, "rows": rows, "wall_s": round(time.monotonic() - started, 1), **prov}
    write_metrics(EVALUATED / cell.suite / f"{key}.membership.json", means, record)
