"""Seconds of small steps by the number of threads and by how threads wait, quiet and beside a busy core.

    python -m tests.benchmarks.threads --json reports/benchmarks/threads-cpu.json

For every cell of suite digits: outer steps of distillation for a second, and a training of its students. The settings:
what the stages choose (`use_threads`), one thread, all threads that spin at barriers, and all threads that sleep at
them. Each runs in a process of its own, since OpenMP reads its settings once; the settings take turns, and a row has
the least of the rounds. The busy core is another process that computes without end. The data of suite digits must be
prepared (`dvc repro whiten@digits whiten@topics experts@digits`).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import torch

from lib.config.load import load_params
from lib.data.real import part_of
from lib.methods import METHODS
from lib.synthetic.initial import run_name
from lib.synthetic.set import SyntheticSet, rendered, stacked
from lib.training.batches import batches_for
from lib.training.compute import keep_freed_memory, use_threads
from lib.training.students import evaluate, threads_for
from stages.common import provenance
from stages.inputs import experts_of, real_set, start_of

SETTINGS = {
    "chosen": {},
    "one": {"OMP_NUM_THREADS": "1"},
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
SECONDS = 1.0  # of steps that are timed
BUSY = "x = 1\nwhile True:\n    x = x * 3 % 1000003"


def time_cell(key, chosen):
    """Print {distill: seconds of a step, evaluate: seconds of a training}."""
    params, cpu = load_params(), torch.device("cpu")
    keep_freed_memory()
    cell, cfg, name = params.cells[key], params.cells[key].distill, run_name(0, 0)
    real = real_set(cell, cpu)
    part = part_of(real, cfg, 0, 0)
    if chosen:
        use_threads(METHODS[cell.method].step_flops(cfg, real.shape, real.num_classes // cfg.class_steps), cpu)
    recipe = SimpleNamespace(cell=cell, experts=None if cell.experts == "none" else params.experts[cell.experts])
    experts, _ = experts_of(recipe, params.runtime, 1, cpu)
    syn = SyntheticSet(*start_of(cfg, part, name, experts.get("experts")), cfg.learn_labels)
    method = METHODS[cell.method](cfg, syn, name, "none", **experts)
    batches = batches_for(part, cfg, name, experts.get("experts"))
    for step in range(3):
        method.step(step, *batches.next())
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        step += 1
        method.step(step, *batches.next())
    seconds = {"distill": (time.perf_counter() - started) / (step - 2)}
    protocol, net = params.protocols[cell.evaluate.protocol], cell.evaluate.nets[0]
    x, y, lr, start = stacked([rendered(syn.snapshot())])
    if chosen:
        threads_for([net], real.shape, x.shape[1], protocol.num_nets, cpu)
    started = time.perf_counter()
    evaluate(net, x, y, real, protocol, 0, lr, start)
    print(json.dumps(seconds | {"evaluate": time.perf_counter() - started}))


def measure(key, setting):
    command = [sys.executable, "-m", "tests.benchmarks.threads", "--cell", key]
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | SETTINGS[setting]
    done = subprocess.run(
        command + ["--chosen"] * (setting == "chosen"), env=env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", help="time one cell in this process, with the threads that it finds")
    parser.add_argument("--chosen", action="store_true", help="of --cell: with the threads that a stage chooses")
    parser.add_argument("--cells", nargs="+", help="in place of all cells of suite digits")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", help="also write the rows to this file")
    args = parser.parse_args()
    if args.cell:
        return time_cell(args.cell, args.chosen)
    keys = args.cells or [key for key, cell in load_params().cells.items() if cell.suite == "digits"]
    rows = []
    for beside in ("quiet", "a busy core"):
        busy = subprocess.Popen([sys.executable, "-c", BUSY]) if beside != "quiet" else None
        try:
            for key in keys:
                found = {setting: [] for setting in SETTINGS}
                for _ in range(args.rounds):
                    for setting in SETTINGS:
                        found[setting].append(measure(key, setting))
                for what in ("distill", "evaluate"):
                    least = {setting: min(each[what] for each in runs) for setting, runs in found.items()}
                    best = min(value for setting, value in least.items() if setting != "chosen")
                    over = {"over_best": least["chosen"] / best, "over_one": least["chosen"] / least["one"]}
                    rows.append({"cell": key, "what": what, "beside": beside, **least, **over})
                    shown = ", ".join(f"{setting} {1000 * value:.1f} ms" for setting, value in least.items())
                    print(f"{key:36} {what:9} {beside:12} {shown}; {over['over_best']:.2f} of the best", flush=True)
        finally:
            if busy:
                busy.kill()
    if args.json:
        with open(args.json, "w") as file:
            json.dump({**provenance(torch.device("cpu")), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
