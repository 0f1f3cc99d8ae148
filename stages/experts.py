"""Train a row of experts, several at once on each GPU: `python -m stages experts ROW`. Those that are there stay.

An expert's bits depend on the group that it is trained in, so groups are the same whatever is there: `together` experts
from a multiple of it on. The group of one that is missing or damaged is trained again, and gives that one alone.
"""

import queue
from concurrent.futures import ThreadPoolExecutor

import torch

from lib.training import cost
from lib.training.experts import Group, epochs_kept, expert_bytes, expert_flops, train
from lib.training.students import threads_for
from lib.training.trajectories import expert_name, save_expert, save_index

from .checkpoints import Workplace
from .common import EXPERTS, provenance, tracker
from .identity import inputs_of_experts
from .inputs import device_of, real_set
from .parts import share
from .signals import stop_on_signals


def devices_of(runtime):
    """All GPUs of the machine where runtime.device is auto, else the one it names."""
    device = device_of(runtime)
    several = runtime.device == "auto" and device.type == "cuda"
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if several else [device]


def stage(recipe, runtime, part=None):
    """Write OUT/expertN.safetensors, each one's snapshots, and OUT/index.json with checksums and learning curves."""
    key, cfg, devices = recipe.key, recipe.experts, devices_of(runtime)
    real, epochs = real_set(cfg, devices[0]), epochs_kept(cfg)
    threads_for([cfg.net], real.shape, cfg.batch, cfg.together, devices[0])
    prov = provenance(devices[0])
    work, stop = Workplace(*inputs_of_experts(recipe)), stop_on_signals()
    names = [expert_name(number) for number in range(cfg.count)]
    groups = share(range(0, cfg.count, cfg.together), part)  # the number of each one's first expert
    mine = [number for number in range(cfg.count) if number - number % cfg.together in groups]
    missing = [number for number in mine if not work.finished(names[number])]
    firsts = sorted({number - number % cfg.together for number in missing})  # of the groups to train
    print(f"{key}: {cfg}\n{prov}\n{len(mine) - len(missing)} expert(s) are there; to train: {missing}", flush=True)
    flops, rate = expert_flops(cfg, real.shape, len(real.train_y)), cost.matmul_rate("float32", devices[0], 1)
    print(cost.describe(flops, 1, len(firsts) * cfg.together, "float32", rate), flush=True)
    disk = len(missing) * expert_bytes(cfg, real.shape, real.num_classes) / 2**20
    print(f"disk: {disk:.1f} MiB for their snapshots; they are trained on {len(devices)} device(s)", flush=True)
    free = queue.SimpleQueue()
    for device in devices:
        free.put(real if device == devices[0] else real_set(cfg, device))

    def one_group(first):
        title, checkpoint = f"{key} experts {first} to {first + cfg.together - 1}", work.checkpoint(f"group{first}")
        data = free.get()
        try:
            group = Group(cfg, first, cfg.together, data)
            return train(title, group, checkpoint, track.log, runtime.checkpoint_minutes, stop), checkpoint
        except BaseException:
            stop.set()  # the other devices' groups save what they have
            raise
        finally:
            free.put(data)

    with tracker("experts", key, vars(cfg), prov) as track, ThreadPoolExecutor(len(devices)) as pool:
        for first, ((snapshots, curves), checkpoint) in zip(firsts, pool.map(one_group, firsts)):
            for number in (number for number in missing if first <= number < first + cfg.together):
                i = number - first
                path = save_expert(work.done, number, torch.stack([each[i] for each in snapshots]))
                record = {split: [percents[i] for percents in curve] for split, curve in curves.items()}
                work.finish(path.stem, {**record, **prov}, [path])
            checkpoint.remove()
    if not part:
        meta = {"net": cfg.net, "shape": list(real.shape), "num_classes": real.num_classes, "epochs": epochs}
        save_index(EXPERTS / key, work.deliver(names, EXPERTS / key), identity=work.identity, **meta)
