"""Membership inference: do a network's outputs tell which images its training set, or its distilled set, came from?

Members are images of the chunk that a set was distilled from, non-members are test images, in equal numbers.
Source: reference sheet of FRePo, section 11. `attacks.py` has the attacks.
"""

import numpy as np
import torch

from ..data.labels import initial_labels
from ..data.real import part_of
from ..rng import generator
from ..training.students import Students
from .attacks import ATTACKS, attack_scores, confidence, likelihood_ratio, losses, measure


class Candidates:
    """The images under attack: `size` of each chunk of a cell, one chunk after the other, then as many test images."""

    def __init__(self, real, cfg):
        self.real, self.chunks = real, len(cfg.seeds)
        self.size = size = min(cfg.chunk, len(real.test_y))

        def pick(x, y, name):
            chosen = torch.randperm(len(y), generator=generator(0, name))[:size].to(y.device)
            return x[chosen], y[chosen]

        parts = [part_of(real, cfg, seed) for seed in cfg.seeds]
        sets = [pick(part.train_x, part.train_y, "members") for part in parts]
        sets.append(pick(real.test_x, real.test_y, "non-members"))
        self.x, self.y = (torch.cat(tensors) for tensors in zip(*sets))
        self.labels = self.y.cpu().numpy()

    def of_chunk(self, chunk):
        """Indices (2 size,) of a chunk's members, then of the non-members."""
        size = self.size
        return [*range(chunk * size, (chunk + 1) * size), *range(self.chunks * size, (self.chunks + 1) * size)]

    def train(self, row, protocol, sets, seed):
        """Train `protocol.num_nets` students on each of M sets (x, y); evaluate them after each of `row.updates`.

        Returns {updates: (logits (M, num_nets, n, C) on all candidates, test accuracies (M * num_nets,))}.
        """
        x, y = (torch.stack(tensors) for tensors in zip(*sets))
        set_of = [m for m in range(len(x)) for _ in range(protocol.num_nets)]
        students = Students(row.net, self.real.shape, self.real.num_classes, set_of, seed, x.device)
        outputs = {}

        def after(updates):
            if updates in row.updates:
                logits = students.outputs(self.x).unflatten(0, (len(x), -1))
                accuracies = students.accuracy(self.real.test_x, self.real.test_y)
                outputs[updates] = logits.cpu().numpy(), accuracies.cpu()

        students.train(x, y, protocol.changed(steps=max(row.updates)), after)
        return outputs

    def train_shadows(self, row, protocol):
        """Train `row.shadows` networks on random halves of the first chunk's candidates.

        Returns ({updates: confidences (S, 2 size)}, inside (S, 2 size) bool: which images each was trained on).
        """
        pool = torch.tensor(self.of_chunk(0), device=self.x.device)
        gen = generator(0, "shadows", device=self.x.device)
        half = torch.rand(row.shadows // 2, len(pool), generator=gen, device=pool.device).argsort(1) < self.size
        inside = torch.cat([half, ~half])  # every image is in the training set of half of the networks
        y = initial_labels(self.y, self.real.num_classes)
        sets = [(self.x[pool[mask]], y[pool[mask]]) for mask in inside]
        outputs, pool = self.train(row, protocol.changed(num_nets=1), sets, "shadows"), pool.cpu().numpy()
        confidences = {
            updates: confidence(losses(logits[:, 0, pool], self.labels[pool]))
            for updates, (logits, _) in outputs.items()
        }
        return confidences, inside.cpu().numpy()

    def attack(self, row, logits, shadows=None):
        """Attack networks by their logits (M, num_nets, n, C), set m from chunk m -> {attack: [`measure` of each]}.

        With several chunks, the other chunks' networks are the shadows of `lira_offline`, and `control_...` attacks a
        chunk that the network has not seen, against the same non-members: what it finds is how the splits differ.
        `lira` takes the (confidences, inside) of `train_shadows`, for the first chunk.
        """
        results = {}
        for chunk in range(self.chunks):
            pool = self.of_chunk(chunk)
            member = np.arange(2 * self.size) < self.size
            confidences = confidence(losses(logits[:, :, pool], self.labels[pool]))  # (M, num_nets, 2 size)
            shadows_offline = [confidences[m] for m in range(self.chunks) if m != chunk]
            for net in range(min(row.attacked_nets, logits.shape[1])):
                scores, pools = {}, {"": pool}
                if shadows_offline:
                    pools["control_"] = self.of_chunk((chunk + 1) % self.chunks)
                    scores["lira_offline"] = likelihood_ratio(confidences[chunk, net], np.concatenate(shadows_offline))
                if shadows and chunk == 0:
                    scores["lira"] = likelihood_ratio(confidences[chunk, net], *shadows)
                for prefix, images in pools.items():
                    examples = logits[chunk, net, images], self.labels[images], member
                    for name in ATTACKS:
                        scores[prefix + name] = attack_scores(name, *examples, row.grid_search, net)
                for name, score in scores.items():
                    results.setdefault(name, []).append(measure(score, member, net))
        return results
