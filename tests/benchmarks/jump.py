"""Where a distilled set's accuracy jumps: `python -m tests.benchmarks.jump dd-dd-mnist-ipc1-fixed --seed 1`.

A set with a schedule and a start is moved along random directions; between two places of different loss, bisection in
float64 finds a jump: how near its two sides are, what each side's loss and accuracy is, how far apart the first step
leaves the weights, and how many units of the first step switch. Needs the cell's set (`dvc repro distill@CELL`).
"""

import argparse
import json

import torch
import torch.nn.functional as F

from lib.autodiff.unroll import Flat, gradient
from lib.config.load import load_params
from lib.data.real import load_real
from lib.files import write_json
from lib.networks import build
from lib.synthetic.set import load_set
from lib.training.losses import cross_entropy
from stages.common import DISTILLED, PREPARED, PREPROCESSING, provenance

NEAR, JUMP = 1e-10, 0.02  # of the way between two places; in the loss


class Judge:
    """Trains from a set's start in float64, and judges the result on the test set."""

    def __init__(self, net, real, own):
        self.net = Flat(build(net, real.shape, own.y.shape[1]).double().train())
        self.real, self.own = real, own

    def steps(self, x):
        """The weights (1, P) before each step on the images x, and after the last."""
        theta, found = self.own.start[None].double(), []
        size = len(x) // self.own.lr.shape[1]
        for t, rate in enumerate(self.own.lr.flatten().double()):
            found.append(theta)
            part = slice(t % self.own.lr.shape[1] * size, (t % self.own.lr.shape[1] + 1) * size)
            images, labels = x[part], self.own.y[part].double()
            with torch.no_grad():
                theta = theta - rate * gradient(
                    lambda at, x=images, y=labels: cross_entropy(self.net(at, x), y).sum(), theta
                )
        return [*found, theta]

    @torch.no_grad()
    def score(self, x, count=None):
        """(loss, accuracy in percent) after training on x, of the first `count` test images."""
        images, labels = self.real.test_x[:count], self.real.test_y[:count]
        logits = torch.cat([self.net(self.steps(x)[-1], part.double())[0] for part in images.split(500)])
        return F.cross_entropy(logits, labels).item(), 100 * (logits.argmax(1) == labels).double().mean().item()

    @torch.no_grad()
    def on(self, theta, x):
        """Which rectified units are on, for each image of x."""
        seen = []
        hooks = [
            m.register_forward_hook(lambda m, i, out: seen.append(out > 0))
            for m in self.net.net.modules()
            if isinstance(m, torch.nn.ReLU)
        ]
        self.net(theta, x)
        for hook in hooks:
            hook.remove()
        return torch.cat([each.flatten() for each in seen])


def jump(judge, direction, count):
    """The two sides (fractions of `direction`) of a jump on the way; None where the loss changes little."""
    x = judge.own.x.double()
    low, high = 0.0, 1.0
    below, above = (judge.score(x + at * direction, count)[0] for at in (low, high))
    if abs(above - below) < JUMP:
        return None
    while high - low > NEAR:
        middle = (low + high) / 2
        loss = judge.score(x + middle * direction, count)[0]
        if abs(loss - below) < abs(loss - above):
            low, below = middle, loss
        else:
            high, above = middle, loss
    return (low, high) if abs(above - below) > JUMP / 4 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell", help="one with a fixed start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--std", type=float, default=1e-5, help="of the moves, in deviations of pixels")
    parser.add_argument("--moves", type=int, default=8, help="directions to try")
    parser.add_argument("--images", type=int, default=2000, help="test images that the search looks at")
    parser.add_argument("--out", help="a JSON file for the result")
    args = parser.parse_args()
    cell = load_params().cells[args.cell]
    real = load_real(PREPARED / cell.dataset, PREPROCESSING / f"{cell.preprocessing}.safetensors", torch.device("cpu"))
    own = load_set(DISTILLED / cell.suite / args.cell / f"seed{args.seed}.safetensors", real.shape, real.num_classes)
    judge, rng, x = Judge(cell.distill.net, real, own), torch.Generator().manual_seed(0), own.x.double()
    found = []
    for _ in range(args.moves):
        direction = args.std * torch.randn(x.shape, generator=rng, dtype=torch.float64)
        if sides := jump(judge, direction, args.images):
            places = [x + at * direction for at in sides]
            starts = [judge.steps(place)[1] for place in places]
            on, other = (judge.on(own.start[None].double(), place) for place in places)
            found.append({
                "pixels_apart": (places[1] - places[0]).abs().max().item(),
                "loss_and_accuracy": [judge.score(place) for place in places],
                "weights_apart_after_first_step": (starts[1] - starts[0]).norm().item(),
                "units_that_switch_in_first_step": int((on != other).sum()),
            })  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    print(f"{len(found)} jump(s) on {args.moves} way(s) of deviation {args.std}")
    if args.out:
        asked = {name: getattr(args, name) for name in ("cell", "seed", "std", "moves", "images")}
        write_json(args.out, {**asked, "jumps": found, **provenance(torch.device("cpu"))})


if __name__ == "__main__":
    main()
