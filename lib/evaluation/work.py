"""The work of evaluations, counted before they run: floating-point operations of networks that learn a set."""

from ..synthetic.lowrank import images_per_class
from ..training.compute import forward_flops
from ..training.loop import evaluation_steps


def evaluation_flops(protocol, forward, images, test, shown=0):
    """FLOPs of `protocol.num_nets` networks that are trained on a set and then classify `test` images.

    forward: FLOPs of an image's forward pass; images: of the set; shown: how many images a set's own schedule takes.
    A network that trains takes each image forward, and back to the weights and to the images below: three times.
    """
    shown = shown or protocol.epochs * images + protocol.steps * min(images, protocol.batch)
    return protocol.num_nets * forward * (3 * shown + test)


def flops_of_evaluations(cell, protocols, shape, source):
    """FLOPs of all evaluations of a cell (config.models.Cell): (during its runs, of the finished sets).

    protocols: by name; shape: an image's; source: the `classes`, `train`ing and `test` examples of its dataset.
    Without the baselines of DD, which choose among many sets, and without regressions on random features.
    """
    cfg, judge, classes = cell.distill, cell.evaluate, len(cell.distill.classes or range(source["classes"]))
    learned, real = images_per_class(cfg, shape) * classes, cfg.ipc * classes

    def flops(protocol, net, images, groups=1):
        shown = cfg.epochs * images // groups if protocol.optimizer == "schedule" else 0
        one = evaluation_flops(protocol, forward_flops(net, shape), images // groups, source["test"] // groups, shown)
        return groups * one

    trainings = [(judge.protocol, images) for images in [learned, real] + [learned] * (cfg.select != "last")]
    trainings += [(judge.whole, source["train"])] if judge.whole else []
    of_sets = sum(flops(protocols[name], net, images) for net in judge.nets for name, images in trainings)
    once = flops(protocols[cfg.eval_protocol], judge.nets[0], learned, cfg.class_steps)
    return len(evaluation_steps(cfg)) * once * len(cfg.seeds), of_sets * len(cfg.seeds)
