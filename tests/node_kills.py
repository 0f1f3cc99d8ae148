"""Kill a machine of a cluster at drawn moments of the toy suite: `python -m tests.node_kills --times 10 --seed 0`.

Two nodes of a Ray cluster on this machine, a stage on each. SIGKILL ends one, with its worker and stage, at a moment
drawn from the time that the suite takes. At the end every stage must have ended well, `dvc repro` must find nothing to
do, and every set must have the bits of a serial run.
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

import pytest

from .test_fanout import cluster, ends, equal_sets
from .toy import ENV, ROOT, clone, commit, dvc, edit, project_copy, ran, toy


def one(project, serial, folder, moment):
    """Run the suite on two nodes, kill one after so many seconds -> what came of it."""
    head = clone(project, folder / "head")
    edit(head, toy)
    commit(head)
    subprocess.run(["git", "remote", "remove", "origin"], cwd=head, check=True)
    dvc(head, "remote", "add", "--local", "store", str(folder / "store"))
    with (
        pytest.MonkeyPatch.context() as patch,
        cluster(folder, patch, {"num_cpus": 1}, {"num_cpus": 1}) as (made, nodes),
    ):
        words = ["fanout", "digits", "--address", made.address, "--remote", "store"]
        env = ENV | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
        pipe = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        begin, killed = time.monotonic(), False
        run = subprocess.Popen([sys.executable, "-m", "stages", *words], cwd=head, env=env, **pipe)
        try:
            output = run.communicate(timeout=moment)[0]
        except subprocess.TimeoutExpired:
            made.remove_node(nodes[1], allow_graceful=False)
            killed = True
            output = run.communicate(timeout=900)[0]
        seconds = time.monotonic() - begin
    good = run.returncode == 0 and {*ends(output).values()} <= {"done", "restored", "unchanged"}
    result = {"moment": round(moment, 1), "killed": killed, "seconds": round(seconds, 1), "good": good}
    if not good:
        print(output, file=sys.stderr)
        return result
    left, sets = ran(dvc(head, "repro", "report@digits")), equal_sets(head, serial)
    good = not left and sets == len([*(serial / "build/distill").rglob("seed*.safetensors")])
    return {**result, "good": good, "sets": sets, "left": left}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for what was measured")
    args = parser.parse_args()
    draw, results = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        project = project_copy(base / "project")
        serial = clone(project, base / "serial")
        edit(serial, toy)
        dvc(serial, "repro", "report@digits")
        (base / "whole").mkdir()
        whole = one(project, serial, base / "whole", 900)  # none is killed
        print(whole, flush=True)
        while sum(result["killed"] for result in results) < args.times:  # a run may end before its moment
            (folder := base / str(len(results))).mkdir()
            results.append(one(project, serial, folder, draw.uniform(10, 0.8 * whole["seconds"])))
            print(results[-1], flush=True)
    good = sum(result["good"] for result in results)
    print(f"{good} of {len(results)} ended as the serial run")
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "whole": whole, "kills": results}, indent=1) + "\n")
    sys.exit(good != len(results))


if __name__ == "__main__":
    main()
