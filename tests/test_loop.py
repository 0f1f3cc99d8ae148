"""The outer loop: resume bit for bit, evaluation, the best checkpoint, and losses that are no numbers."""

import subprocess
import sys
import threading
import time

import pytest
import torch

from lib.config.load import load_params
from lib.data.preprocess import fit
from lib.data.real import load_arrays, load_real
from lib.files import FileError
from lib.methods import METHODS
from lib.methods.frepo import FRePo
from lib.synthetic.initial import initial_set
from lib.synthetic.set import SyntheticSet, rendered
from lib.tensors import load_sealed, load_state, save_sealed, save_state
from lib.training import compute
from lib.training.batches import batches_for
from lib.training.checkpoint import Checkpoint
from lib.training.ends import NonFiniteLoss, Stopped
from lib.training.loop import evaluation_steps, run
from lib.training.students import evaluate


@pytest.fixture(scope="module")
def real(prepared, tmp_path_factory):
    pixels, _ = load_arrays(prepared("digits"), "train")
    path = tmp_path_factory.mktemp("pre") / "p.safetensors"
    fit(load_params().preprocessing["digits"], pixels, {}).save(path)
    return load_real(prepared("digits"), path, "cpu")


CFG = (
    load_params()
    .cells["digits-frepo-digits-ipc1"]
    .distill.changed(
        steps=30,
        pool_size=2,
        reset_after=5,
        eval_at=(0, 12),
        eval_every=10,
        real_batch=64,
    )
)


RUN = "seed0 of a run"


class Interrupted(Exception):
    pass


def start(real, checkpoint, cfg=CFG, stop_after=None, minutes=0.0, watch=None, poison=None, stop=None):
    """Run the loop on digits; `stop_after` and `poison` are steps at which it is killed, or its loss spoiled."""
    syn = SyntheticSet(*initial_set(real, cfg, 0), cfg.learn_labels)
    method = FRePo(cfg, syn, 0)
    step = method.step

    def watched(i, x, targets):
        if i == stop_after:
            raise Interrupted
        metrics = step(i, x, targets)
        return metrics | ({"loss": torch.tensor(float("nan"))} if i == poison else {})

    method.step = watched
    batches, logged = batches_for(real, cfg, 0), []
    watch, checkpoint = watch or (lambda: float(syn.x.detach().std())), Checkpoint(checkpoint, RUN)
    progress = run("cell", method, batches, cfg, watch, checkpoint, lambda *pair: logged.append(pair), minutes, stop)
    return progress, syn, logged


def accuracies(progress):
    return [(point["step"], point["accuracy"]) for point in progress.history]


def test_resume_in_the_middle_equals_no_interruption(real, tmp_path):
    whole, syn, _ = start(real, tmp_path / "a")
    for stop in (7, 19, 20):
        with pytest.raises(Interrupted):
            start(real, tmp_path / "b", stop_after=stop)
    again, resumed, _ = start(real, tmp_path / "b")
    assert torch.equal(syn.x, resumed.x) and torch.equal(syn.y, resumed.y)
    assert accuracies(whole) == accuracies(again) and whole.losses == again.losses


def test_checkpoints_between_fetches_change_nothing_that_is_recorded(real, tmp_path):
    often, _, _ = start(real, tmp_path / "a", minutes=0.0)
    never, _, _ = start(real, tmp_path / "b", minutes=60.0)
    assert often.losses == never.losses and accuracies(often) == accuracies(never)


def test_a_finished_run_is_not_run_again(real, tmp_path):
    start(real, tmp_path / "a")
    progress, _, logged = start(real, tmp_path / "a", stop_after=0)
    assert progress.step == 30 and logged == []


def test_evaluations_come_when_they_are_due(real, tmp_path):
    progress, _, logged = start(real, tmp_path / "a")
    assert evaluation_steps(CFG) == {0, 12, 10, 20, 30}
    assert [point["step"] for point in progress.history] == [0, 10, 12, 20, 30]
    assert {step for step, metrics in logged if "test_accuracy" in metrics} == {0, 10, 12, 20, 30}
    assert progress.history[0]["accuracy"] == float(initial_set(real, CFG, 0)[0].std()), "0 is the set before any step"


def test_times_are_of_the_steps_without_evaluations_and_go_on_after_a_stop(real, tmp_path):
    started = time.monotonic()
    progress, _, _ = start(real, tmp_path / "a", watch=lambda: time.sleep(0.3) or 0.0)
    assert progress.wall_s < time.monotonic() - started - 5 * 0.3
    points = progress.history
    assert points[0]["wall_s"] < 0.3 and all(a["cpu_s"] <= b["cpu_s"] for a, b in zip(points, points[1:]))
    with pytest.raises(Interrupted):
        start(real, tmp_path / "b", stop_after=20)
    assert load_state(tmp_path / "b", RUN)["progress"]["cpu_s"] > 0, "a run that goes on adds to it"


def test_without_a_terminal_progress_is_a_line_and_not_a_thousand():
    code = "from lib.progress import progress_bar\nfor i in progress_bar(range(100000), desc='cell'): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line]
    assert 1 <= len(lines) <= 2 and lines[-1].startswith("cell: 100% 100000/100000 [")


def test_small_steps_run_on_one_thread_and_large_ones_on_all(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(compute, "ALL_THREADS", 2)
    counts = []
    for flops in (compute.THREADED_FLOPS / 2, compute.THREADED_FLOPS * 2, compute.THREADED_FLOPS / 2):
        compute.use_threads(flops, torch.device("cpu"))
        counts.append(torch.get_num_threads())
    torch.set_num_threads(before)
    assert counts == [1, 2, 1]
    cell = load_params().cells["digits-mtt-digits-ipc1"]
    assert METHODS["mtt"].step_flops(cell.distill, (1, 8, 8), 10) < compute.THREADED_FLOPS


def test_the_best_set_is_kept_only_when_it_is_asked_for(real, tmp_path):
    scores = iter([50.0, 70.0, 60.0, 65.0, 69.0])
    progress, syn, _ = start(real, tmp_path / "a", CFG.changed(select="best_test"), watch=lambda: next(scores))
    assert progress.best["step"] == 10 and progress.best["accuracy"] == 70.0
    assert not torch.equal(progress.best["set"]["x"], syn.x), "the last step's set is another one"
    assert start(real, tmp_path / "b")[0].best is None


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(real, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.training.loop.FETCH_EVERY", 5)
    with pytest.raises(
        NonFiniteLoss,
        match=r"cell: the loss is nan at step 24; the last finite value was -?[\d.e-]+; "
        "the last good checkpoint is kept at",
    ):
        start(real, tmp_path / "a", poison=23)
    state = load_state(tmp_path / "a", RUN)
    assert state["progress"]["step"] == 23 and all(m["loss"].isfinite() for m in state["progress"]["pending"])


def test_asked_to_stop_it_saves_first_and_goes_on_from_there(real, tmp_path):
    whole, syn, _ = start(real, tmp_path / "a", minutes=60.0)
    stop, evaluations = threading.Event(), []

    def watch():
        evaluations.append(1)
        if len(evaluations) == 2:  # the one after step 10
            stop.set()
        return 0.0

    with pytest.raises(Stopped, match="stopped after step 10 of 30"):
        start(real, tmp_path / "b", minutes=60.0, watch=watch, stop=stop)
    assert torch.equal(start(real, tmp_path / "b", minutes=60.0)[1].x, syn.x)


def test_a_damaged_checkpoint_is_set_aside_for_the_older_one_or_for_a_new_start(real, tmp_path, capsys):
    _, whole, _ = start(real, tmp_path / "a")
    path, older = tmp_path / "a", tmp_path / "a.older"
    good, before = path.read_bytes(), older.read_bytes()
    flipped = bytearray(good)
    flipped[-40] ^= 1  # in a tensor
    for damage in (good[: len(good) // 2], bytes(flipped), b""):
        path.write_bytes(damage)
        older.write_bytes(before)
        progress, syn, _ = start(real, path)
        said = capsys.readouterr().out
        assert "a.aside; going on without it" in said and "going on after step 29" in said
        assert torch.equal(syn.x, whole.x) and progress.step == 30
    path.write_bytes(b"{")
    older.unlink()
    assert torch.equal(start(real, path)[1].x, whole.x)
    assert "going on after" not in capsys.readouterr().out, "it began anew"


def test_a_checkpoint_of_another_run_is_set_aside(real, tmp_path, capsys):
    _, whole, _ = start(real, tmp_path / "a")
    for owner in ("seed1 of a run", "seed0 of another run"):
        save_state(tmp_path / "a", load_state(tmp_path / "a", RUN), owner)
        (tmp_path / "a.older").unlink(missing_ok=True)
        assert torch.equal(start(real, tmp_path / "a")[1].x, whole.x)
        assert f"a state of '{owner}', not of '{RUN}'" in capsys.readouterr().out


@pytest.mark.parametrize("step", [-5, 0, 31])
def test_a_checkpoint_of_an_impossible_step_is_refused(real, tmp_path, step):
    start(real, tmp_path / "a")
    state = load_state(tmp_path / "a", RUN)
    state["progress"]["step"] = step
    save_state(tmp_path / "a", state, RUN)
    with pytest.raises(FileError, match=f"not a checkpoint of this cell .*step {step} of 30"):
        start(real, tmp_path / "a")


def test_a_step_that_was_changed_in_the_file_is_found(real, tmp_path, capsys):
    start(real, tmp_path / "a")
    text = (tmp_path / "a").read_bytes()
    changed = text.replace(b'[\\"step\\", 30]', b'[\\"step\\", 27]')
    assert changed != text
    (tmp_path / "a").write_bytes(changed)
    start(real, tmp_path / "a")
    assert "differs from the digest" in capsys.readouterr().out


def test_a_checkpoint_of_other_settings_is_refused(real, tmp_path):
    start(real, tmp_path / "a")
    with pytest.raises(FileError, match="not a checkpoint of this cell"):
        start(real, tmp_path / "a", CFG.changed(pool_size=3))


def test_no_bit_of_a_sealed_file_can_change_unseen(tmp_path):
    tensors = {"x": torch.arange(3.0), "n": torch.tensor(5), "rng": torch.arange(5, dtype=torch.uint8)}
    save_sealed(path := tmp_path / "s", tensors, of="this")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(FileError):
            load_sealed(path)


def test_state_survives_the_file_with_keys_and_nesting(tmp_path):
    state = {"state": {0: {"exp_avg": torch.arange(3.0)}}, "list": [1, None, "a", True, {"b": [2.5]}], "empty": {}}
    save_state(tmp_path / "s", state, RUN)
    back = load_state(tmp_path / "s", RUN)
    assert torch.equal(back["state"].pop(0)["exp_avg"], torch.arange(3.0))
    assert back == {"state": {}, "list": [1, None, "a", True, {"b": [2.5]}], "empty": {}}


def subset_and_learned_accuracy(real, syn):
    """Mean test accuracy of the digits protocol on the set a run started from, and on the one it learned."""
    protocol = load_params().protocols["digits"]
    return [
        evaluate("conv2-w32", x[None], y[None], real, protocol, seed=0).mean().item()
        for x, y in (initial_set(real, CFG, 0), rendered(syn.snapshot())[:2])
    ]


def test_without_a_learning_rate_the_set_stays_the_real_subset_and_is_judged_alike(real, tmp_path):
    _, syn, _ = start(real, tmp_path / "a", CFG.changed(outer_lr=0.0))
    subset, learned = subset_and_learned_accuracy(real, syn)
    assert torch.equal(syn.x, initial_set(real, CFG, 0)[0]) and subset == learned


def test_a_short_run_on_digits_beats_the_real_subset(real, tmp_path):
    """The quickstart's row, one of its seeds."""
    cfg = load_params().cells["digits-frepo-digits-ipc1"].distill.changed(eval_every=0)
    _, syn, _ = start(real, tmp_path / "a", cfg, minutes=60.0, watch=lambda: 0.0)
    subset, learned = subset_and_learned_accuracy(real, syn)
    assert learned > 80 and learned > subset + 10
