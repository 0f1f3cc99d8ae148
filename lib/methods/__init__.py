"""The methods, one file each, and the parts that only methods use. They know neither files nor DVC nor MLflow.

A method is built from (cfg, syn, seed, ...) and has `step`, `step_flops` and a state. Imports training, autodiff and
what is below.
"""

from ..registry import Registry

METHODS = Registry(__name__)
