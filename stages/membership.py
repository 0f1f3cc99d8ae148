"""Attack networks trained on a cell's distilled sets, and controls: `python -m stages membership CELL`."""

import time
from dataclasses import asdict

from lib.data.real import part_of
from lib.files import write_json
from lib.membership import Pool
from lib.synthetic import initial_labels, load_set, real_subsets

from .common import DISTILLED, EVALUATED, device_of, provenance, real_set, tracker


def stage(params, key):
    """Train networks on the distilled sets, on the images these started from and on the chunks themselves; attack each."""
    row, cell, device = params.membership[key], params.cells[key], device_of(params)
    cfg, prov = cell.distill, provenance(device)
    print(f"{key}: {row}\n{prov}", flush=True)
    real, folder, started = real_set(params, cell, device), DISTILLED / cell.suite / key, time.monotonic()
    pool = Pool(real, cfg)
    chunks = [part_of(real, cfg, s) for s in cfg.seeds]
    kinds = {  # `initial` is what the released script attacked in place of the distilled set
        "distilled": [load_set(folder / f"seed{s}.safetensors", real.shape, real.num_classes, device)[:2] for s in cfg.seeds],
        "initial": [real_subsets(real, cfg, s) for s in cfg.seeds],
        "real": [(chunk.train_x, initial_labels(chunk.train_y, real.num_classes)) for chunk in chunks],
    }
    rows = []
    with tracker("membership", key, asdict(row), prov) as track:
        for kind, sets in kinds.items():
            protocol = params.protocols[row.real_protocol if kind == "real" else row.protocol]
            shadows, inside = pool.shadow_looks(row, protocol) if kind == "real" and row.shadows else (None, None)
            for updates, (logits, accuracy) in pool.looks(row, protocol, sets, seed=kind).items():
                attacks = pool.attack(row, logits, shadows and (shadows[updates], inside))
                rows.append({"kind": kind, "updates": updates, "accuracy": accuracy.tolist(), "attacks": attacks})
                means = {name: sum(m["auc"] for m in each) / len(each) for name, each in attacks.items()}
                track.log(updates, {f"{kind}/accuracy": accuracy.mean().item(), **{f"{kind}/auc_{k}": v for k, v in means.items()}})
                shown = ", ".join(f"{k} {v:.3f}" for k, v in means.items())
                print(f"{kind:9} after {updates} updates: {accuracy.mean():.1f} %; AUC {shown}", flush=True)
    measured = {"cell": key, "chunks": list(cfg.seeds), "rows": rows, "wall_s": round(time.monotonic() - started, 1), **prov}
    write_json(EVALUATED / cell.suite / f"{key}.membership.json", measured)
