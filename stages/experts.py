"""Train the experts of one row, several at once: `python -m stages.experts ROW`. Experts that are there already stay."""

from dataclasses import asdict, replace

import torch

from lib import cost
from lib.data.trajectories import kept_experts, save_expert, save_index
from lib.experts import Group, epochs_kept, expert_flops, train

from .checkpoints import checkpoint_folder, forced
from .common import EXPERTS, device_of, main, provenance, real_set, stop_on_signals, tracker


def stage(params, key):
    """Write OUT/expertN.safetensors, the kept snapshots of each, and OUT/index.json with checksums and learning curves."""
    cfg, device, out = params.experts[key], device_of(params), EXPERTS / key
    prov, real, epochs = provenance(device), real_set(params, cfg, device), epochs_kept(cfg)
    checkpoints, stop = checkpoint_folder(key, replace(cfg, count=1, held_out=0)), stop_on_signals()  # more experts leave the others what they are
    experts = [] if forced() else kept_experts(out, checkpoints.name)[: cfg.count]
    missing = cfg.count - len(experts)
    print(f"{key}: {cfg}\n{prov}\n{len(experts)} expert(s) are there, {missing} to train", flush=True)
    work = expert_flops(cfg, real.shape, len(real.train_y))
    print(cost.describe(work, 1, missing, "float32", cost.matmul_rate("float32", device, 1)), flush=True)
    meta = {"net": cfg.net, "shape": list(real.shape), "num_classes": real.num_classes, "epochs": epochs, "identity": checkpoints.name, **prov}
    with tracker("experts", key, asdict(cfg), prov) as track:
        for first in range(len(experts), cfg.count, cfg.together):
            group = Group(cfg, first, min(cfg.together, cfg.count - first), real)
            size, checkpoint = len(group.students), checkpoints / f"group{first}.safetensors"
            disk = missing * len(epochs) * group.weights().shape[1] * 4
            print(f"disk: {disk / 2**20:.1f} MiB for the snapshots of {missing} expert(s)", flush=True)
            name = f"{key} experts {first} to {first + size - 1}"
            snapshots, curves = train(name, group, checkpoint, track.log, params.runtime.checkpoint_minutes, stop)
            for i in range(size):
                entry = save_expert(out, first + i, torch.stack([s[i] for s in snapshots]))
                experts.append({**entry, **{split: [percents[i] for percents in curve] for split, curve in curves.items()}})
            save_index(out, experts, **meta)  # after each group: what is done stays
            checkpoint.unlink(missing_ok=True)
    save_index(out, experts, **meta)


if __name__ == "__main__":
    main(stage, "experts")
