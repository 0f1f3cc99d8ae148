"""Membership inference: can one tell from a student's outputs which images its training set, or its distilled set, came from?

Members are the images of the chunk that a set was distilled from, non-members are test images, in equal numbers.
Source: reference sheet of FRePo, section 11. `attacks.py` has the attacks.
"""

import numpy as np
import torch

from ..data.labels import initial_labels
from ..data.real import part_of
from ..rng import generator
from ..training.students import Students
from .attacks import ATTACKS, attack_scores, confidence, likelihood_ratio, losses, measure


class Pool:
    """The images under attack: `size` of each chunk of a cell, one chunk after the other, then as many of the test set."""

    def __init__(self, real, cfg):
        self.real, self.chunks = real, len(cfg.seeds)
        self.size = size = min(cfg.chunk, len(real.test_y))

        def pick(x, y, name):
            chosen = torch.randperm(len(y), generator=generator(0, name))[:size].to(y.device)
            return x[chosen], y[chosen]

        parts = [part_of(real, cfg, seed) for seed in cfg.seeds]
        picked = [pick(part.train_x, part.train_y, "members") for part in parts] + [
            pick(real.test_x, real.test_y, "non-members")
        ]
        self.x, self.y = (torch.cat(tensors) for tensors in zip(*picked))
        self.labels = self.y.cpu().numpy()

    def under_attack(self, chunk):
        """Indices of a chunk's members, then of the non-members."""
        size = self.size
        return [*range(chunk * size, (chunk + 1) * size), *range(self.chunks * size, (self.chunks + 1) * size)]

    def looks(self, row, protocol, sets, seed):
        """Train `protocol.num_nets` students on each set (x, y) -> {updates: (logits (M, num_nets, n, C) on the pool, accuracies (S,))}."""
        x, y = (torch.stack(tensors) for tensors in zip(*sets))
        set_of = [m for m in range(len(x)) for _ in range(protocol.num_nets)]
        students, seen = Students(row.net, self.real.shape, self.real.num_classes, set_of, seed, x.device), {}

        def after(updates):
            if updates in row.updates:
                logits = students.outputs(self.x).unflatten(0, (len(x), -1))
                seen[updates] = logits.cpu().numpy(), students.accuracy(self.real.test_x, self.real.test_y).cpu()

        students.train(x, y, protocol.changed(steps=max(row.updates)), after)
        return seen

    def shadow_looks(self, row, protocol):
        """`row.shadows` networks trained on random halves of the first chunk's pool -> ({updates: confidences (S, 2 size)}, inside (S, 2 size))."""
        pool = torch.tensor(self.under_attack(0), device=self.x.device)
        gen = generator(0, "shadows", device=self.x.device)
        half = torch.rand(row.shadows // 2, len(pool), generator=gen, device=pool.device).argsort(1) < self.size
        inside = torch.cat([half, ~half])  # so that every image is inside of one half of the shadows
        y = initial_labels(self.y, self.real.num_classes)
        sets = [(self.x[pool[mask]], y[pool[mask]]) for mask in inside]
        looks = self.looks(row, protocol.changed(num_nets=1), sets, "shadows")
        own = pool.cpu().numpy()
        return {
            updates: confidence(losses(logits[:, 0, own], self.labels[own])) for updates, (logits, _) in looks.items()
        }, inside.cpu().numpy()

    def attack(self, row, logits, shadows=None):
        """Attack students by their logits (M, num_nets, n, C), set m being of chunk m -> {attack: [what `measure` says of each]}.

        With several chunks, `lira_offline` takes the other chunks' students as shadows, and `control_...` is an attack on a chunk
        that the student has not seen, against the same non-members: what it finds is how the splits differ. `lira` takes the given
        (confidences, inside) of `shadow_looks`, for the first chunk.
        """
        found = {}
        for chunk in range(self.chunks):
            pool = self.under_attack(chunk)
            member = np.arange(2 * self.size) < self.size
            known = confidence(losses(logits[:, :, pool], self.labels[pool]))  # (M, num_nets, 2 size)
            others = [known[m] for m in range(self.chunks) if m != chunk]
            for net in range(min(row.attacked_nets, logits.shape[1])):
                scores, pools = {}, {"": pool}
                if others:
                    pools["control_"] = self.under_attack((chunk + 1) % self.chunks)
                    scores["lira_offline"] = likelihood_ratio(known[chunk, net], np.concatenate(others))
                if shadows and chunk == 0:
                    scores["lira"] = likelihood_ratio(known[chunk, net], *shadows)
                for prefix, images in pools.items():
                    seen, labels = logits[chunk, net, images], self.labels[images]
                    scores |= {
                        prefix + name: attack_scores(name, seen, labels, member, row.grid_search, net)
                        for name in ATTACKS
                    }
                for name, score in scores.items():
                    found.setdefault(name, []).append(measure(score, member, net))
        return found
