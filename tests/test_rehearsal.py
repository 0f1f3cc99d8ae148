"""The traces' runs on a pretended CUDA device: CUDA's rules hold, their numbers are the CPU's, and no step waits."""

import pytest
import torch

from lib.augment.dc import spline_filter
from lib.config.settings import Settings
from lib.data.pixels import Pixels
from lib.data.preprocess import fit
from lib.data.real import load_arrays, load_real
from lib.networks import layers
from lib.synthetic.initial import real_subset
from lib.tensors import load_state, save_state
from lib.training.batches import batches_for
from lib.training.experts import Group
from stages.process import full_memory_in_words
from tests.golden import data, traces
from tests.golden.settings import BASES, DISTILL, EXPERT, EXPERTS, PREPROCESS, PROTOCOLS, RUNS

from .pretended import OnDevice, Pretended, RefusedByCuda, undisturbed

ON_THE_HOST = ("cost", "network: ", "preprocessing: ")  # traces of what runs there, or on whatever device
TRACES = [name for name in traces.CASES if not name.startswith(ON_THE_HOST)]


@pytest.fixture
def machine(monkeypatch):
    """A machine that has the traces' data; a network's start is drawn as on the CPU, where the traces were stored."""

    @undisturbed
    def drawn(tensor, sigma, generator):
        torch.nn.init.trunc_normal_(tensor.numbers, 0.0, sigma, -2 * sigma, 2 * sigma, generator=generator)
        return tensor

    monkeypatch.setattr(layers, "truncated_by_inverse_", drawn)
    monkeypatch.setattr(data, "DEVICE", torch.device("cuda"))
    return Pretended()


@pytest.mark.long
@pytest.mark.filterwarnings("error:.*not captured")
@pytest.mark.parametrize("name", TRACES)
def test_the_device_gives_the_numbers_of_the_cpu(name, machine):
    with machine:
        found = traces.trace(name)
    assert machine.kernels, "it ran on the device"
    assert not traces.differences(name, traces.stored_traces().get(name), found)


@pytest.mark.filterwarnings("error:.*not captured")
@pytest.mark.parametrize("name, what", [(name, what) for name in RUNS for what in RUNS[name]])
def test_no_step_of_a_method_waits(name, what, machine):
    with machine, traces.float64():
        _, method, batches, _ = traces.prepared_run(name, RUNS[name][what])
        for step in range(4):
            method.step(step, *traces.wide(batches.next()))
            if not step:
                machine.waits.clear()  # what is formed once
    assert not machine.waits


@pytest.mark.parametrize("name", ["dd", "rat", "frepo", "dsa", "datm", "edf"])
def test_no_step_after_a_resume_waits_and_it_goes_on_as_without(name, machine, tmp_path):
    fields = {"steps": 6}
    with machine, traces.float64():
        _, method, batches, _ = traces.prepared_run(name, fields)
        for step in range(3):
            method.step(step, *traces.wide(batches.next()))
        save_state(tmp_path / "state", {"method": method.state_dict(), "batches": batches.state_dict()}, "test")
        _, resumed, others, _ = traces.prepared_run(name, fields)
        state = load_state(tmp_path / "state", "test")
        resumed.load_state_dict(state["method"])
        others.load_state_dict(state["batches"])
        for each, source in ((method, batches), (resumed, others)):
            each.step(3, *traces.wide(source.next()))
            machine.waits.clear()
            each.step(4, *traces.wide(source.next()))
            assert not machine.waits
        for ours, theirs in zip(resumed.syn.state_dict().values(), method.syn.state_dict().values(), strict=True):
            assert torch.equal(ours.cpu(), theirs.cpu())


def waits_of(run):
    spline_filter.cache_clear()  # of a run before, which has it on the device
    with Pretended() as machine, traces.float64():
        run()
    return machine.waits.total()


@pytest.mark.long
@pytest.mark.parametrize("what", PROTOCOLS)
def test_no_update_of_a_student_waits(what, machine):
    """As many waits where there are twice as many updates."""
    fields = PROTOCOLS[what]
    longer = {name: 2 * fields.get(name, 0) for name in ("steps", "epochs")}
    if fields.get("optimizer") == "schedule":
        longer = {"lr_of_sets": fields["lr_of_sets"].repeat(1, 2, 1)}
    assert waits_of(lambda: traces.students(**fields)) == waits_of(lambda: traces.students(**{**fields, **longer}))


@pytest.mark.parametrize("what", EXPERTS)
def test_no_update_of_an_expert_waits(what, machine):
    """As many waits in an epoch of twice as many updates."""
    fields = {**EXPERT, **EXPERTS[what]}

    def epoch(images):
        Group(Settings(**fields), 0, 2, data.real_set(fields.get("classes", 3), train=images)).epoch()

    assert waits_of(lambda: epoch(48)) == waits_of(lambda: epoch(96))


def test_what_mixes_devices_is_refused():
    with Pretended() as machine:
        x, host, index = torch.randn(4, 3, device="cuda"), torch.randn(3), torch.arange(2, device="cuda")
        with pytest.raises(RefusedByCuda, match=r"add: CPU tensors \[\(3,\)\]"):
            x + host
        with pytest.raises(RefusedByCuda, match="cat: CPU tensors"):
            torch.cat([x[0], host])
        with pytest.raises(RefusedByCuda, match="a CPU tensor indexed"):
            host[index]
        assert isinstance(x + torch.tensor(1.0), OnDevice), "a tensor without an axis: CUDA takes it"
        assert isinstance(x[:2, None] + x[1], OnDevice) and not machine.waits


def test_a_generator_of_the_other_device_is_refused():
    with Pretended():
        x, host = torch.zeros(3, device="cuda"), torch.Generator()
        with pytest.raises(RefusedByCuda, match="randn: a generator of cpu for numbers on cuda"):
            torch.randn(3, device="cuda", generator=host)
        with pytest.raises(RefusedByCuda, match="uniform_: a generator of cpu"):
            x.uniform_(generator=host)
        with pytest.raises(RefusedByCuda, match="randperm: a generator of cuda"):
            torch.randperm(3, generator=torch.Generator("cuda"))
        x.uniform_(generator=torch.Generator("cuda"))


@pytest.mark.parametrize(
    "why, fault",
    [
        ("item", lambda x, host: x[0, 0].item()),
        ("item", lambda x, host: bool(x[0, 0] > 0)),
        ("copy to the host", lambda x, host: x.tolist()),
        ("copy to the host", lambda x, host: host.copy_(x)),
        ("copy to the device", lambda x, host: x[[0, 2]]),
        ("copy to the device", lambda x, host: torch.tensor([1, 2], device="cuda")),
        ("copy to the device", lambda x, host: host.to("cuda", non_blocking=True)),
        ("copy to the device", lambda x, host: host.pin_memory().to("cuda")),
        ("index from the host", lambda x, host: x[torch.tensor([0, 1])]),
        ("boolean mask", lambda x, host: x[x > 0]),
        ("nonzero", lambda x, host: (x > 0).nonzero()),
    ],
)
def test_what_waits_is_counted(why, fault):
    with Pretended() as machine:
        x, host = torch.arange(-6.0, 6, device="cuda").view(4, 3), torch.zeros(4, 3)
        fault(x, host)
    assert [wait.split(" at ")[0] for wait in machine.waits.elements()] == [why]


def test_what_does_not_wait_is_not_counted():
    with Pretended() as machine:
        x, host = torch.arange(-6.0, 6, device="cuda").view(4, 3), torch.zeros(4, 3)
        x[x > 0] = 1.0  # a mask that is filled
        x[torch.arange(2, device="cuda")] += 1
        x[1] = x.argmax(1)[0]
        assert host.pin_memory().to("cuda", non_blocking=True).device.type == "cuda"
    assert not machine.waits


def test_a_fused_optimiser_refuses_a_state_in_another_order():
    with Pretended():
        p = torch.zeros(2, 3, 4, 4, device="cuda").to(memory_format=torch.channels_last).requires_grad_()
        optimizer = torch.optim.Adam([p], fused=True)
        p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"].contiguous()
        with pytest.raises(RefusedByCuda, match="strides"):
            optimizer.step()


def test_truncated_normal_numbers_by_the_inverse_of_their_distribution():
    x = layers.truncated_by_inverse_(torch.empty(400_000), 0.7, torch.Generator().manual_seed(0))
    assert x.abs().max() <= 1.4
    assert abs(x.std() / 0.7 - layers.TRUNCATED_STD) < 3e-3 and abs(x.mean()) < 3e-3
    assert abs((x.abs() < 0.7).double().mean() - 0.6827 / 0.9545) < 3e-3


@pytest.fixture(scope="module")
def digits(prepared, tmp_path_factory):
    """The folder of the digits, and the file of their whitening."""
    folder, path = prepared("digits"), tmp_path_factory.mktemp("whitened") / "digits.safetensors"
    pixels, _ = load_arrays(folder, "train")
    fit(Settings(**{**PREPROCESS, "zca": "frepo"}), pixels, {"mean": [0.305], "std": [0.377]}).save(path)
    return folder, path


def test_images_that_would_fill_the_memory_stay_bytes(digits):
    """They give the batches, the classes, the chunks and the evaluations that all of them in float32 give."""
    host, cuda = load_real(*digits, torch.device("cpu")), torch.device("cuda")
    cfg = Settings(**{**DISTILL, **BASES["frepo"], "labels": "centred"})
    with Pretended(total_memory=4 * 4 * host.train_x.numel()):
        assert isinstance(load_real(*digits, cuda).train_x, torch.Tensor)
    with Pretended(total_memory=4 * 4 * host.train_x.numel() - 1) as machine:
        real = load_real(*digits, cuda)
        assert isinstance(real.train_x, Pixels) and isinstance(real.test_x, torch.Tensor)
        assert real.shape == host.shape and len(real.train_x) == len(host.train_x)
        batches = batches_for(real, cfg, 0)
        batches.next()
        machine.waits.clear()
        found = [batches.next() for _ in range(3)]
        assert not machine.waits
        few, chunk = real.only([3, 5]), real.chunk(2, 50)
        assert isinstance(few.train_x, Pixels) and isinstance(chunk.train_x, Pixels)
        found += [(few.train_x[:], few.train_y), (chunk.train_x[:], chunk.train_y), (real.train_x[None][0, 7],)]
        found += [(torch.cat([*real.train_x.split(700)]), real.train_y), real_subset(real, cfg, 0)]
        found = [tuple(tensor.cpu() for tensor in tensors) for tensors in found]
    batches = batches_for(host, cfg, 0)
    batches.next()
    few, chunk = host.only([3, 5]), host.chunk(2, 50)
    wanted = [batches.next() for _ in range(3)]
    wanted += [(few.train_x, few.train_y), (chunk.train_x, chunk.train_y), (host.train_x[7],)]
    wanted += [(host.train_x, host.train_y), real_subset(host, cfg, 0)]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_full_memory_ends_a_stage_in_a_sentence():
    message = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1 is free."
    )
    with pytest.raises(SystemExit) as ended, full_memory_in_words("distill@a-cell"):
        raise torch.cuda.OutOfMemoryError(message)
    said = ended.value.code
    assert said.startswith(
        "error: distill@a-cell: the GPU's memory is full (CUDA out of memory. Tried to allocate 2.00 GiB); "
    )
    assert "checkpoint are kept" in said and "conv_dtype: bfloat16" in said and "\n" not in said
    with pytest.raises(RuntimeError, match="another"), full_memory_in_words("distill@a-cell"):
        raise RuntimeError("another")
