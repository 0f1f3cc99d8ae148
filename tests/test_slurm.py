"""The recipe for SLURM on a real one: a controller and two nodes, in namespaces that hold nothing but the loopback."""

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from importlib.util import find_spec

import psutil
import pytest

from . import test_fanout
from .toy import ENV, ROOT, dvc

stubs = test_fanout.stubs  # a fixture
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "nsenter", "setpriv", "ip")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'ray>=2.50'"),
    pytest.mark.skipif(os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)), reason="needs SLURM, and root"),
]
NAMESPACES = ("--net", "--pid", "--mount", "--uts")
# lo has more than 127.0.0.1: without another address glibc resolves none. /run is for the sockets of munge and Ray.
START = """
set -e
cd "$1"
ip link set lo up
ip address add 127.0.0.2/8 dev lo
ip address add 127.0.0.3/8 dev lo
hostname localhost
mkdir -p run/munge run/ray spool
mount --bind run /run
printf '127.0.0.1 localhost\n127.0.0.2 n1\n127.0.0.3 n2\n' > hosts
mount --bind hosts /etc/hosts
head -c 128 /dev/urandom > munge.key
chmod 400 munge.key
munged --force --key-file="$1/munge.key" --pid-file=/run/munge/pid --log-file="$1/munge.log" --seed-file="$1/seed"
slurmctld
slurmd -N n1
slurmd -N n2
sleep infinity & wait  # not exec: bash takes up the processes that lose their parents
"""
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
StateSaveLocation={0}/spool/slurmctld
SlurmdSpoolDir={0}/spool/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmctldLogFile={0}/slurmctld.log
SlurmdLogFile={0}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeAddr=127.0.0.2 NodeHostname=localhost Port=17001 CPUs=2 Gres=gpu:1
NodeName=n2 NodeAddr=127.0.0.3 NodeHostname=localhost Port=17002 CPUs=2 Gres=gpu:1
PartitionName=all Nodes=n1,n2 Default=YES
"""


@pytest.fixture
def slurm(tmp_path):
    """A SLURM of two nodes with a made-up GPU each -> run(command, folder): what a command there prints."""
    home = tmp_path / "slurm"
    home.mkdir()
    (home / "slurm.conf").write_text(CONFIG.format(home))
    (home / "gres.conf").write_text("NodeName=n[1-2] Name=gpu File=/dev/null\n")
    if subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True).returncode:
        pytest.skip("may not make namespaces")
    paths = {"SLURM_CONF": home / "slurm.conf", "XDG_CACHE_HOME": tmp_path / "cache", "RAY_TMPDIR": "/run/ray"}
    env = ENV | {"PYTHONPATH": str(ROOT), **{key: str(path) for key, path in paths.items()}}
    # SIGKILL ends all of it, since all of it is in the namespace; the kernel sends it if this process dies.
    command = ["unshare", *NAMESPACES, "--mount-proc", "--fork", "--kill-child", "bash", "-c", START, "bash", str(home)]
    with open(home / "out", "w") as out:
        outside = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], env=env, stdout=out, stderr=out)

    def run(*command, folder=home):
        (inside,) = psutil.Process(outside.pid).children()
        command = ["nsenter", f"--target={inside.pid}", *NAMESPACES, f"--wd={folder}", *command]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        return done.stdout + done.stderr

    try:
        until(lambda: (home / "slurmd-n2.log").exists() and run("sinfo", "-h", "-o%T %D") == "idle 2\n", home / "out")
        yield run
    finally:
        inside = psutil.Process(outside.pid).children()
        outside.kill()
        outside.wait()
        assert not psutil.wait_procs(inside, timeout=30)[1]


def until(true, log, seconds=600):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, log.read_text()[-5000:] if log.exists() else log
        time.sleep(0.5)


def requeued(run, job, log, *command):
    """Requeue a job by a command, wait until nothing of it runs, and have it start again at once, not in minutes."""
    run(*command, job)
    until(lambda: "JobState=PENDING" in run("scontrol", "show", "job", job), log, seconds=120)
    run("scontrol", "update", f"jobid={job}", "starttime=now")


def ended(run, job, log):
    """Wait for a job's end -> {name: value} that SLURM has of it."""
    until(lambda: not run("squeue", "-h", "--jobs", job), log)
    return dict(pair.split("=", 1) for pair in run("scontrol", "show", "job", job).split() if "=" in pair)


def stub(tmp_path):
    """A script that is to be a stage's command -> it.

    It adds its name, node and GPU to `runs`. A SIGTERM in the job's first start lets it save a checkpoint for seconds.
    """
    script = tmp_path / "stub.sh"
    script.write_text(f"""
cd {tmp_path}
echo $1 $SLURMD_NODENAME GPU$CUDA_VISIBLE_DEVICES >> runs
trap 'sleep 3; echo $1 >> saved; exit 143' TERM
if [ $2 = long ] && [ -z "$SLURM_RESTART_COUNT" ]; then sleep 300 & wait; fi
""")
    return f"bash {script}"


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_that_is_requeued_goes_on(stubs, slurm, tmp_path):
    """On two nodes: what was done is not run again, what was at work saves its checkpoint, and all comes back here."""
    command, log = stub(tmp_path), tmp_path / "job.log"
    names = {"a": ("short", None), "b": ("short", None), "c": ("long", "a"), "d": ("long", "b")}
    folder = stubs({name: (f"{command} {name} {how}", on) for name, (how, on) in names.items()})
    dvc(folder, "remote", "add", "--local", "store", str(tmp_path / "store"))
    test_fanout.commit_all(folder)
    recipe = [ROOT / "stages/fanout.sbatch", "--remote", "store"]
    submit = ["sbatch", "--parsable", f"--output={log}", "--nodes=2", "--gpus-per-node=1", *recipe]
    job = slurm(*submit, folder=folder).strip()
    until(lambda: len(lines(tmp_path / "runs")) == 4, log)
    requeued(slurm, job, log, "scontrol", "requeue")
    assert sorted(lines(tmp_path / "saved")) == ["c", "d"]
    end, said = ended(slurm, job, log), log.read_text()
    assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("COMPLETED", "0:0", "1"), said
    runs = [line.split() for line in lines(tmp_path / "runs")]
    assert Counter(name for name, *_ in runs) == {"a": 1, "b": 1, "c": 2, "d": 2}, said
    assert {(node, gpu) for _, node, gpu in runs} == {("n1", "GPU0"), ("n2", "GPU0")}
    counts = {end: int(count) for count, end in re.findall(r"(\d+) (\w+)", said.rpartition("fanout: ")[2])}
    there = counts.get("unchanged", 0) + counts.get("restored", 0)  # in the clone of this node, or of the other one
    assert (there, counts.get("done")) == (2, 2), said
    assert dvc(folder, "status").strip().endswith("up to date.")


def test_a_job_near_its_time_limit_starts_again_and_ends_as_fanout_does(stubs, slurm, tmp_path):
    """On one node, with a stage that fails in the end."""
    folder, log = stubs({"a": (f"{stub(tmp_path)} a long && false", None)}), tmp_path / "job.log"
    submit = ["sbatch", "--parsable", f"--output={log}", "--gpus-per-node=1", ROOT / "stages/fanout.sbatch"]
    job = slurm(*submit, folder=folder).strip()
    until(lambda: lines(tmp_path / "runs"), log)
    requeued(slurm, job, log, "scancel", "--batch", "--signal=USR1")
    assert lines(tmp_path / "saved") == ["a"]
    end, said = ended(slurm, job, log), log.read_text()
    assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("FAILED", "1:0", "1"), said
    assert lines(tmp_path / "runs") == ["a n1 GPU0"] * 2 and "fanout: 1 failed" in said
