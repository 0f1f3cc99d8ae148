"""Judge a distilled set that somebody else made: `python -m stages given ROW`."""

import time
from dataclasses import asdict

from lib.data.given import read_given
from lib.files import sha256, write_json
from lib.students import evaluate

from .common import REPORTS, device_of, provenance, real_set, tracker


def stage(params, key):
    """Train fresh networks on the images, labels and rate of the row's file -> their test accuracies."""
    row, device, started = params.given[key], device_of(params), time.monotonic()
    prov, real = provenance(device), real_set(params, row, device)
    print(f"{key}: {row}\n{prov}", flush=True)
    own, protocol, results = read_given(row.file, real, row.labels, row.lr), params.protocols[row.protocol], {}
    x, y, lr, _ = (None if t is None else t[None] for t in own)
    with tracker("given", key, asdict(row), prov) as track:
        for net in row.nets:
            accuracy = evaluate(net, x, y, real, protocol, 0, lr)[0]
            results[net] = accuracy.tolist()
            track.log(0, {net: accuracy.mean().item()})
            rate = protocol.lr if lr is None else lr.item()
            print(f"{net:20} {accuracy.mean():6.2f} % +- {accuracy.std(correction=0):.2f}, {len(own.x)} images, lr {rate:.4g}", flush=True)
    measured = {"row": key, "dataset": row.dataset, "file": sha256(row.file), "images": len(own.x), "nets": results}
    write_json(REPORTS / "given" / f"{key}.json", {**measured, "wall_s": round(time.monotonic() - started, 1), **prov})
