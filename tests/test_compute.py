"""What a device computes fast: the precision of a cell's convolutions."""

import os
import subprocess
import sys

import pytest
import torch

from lib.config.settings import ParamsError, Settings
from lib.training.compute import DTYPES, allow_tf32, precision
from lib.training.cost import matmul_rate
from stages.precision import judged_in

from .pretended import Pretended

ASK = """
import torch
from lib.training.compute import precision
print(precision("fast", torch.device("cpu")))
try:
    precision("bfloat16", torch.device("cpu"))
except ValueError as error:
    print(error)
"""


def test_without_instructions_for_bfloat16_fast_is_float32_and_bfloat16_is_refused():
    """Of a processor that is told to do without them, as those from before 2020 have to."""
    limited = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ASK], env=limited, capture_output=True, text=True, check=True)
    fast, refused = done.stdout.strip().split("\n")
    assert fast == "float32" and refused.startswith("found bfloat16; this device computes ")
    assert refused.endswith("must be fast, which takes the faster of bfloat16 and float32, or float32")


def test_float32_means_float32_and_fast_is_one_of_both():
    assert precision("float32", torch.device("cpu")) == "float32"
    assert precision("fast", torch.device("cpu")) in DTYPES


def test_tf32_is_for_gpus():
    with pytest.raises(ValueError, match="found tf32, which only GPUs compute in; must be fast"):
        precision("tf32", torch.device("cpu"))
    with Pretended():
        assert precision("tf32", torch.device("cuda")) == "tf32"
        assert matmul_rate("tf32", torch.device("cuda"), 1, 16) > 0
    assert torch.get_float32_matmul_precision() == "highest", "a rate is measured; nothing else changes"
    try:
        allow_tf32("tf32")
        assert torch.backends.cudnn.allow_tf32
    finally:
        allow_tf32("float32")
    assert not torch.backends.cudnn.allow_tf32


def test_networks_that_judge_have_the_dtype_that_the_recipe_names_or_float32():
    old, fast, tf32 = (
        Settings.of({"key": "a-cell", "evaluate": {"nets": ["mlp"], **named}})
        for named in ({}, {"conv_dtype": "fast"}, {"conv_dtype": "tf32"})
    )
    device = torch.device("cpu")
    assert judged_in(old, device).evaluate.conv_dtype == "float32"
    assert judged_in(fast, device).evaluate.conv_dtype in DTYPES, "resolved: the record says which"
    with pytest.raises(ParamsError, match="^params.yaml: cells.a-cell.evaluate.conv_dtype: found tf32, which"):
        judged_in(tf32, device)
    try:
        with Pretended():
            assert judged_in(tf32, torch.device("cuda")).evaluate.conv_dtype == "tf32"
            assert torch.backends.cudnn.allow_tf32
    finally:
        allow_tf32("float32")
