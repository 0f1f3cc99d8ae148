"""What fanout adds to stages that do nothing but wait: `python -m tests.benchmarks.fanout`.

A pipeline of stub stages, each of which sleeps, runs on a local Ray cluster with made-up GPUs, a stage on each. The
floor is the ideal schedule, stages / GPUs * seconds; what is above it is Ray's start, DVC's start for each stage, its
graph and its lock. `--dry` with 1,000 such stages gives the time of the plan. Each `dvc repro` is half a second of a
core: with more GPUs than twice the cores, they wait for each other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"


def pipeline(folder, count, command):
    """A new repository with `count` stages `evaluate@N` of this shell command."""
    (folder / "out").mkdir(parents=True)
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    rows = {f"stub{number}": {"out": f"out/{number}"} for number in range(count)}
    do = {"cmd": f"{command} && echo done > ${{item.out}}", "deps": ["params.yaml"], "outs": ["${item.out}"]}
    stages = {"plan": {"cmd": "true", "deps": ["params.yaml"]}, "evaluate": {"foreach": rows, "do": do}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(words, cwd=folder, env=ENV, check=True)


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
    parser.add_argument("--seconds", type=float, default=8.0, help="that a stage sleeps")
    parser.add_argument("--planned", type=int, default=1000, help="stages of the plan that is timed")
    args = parser.parse_args()

    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as name:
        pipeline(Path(name) / "planned", args.planned, "true")
        dry, _ = timed(Path(name) / "planned", "--dry")
        pipeline(Path(name) / "run", args.stages, f"sleep {args.seconds}")
        head = {"include_dashboard": False, "node_ip_address": "127.0.0.2", "num_cpus": 64, "num_gpus": args.gpus}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            wall, last = timed(Path(name) / "run", "--address", cluster.address)
        finally:
            cluster.shutdown()
    ideal = args.stages / args.gpus * args.seconds
    result = {
        "dry": {"stages": args.planned, "seconds": round(dry, 1)},
        "run": {**vars(args), "wall": round(wall, 1), "ideal": ideal, "ratio": round(wall / ideal, 3), "said": last},
        "overhead_of_a_stage": round((wall - ideal) * args.gpus / args.stages, 2),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
