"""Train the experts of one row, several at once on each GPU: `python -m stages experts ROW`. Experts that are there already stay."""

import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import torch

from lib import cost
from lib.data.trajectories import kept_experts, save_expert, save_index
from lib.experts import Group, epochs_kept, expert_bytes, expert_flops, train

from .checkpoints import checkpoint_folder, forced
from .common import EXPERTS, device_of, provenance, real_set, stop_on_signals, tracker


def devices_of(params):
    """All GPUs of the machine where params.runtime.device is auto, else the one it names."""
    device = device_of(params)
    several = params.runtime.device == "auto" and device.type == "cuda"
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if several else [device]


def stage(params, key):
    """Write OUT/expertN.safetensors, the kept snapshots of each, and OUT/index.json with checksums and learning curves."""
    cfg, devices, out = params.experts[key], devices_of(params), EXPERTS / key
    prov, real, epochs = provenance(devices[0]), real_set(params, cfg, devices[0]), epochs_kept(cfg)
    checkpoints, stop = checkpoint_folder(key, replace(cfg, count=1, held_out=0)), stop_on_signals()  # more experts leave the others what they are
    experts = [] if forced() else kept_experts(out, checkpoints.name)[: cfg.count]
    missing = cfg.count - len(experts)
    print(f"{key}: {cfg}\n{prov}\n{len(experts)} expert(s) are there, {missing} to train", flush=True)
    work = expert_flops(cfg, real.shape, len(real.train_y))
    print(cost.describe(work, 1, missing, "float32", cost.matmul_rate("float32", devices[0], 1)), flush=True)
    disk = missing * expert_bytes(cfg, real.shape, real.num_classes)
    print(f"disk: {disk / 2**20:.1f} MiB for their snapshots; they are trained on {len(devices)} device(s)", flush=True)
    meta = {"net": cfg.net, "shape": list(real.shape), "num_classes": real.num_classes, "epochs": epochs, "identity": checkpoints.name, **prov}
    free = queue.SimpleQueue()
    for device in devices:
        free.put(real if device == devices[0] else real_set(params, cfg, device))

    def one_group(first):
        size, own = min(cfg.together, cfg.count - first), free.get()
        name, checkpoint = f"{key} experts {first} to {first + size - 1}", checkpoints / f"group{first}.safetensors"
        try:
            return train(name, Group(cfg, first, size, own), checkpoint, track.log, params.runtime.checkpoint_minutes, stop), checkpoint
        except BaseException:
            stop.set()  # the other devices' groups save what they have
            raise
        finally:
            free.put(own)

    with tracker("experts", key, asdict(cfg), prov) as track, ThreadPoolExecutor(len(devices)) as pool:
        for (snapshots, curves), checkpoint in pool.map(one_group, range(len(experts), cfg.count, cfg.together)):
            for i in range(len(snapshots[0])):
                entry = save_expert(out, len(experts), torch.stack([s[i] for s in snapshots]))
                experts.append({**entry, **{split: [percents[i] for percents in curve] for split, curve in curves.items()}})
            save_index(out, experts, **meta)  # after each group: what is done stays
            checkpoint.unlink(missing_ok=True)
    save_index(out, experts, **meta)
