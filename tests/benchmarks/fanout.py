"""What fanout adds to stages that do nothing but wait: `python -m tests.benchmarks.fanout`.

A pipeline of stub stages, each of which sleeps for a drawn time, runs on a local Ray cluster with made-up GPUs, a stage
on each. The floor is the schedule without any overhead; what is above it is Ray's start and what DVC does for each
stage: it reads params.yaml, takes its lock, writes dvc.lock. `--dry` with 1,000 such stages gives the time of the plan.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from stages.schedule import makespan

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"


def pipeline(folder, seconds):
    """A new repository with a stage `external@NAME` for each {NAME: seconds that it sleeps}."""
    (folder / "out").mkdir(parents=True)
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    rows = {name: {"out": f"out/{name}", "seconds": each} for name, each in seconds.items()}
    do = {"cmd": "sleep ${item.seconds} && echo done > ${item.out}", "deps": ["params.yaml"], "outs": ["${item.out}"]}
    stages = {"plan": {"cmd": "true", "deps": ["params.yaml"]}, "external": {"foreach": rows, "do": do}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(words, cwd=folder, env=ENV, check=True)
    (folder / ".dvc/config").write_bytes((ROOT / ".dvc/config").read_bytes())  # DVC phones nobody, which takes it long


def timed(folder, *words):
    """Seconds that `fanout` takes, and its last line; an error where it fails."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "stages", "fanout", *words]
    done = subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return time.monotonic() - begin, done.stdout.splitlines()[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--seconds", type=float, nargs=2, default=(4.0, 12.0), help="that a stage sleeps, from and to")
    parser.add_argument("--planned", type=int, default=1000, help="stages of the plan that is timed")
    args = parser.parse_args()

    from ray.cluster_utils import Cluster

    draw = random.Random(0)
    seconds = {f"stub{number}": round(draw.uniform(*args.seconds), 2) for number in range(args.stages)}
    with tempfile.TemporaryDirectory() as name:
        pipeline(Path(name) / "planned", {f"stub{number}": 0 for number in range(args.planned)})
        dry, _ = timed(Path(name) / "planned", "--dry")
        pipeline(Path(name) / "run", seconds)
        head = {"include_dashboard": False, "node_ip_address": "127.0.0.2", "num_cpus": 64, "num_gpus": args.gpus}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            wall, last = timed(Path(name) / "run", "--address", cluster.address)
        finally:
            cluster.shutdown()
    ideal = makespan({name: [] for name in seconds}, seconds, args.gpus)
    result = {
        "dry": {"stages": args.planned, "seconds": round(dry, 1)},
        "run": {
            **vars(args),
            "wall": round(wall, 1),
            "ideal": round(ideal, 1),
            "ratio": round(wall / ideal, 3),
            "said": last,
        },
        "overhead_of_a_stage": round((wall - ideal) * args.gpus / args.stages, 2),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
