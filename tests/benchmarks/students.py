"""Twenty networks for a cross-architecture table: trained together against one by one, in one run.

    python -m tests.benchmarks.students                 # CPU
    python -m tests.benchmarks.students --device cuda

Each case trains 20 students of one network on a distilled set of 10 images, 4 sets x 5 networks, and again as 20
trainings of one student each, the plain loop of the original scripts: ms for one update of all 20, what precedes the
updates included. Protocols have 500 updates and more; here so many as the last column of CASES says. Images are random:
the time does not depend on them.
"""

import argparse
import json

import torch

from lib.config.models import Protocol
from lib.data.labels import initial_labels
from lib.rng import generator
from lib.training.compute import keep_freed_memory
from lib.training.cost import seconds_in_turns
from lib.training.students import Students
from stages.common import provenance

CASES = [  # network, image shape, images per set, updates
    ("conv2-w32", (1, 8, 8), 10, 200),
    ("dcconv2-w32", (1, 8, 8), 10, 200),
    ("mlp", (1, 8, 8), 10, 200),
    ("conv2-w32", (1, 8, 8), 100, 50),
    ("lenet", (3, 32, 32), 10, 50),
    ("mlp", (3, 32, 32), 10, 50),
    ("conv3-w32", (3, 32, 32), 10, 30),
    ("conv3", (3, 32, 32), 10, 10),
    ("conv3-instance", (3, 32, 32), 10, 10),
    ("alexnet", (3, 32, 32), 10, 10),
    ("resnet18", (3, 32, 32), 10, 10),
]
SETS, NETS = 4, 5


def measure(net, shape, n, steps, device, repeats):
    gen = generator(0, "benchmark", device=device)
    x = torch.randn(SETS, n, *shape, generator=gen, device=device)
    y = initial_labels(torch.arange(n, device=device) % 10, 10).expand(SETS, -1, -1).contiguous()
    protocol = Protocol(
        num_nets=NETS, steps=steps, lr=3e-4, warmup=0, lr_final=1.0, batch=500, shuffle=False, augment="rgb"
    )
    set_of = [m for m in range(SETS) for _ in range(NETS)]
    together = Students(net, shape, 10, set_of, 0, device)
    alone = [Students(net, shape, 10, [m], 0, device) for m in set_of]
    runs = [lambda i: together.train(x, y, protocol), lambda i: [student.train(x, y, protocol) for student in alone]]
    batched, one_by_one = seconds_in_turns(runs, device, repeats)
    per_step = {"together_ms": 1000 * batched / steps, "one_by_one_ms": 1000 * one_by_one / steps}
    return {
        "network": net,
        "shape": shape,
        "images": n,
        "updates": steps,
        **per_step,
        "ratio": batched / one_by_one,
        "chunks": len(together.chunks(n)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--net", help="only this network")
    parser.add_argument("--json", help="also write the rows to this file")
    args = parser.parse_args()
    keep_freed_memory()
    device, rows = torch.device(args.device), []
    for case in CASES if args.net is None else [case for case in CASES if case[0] == args.net]:
        row = measure(*case, device, args.repeats)
        rows.append(row)
        ways = f"together {row['together_ms']:8.1f} ms a step, one by one {row['one_by_one_ms']:8.1f} ms"
        how = f"ratio {row['ratio']:.2f} in {row['chunks']} part(s)"
        print(f"{row['network']:15} {str(row['shape']):12} {row['images']:4} images: {ways}; {how}", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({**provenance(device), "students": SETS * NETS, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
