"""Judge a distilled set that somebody else made: `python -m stages external ROW`."""

import time

from lib.evaluation.external import read_external
from lib.evaluation.set_files import digest
from lib.records import write_metrics
from lib.training.students import evaluate

from .common import REPORTS, provenance, tracker
from .inputs import device_of, real_set


def stage(recipe, runtime):
    """Train fresh networks on the images, labels and rate of the row's file -> their test accuracies."""
    key, row, protocol, device = recipe.key, recipe.row, recipe.protocol, device_of(runtime)
    prov, real, started = provenance(device), real_set(row, device), time.monotonic()
    print(f"{key}: {row}\n{prov}", flush=True)
    external, notes = read_external(row, real, protocol)
    print("\n".join(notes), flush=True)
    (x, y, lr, start), results = (None if tensor is None else tensor[None] for tensor in external), {}
    with tracker("external", key, vars(row), prov) as track:
        for net in row.nets:
            accuracy = evaluate(net, x, y, real, protocol, 0, lr, start)[0]
            results[net] = accuracy.tolist()
            track.log(0, {net: accuracy.mean().item()})
            spread = f"{accuracy.mean():6.2f} % +- {accuracy.std(correction=0):.2f}"
            print(f"{net:20} {spread}, {len(external.x)} images", flush=True)
    means = {net: round(sum(accuracies) / len(accuracies), 2) for net, accuracies in results.items()}
    record = {"row": key, "dataset": row.dataset, "file": digest(row.file, row.label_file), "images": len(external.x)}
    record |= {"nets": results, "notes": notes, "wall_s": round(time.monotonic() - started, 1), **prov}
    write_metrics(REPORTS / "external" / f"{key}.json", {"accuracy": means}, record)
