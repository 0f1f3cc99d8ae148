"""Nothing lost, nothing let in: keys that a shell would run, files changed in place, signals, locks, by real DVC."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import guard
from stages.force import has_force

from .toy import CELL, ENV, copied, dvc, edit, ran, stages, started

OUT = f"build/distill/digits/{CELL}"


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A copy of the finished toy suite, two folders below the one that pytest gives."""
    return copied(finished[0], tmp_path_factory.mktemp("hostile") / "deep" / "copy")


def undo(folder):
    subprocess.run(["git", "checkout", "-q", "."], cwd=folder, check=True)


def around(folder):
    """What is in the two folders above the clone."""
    return sorted(path.name for above in (folder.parent, folder.parent.parent) for path in above.iterdir())


def dataset(key):
    return lambda params: params["datasets"].update({key: params["datasets"]["digits"]})


def suite(name):
    return lambda params: params["suites"].append(name)


@pytest.mark.parametrize(
    "options, change, address",
    [
        pytest.param("--force --single-item", dataset, "prepare@x; touch ../F", id="semicolon"),
        pytest.param("--force --single-item", dataset, "prepare@$(touch ../F)", id="substitution"),
        pytest.param("--force --single-item", suite, "report@digits; touch ../F", id="suite"),
        pytest.param("--force", suite, "report@../../../x", id="folder above"),
        pytest.param("--force", dataset, "prepare@../../../../victim", id="output above"),
    ],
)
def test_no_key_reaches_a_shell_or_a_folder_outside(folder, options, change, address):
    """With --single-item no `plan` comes before the stage; without it, `plan` comes before DVC clears its outputs."""
    victim, key = folder.parents[1] / "victim", address.partition("@")[2]
    victim.mkdir(exist_ok=True)
    edit(folder, change(key))
    before = around(folder)
    output = dvc(folder, "repro", *options.split(), address, check=False)
    undo(folder)
    assert around(folder) == before, output
    assert f"found {key!r}; " in output and "may hold letters, digits, - and _ alone" in output
    assert output.count("error: ") == 1 and "Traceback" not in output, output


def test_a_stage_takes_its_key_from_dvc_in_a_folder_below_too(folder):
    output = dvc(folder / "lib", "repro", "--force", "--single-item", "../dvc.yaml:prepare@digits")
    assert ran(output) == ["../dvc.yaml:prepare@digits"]
    undo(folder)
    assert "found 'digit'; must be one of its" in stages(folder, "prepare", "digit"), "by hand it is given one"


@pytest.mark.parametrize(
    "line, force",
    [
        ("repro -f evaluate@x", True),
        ("repro --force evaluate@x", True),
        ("repro -fs evaluate@x", True),
        ("repro -qf", True),
        ("repro -sfq evaluate@x", True),
        ("exp run -f -n fast", True),
        ("exp run -nfast -f", True),
        ("repro evaluate@x-fast", False),
        ("repro --force-downstream", False),
        ("exp run -nfast", False),
        ("exp run -qnf", False),
        ("exp run -S cells.x.distill.flip=true", False),
        ("exp run --set-param=f=1 --name=-f", False),
        ("repro --pull -s -- fast", False),
        ("repro -s -- -f", False),
    ],
)
def test_what_dvc_takes_for_force_is_force_and_nothing_else(line, force):
    assert has_force(line.split()) is force


def flip(path):
    """Change a byte of a file where it stands."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    path.chmod(0o444)


@pytest.mark.long
def test_a_set_that_was_changed_in_place_is_refused_and_comes_back_with_the_same_bits(folder):
    """In DVC's cache too: the file is one with the cache's, which DVC believes as long as it is read-only."""
    path, refused = folder / OUT / "seed0.safetensors", "seed0.safetensors: changed since its stage wrote it"
    good = path.read_bytes()
    assert path.stat().st_mode & 0o222 == 0, "DVC protects what it has in its cache"
    flip(path)
    dvc(folder, "repro", f"evaluate@{CELL}")
    assert path.read_bytes() != good, "DVC believes its cache"
    for reader in (("evaluate", CELL), ("export", CELL, "--to", "npz"), ("report", "digits")):
        output = stages(folder, *reader)
        assert refused in output and "Traceback" not in output, (reader, output)
    (remedy,) = {line.split("`")[-2] for line in output.splitlines() if refused in line}
    assert remedy == f"dvc repro distill@{CELL}"
    assert ran(dvc(folder, *remedy.split()[1:])) == [f"distill@{CELL}"]
    assert path.read_bytes() == good
    assert dvc(folder, "repro", f"evaluate@{CELL}")
    undo(folder)


def wait_for(ready, process):
    until = time.monotonic() + 120
    while not ready():
        assert process.poll() is None and time.monotonic() < until, process.stdout.read()[-2000:]
        time.sleep(0.02)


def run_stage(folder, *args):
    return subprocess.Popen(
        [sys.executable, "-m", "stages", *args],
        cwd=folder,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(process, words):
    """Whether a process has said these words, which are not the last that it says."""
    return words in process.stdout.readline()


BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)


def end(process, number):
    """Send a signal -> what the process says until it ends, with the status of shells."""
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number and "Traceback" not in output, output
    return output


@BOTH
@pytest.mark.skipif(sys.platform != "linux", reason="looks at what a process has loaded")
def test_a_signal_during_imports_ends_a_stage_with_one_line(folder, number):
    process = run_stage(folder, "distill", CELL)
    wait_for(lambda: "libtorch" in open(f"/proc/{process.pid}/maps").read(), process)
    assert end(process, number) == f"stopped by {number.name}\n"


@BOTH
def test_a_signal_ends_distill_which_saves_what_it_has(folder, number):
    shutil.rmtree(folder / ".checkpoints" / CELL)
    edit(folder, lambda p: p["cells"][CELL]["distill"].update(steps=3000, eval_every=0))
    process = run_stage(folder, "distill", CELL)
    wait_for(lambda: list((folder / ".checkpoints" / CELL).glob("*/seed0.safetensors")), process)
    assert end(process, number).splitlines()[-1].endswith("of 3000; run it again to go on from there")
    undo(folder)


@BOTH
def test_a_signal_ends_evaluate_with_one_line(folder, number):
    for path in (folder / ".checkpoints" / CELL).glob("*/* on *"):  # of a training that another signal ended
        path.unlink()
    edit(folder, lambda p: p["protocols"]["digits"].update(steps=100000))
    process = run_stage(folder, "evaluate", CELL)
    wait_for(lambda: said(process, "to judge: "), process)
    time.sleep(0.5)
    assert end(process, number) == f"stopped by {number.name}\n"
    undo(folder)


@pytest.mark.long
def test_a_stage_that_outlives_its_dvc_keeps_another_one_of_its_row_out(folder):
    edit(folder, lambda p: p["protocols"]["digits"].update(steps=100000))
    command = ["repro", f"evaluate@{CELL}"]
    process = started(folder, *command)
    wait_for(lambda: said(process, "'device': "), process)
    lock = folder / f".checkpoints/.locks/evaluate@{CELL}.lock"
    process.terminate()  # DVC alone
    process.wait(timeout=60)
    pid = lock.read_text()
    output = dvc(folder, *command, check=False)
    assert f"error: evaluate@{CELL}: process {pid} is at work on it in this folder; wait until" in output
    assert "Traceback" not in output
    subprocess.run(["kill", pid], check=True)
    assert "stopped by SIGTERM" in process.stdout.read()
    undo(folder)
    dvc(folder, *command)


def test_a_lock_file_that_is_cut_off_anywhere_is_what_it_was_or_what_it_should_be(folder, tmp_path, monkeypatch):
    """DVC's file at the end of a stage, cut off at 60 places; then by hand, and what DVC says of it before."""
    text = (folder / "dvc.lock").read_text()
    entries = re.split(r"^(?=  [a-z]+(?:@.*)?:$)", text, flags=re.MULTILINE)
    before = "".join(entries[:-1])  # the last stage was not there yet
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    lock, rwlock = Path("dvc.lock"), Path(".dvc/tmp/rwlock")
    Path(".dvc/tmp/lock").touch()
    lock.write_text(before)
    guard.put(guard.LOCK, guard.COPY)
    kept = guard.stages_of(lock)
    for cut in range(0, len(text), len(text) // 60):
        lock.write_text(text[:cut])
        rwlock.write_text("")
        words = guard.mend(kept)
        assert not rwlock.exists() and len(words) in (1, 2)
        whole = lock.read_text() == text[:cut] and guard.stages_of(lock)[: len(kept)] == kept
        assert lock.read_text() == before or whole and text[cut - 1] == "\n", cut
    lock.write_text(text)
    assert guard.mend(kept) == [] and lock.read_text() == text
    shutil.copy(lock, folder / ".dvc/tmp/dvc.lock.copy")
    (folder / "dvc.lock").write_text(text[: text.rindex("deps:") + 5])
    assert "dvc.lock" in dvc(folder, "status", "plan", check=False), "DVC refuses it, naming it"
    assert "plan: dvc.lock was cut off; it is as it was before" in stages(folder, "plan")
    assert (folder / "dvc.lock").read_text() == text


def test_dvc_killed_while_it_writes_its_lock_file_goes_on_without_a_word_of_ours(folder):
    (folder / "dvc.lock").unlink()
    process = started(folder, "repro", f"evaluate@{CELL}")
    lock, sizes = folder / "dvc.lock", [0]
    while not max(sizes) or sizes[-1] >= max(sizes):
        assert process.poll() is None
        sizes.append(lock.stat().st_size if lock.exists() else 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    dvc(folder, "repro", f"evaluate@{CELL}")
    undo(folder)


def test_texts_are_utf8_whatever_the_locale(folder):
    """The page and its tables are the same, and a terminal without ± gets a question mark."""
    pages = []
    for locale in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        for args in (("index",), ("table", "digits")):
            command = [sys.executable, "-m", "stages", *args]
            env = {**ENV, **locale, "DVC_STAGE": args[0]}  # as DVC runs it, which has run `plan`
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True)
            assert done.returncode == 0, done.stderr
        pages.append([(folder / "reports" / name).read_bytes() for name in ("index.html", "README.md", "paired.json")])
    assert pages[0] == pages[1] and "±".encode() in pages[1][1] and b" ? " in done.stdout
    undo(folder)
