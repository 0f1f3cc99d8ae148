"""Hostile params.yaml: each is answered by sentences that say where, what was found and what is allowed; none hangs."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML, YAMLError

from lib import strict_yaml
from lib.config.load import ParamsError, load_params
from lib.config.settings import Settings
from lib.data.folders import picture_folder
from lib.files import FileError, read_yaml
from stages import plan

ROOT = Path(__file__).parent.parent
CELL = "digits-frepo-digits-ipc1"


def excerpt():
    """params.yaml with the rows of digits alone, and of suite digits' first cells; its comments stay."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    tables = dict(re.findall(r"^(\w+):\n((?:(?:  .*|#.*)?\n)*)", text, re.MULTILINE))
    rows = {name: re.findall(r"(?:  #.*\n)*  \S.*\n(?:    .*\n)*", table) for name, table in tables.items()}
    kept = {
        "runtime": rows["runtime"],
        "methods": [row for row in rows["methods"] if row.startswith(("  frepo:", "  isa:", "  dd:"))],
        "cells": [row for row in rows["cells"] if re.search(r"^  digits-(frepo|isa|dd)-digits-ipc1:", row, re.M)],
        "continual": [],
        "membership": [],
        "scores": [],
        "external": [],
    }
    for name in ("datasets", "preprocessing", "protocols", "experts"):
        kept[name] = [row for row in rows[name] if re.search(r"^  (digits|dd-fixed|during-dd)\b", row, re.M)]
    tables = (f"{name}:\n{''.join(each)}" if each else f"{name}: {{}}\n" for name, each in kept.items())
    return "# An excerpt.\nsuites: [digits]\n" + "\n".join(tables)


TEXT = excerpt()


@pytest.fixture
def load(tmp_path):
    """load(text or bytes): what `load_params` makes of a file that holds it."""

    def of(text):
        path = tmp_path / "params.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_params(path)

    return of


def test_the_excerpt_itself_is_right(load):
    params, shipped = load(TEXT), load_params(ROOT / "params.yaml")
    assert len(params.cells) == 3 and params.cells[CELL] == shipped.cells[CELL]


# (what is replaced in the excerpt, by what, and the words of the one sentence)
STEPS = "flip: false, steps: 300"
SUITES, MEAN = "suites: [digits]", "mean: [0.3053]"
ISA = "experts: none, baseline: digits-frepo-digits-ipc1"


def distilled(column, value):
    """The FRePo cell with another value in `distill`."""
    return STEPS, f"flip: false, steps: 300, {column}: {value}"


def steps(value):
    return STEPS, f"flip: false, steps: {value}"


def protocol(old, new):
    line = "digits: {num_nets: 3, steps: 150, lr: 1.0e-3, warmup: 0, lr_final: 1.0, batch: 500, shuffle: false"
    return line, line.replace(old, new)


def expert(old, new):
    line = "net: convnet2-w32-instance, count: 10, epochs: 12, keep: 12, optimizer: sgd, lr: 0.05, batch: 128"
    return line, line.replace(old, new)


def net(name):
    return "nets: [conv2-w32, dcconv2-w32, mlp]", f"nets: [{name}]"


def added(table, row):
    """A row more in a table."""
    return (
        (f"{table}: {{}}", f"{table}:\n  {row}")
        if f"{table}: {{}}\n" in TEXT
        else (f"{table}:\n", f"{table}:\n  {row}\n")
    )


BAD = {
    # Two readings of one text.
    "octal": (steps("0300"), "steps: found '0300', which YAML 1.1 takes for the number 192; write a number in decimal"),
    "octal of one digit": (steps("030"), "steps: found '030', which YAML 1.1 takes for the number 24"),
    "zeros before": (steps("0090"), "steps: found '0090', which YAML 1.2 takes for a number and YAML 1.1 for a text"),
    "octal of 1.2": (steps("0o17"), "steps: found '0o17', which YAML 1.2 takes for a number"),
    "minutes": (steps("1:30"), "steps: found '1:30', which YAML 1.1 takes for the number 90"),
    "minutes and seconds": (steps("1:30:00"), "found '1:30:00', which YAML 1.1 takes for the number 5400"),
    "hexadecimal": (steps("0x10"), "steps: found '0x10', which YAML 1.1 takes for the number 16"),
    "binary": (steps("0b1"), "steps: found '0b1', which YAML 1.1 takes for the number 1"),
    "underscores": (steps("1_000"), "steps: found '1_000', which YAML 1.1 takes for the number 1000"),
    "no as a truth value": (
        ("flip: false", "flip: no"),
        "distill.flip: found 'no', which YAML 1.1 takes for false and",
    ),
    "on as a truth value": (("shuffle: false", "shuffle: On"), "shuffle: found 'On', which YAML 1.1 takes for true"),
    "yes as a key": (
        added("datasets", "yes: {folder: x, resolution: 8}"),
        "datasets: found 'yes', which YAML 1.1 takes",
    ),
    "off as a text": (
        ("init: real", "init: off"),
        "found 'off', which YAML 1.1 takes for false and YAML 1.2 for a text",
    ),
    "date": (steps("2026-01-02"), "found '2026-01-02', which YAML takes for a date, 2026-01-02; dates are not taken"),
    "time": (steps("2026-01-02 10:20:30"), "which YAML takes for a date"),
    "merge of mappings": (steps("300, <<: {}"), "found '<<', which merges mappings; write its keys and values out"),
    "equals sign": (steps("="), "found '=', which has a meaning of its own in YAML"),
    "a hundred digits": (steps("1" + "0" * 400), "found a number of 401 characters; none of more than 100 is taken"),
    "five thousand digits": (steps("9" * 5000), "found a number of 5,000 characters"),
    "float too large": (distilled("online_lr", "1e400"), "'1e400', which is beyond what a number of 64 bits holds"),
    "float too small": (
        ("lr_final: 1.0", "lr_final: 1.0e-400"),
        "'1.0e-400', which is beyond what a number of 64 bits",
    ),
    # Documents that are not one document of plain values.
    "key twice": (steps("300, ipc: 2"), "the key 'ipc' is there a second time (first: line"),
    "row twice": (
        added("datasets", "digits: {source: mnist, resolution: 28}"),
        "the key 'digits' is there a second time (first",
    ),
    "table twice": (
        (SUITES, f"{SUITES}\nsuites: [mnist]"),
        "line 3: the key 'suites' is there a second time (first: line 2)",
    ),
    "key twice in quotes": (steps('300, "ip\\x63": 2'), "the key 'ipc' is there a second time"),
    "one and true as keys": (steps("300, 1: 2, true: 3"), "the key 'True' is there a second time"),
    "python object": (steps("!!python/object/apply:os.system [ls]"), "found the tag '!!python/object/apply:os.system'"),
    "binary data": (steps("!!binary aGVsbG8="), "found the tag '!!binary'; remove it"),
    "tag of a text": (steps("!!str 300"), "found the tag '!!str'"),
    "tag of our own": (steps("!mine 300"), "found the tag '!mine'"),
    "set": (steps("!!set {300}"), "found the tag '!!set'"),
    "two documents": ((SUITES, f"---\n{SUITES}\n---\n{SUITES}"), "line 4: a second document begins; a file has one"),
    "version of YAML": ((SUITES, f"%YAML 1.1\n---\n{SUITES}"), "line 2: found a line that begins with %; remove it"),
    "mapping as a key": (steps("300, ? {a: 1} : 2"), "a key that is a list or mapping; keys are texts"),
    "number as a key": (steps("300, 1: 2"), "distill: found 1; keys must be texts"),
    "null as a key": (steps("300, ~: 2"), "distill: found None; keys must be texts"),
    "null as a key below": (
        ("nets: [conv2-w32, dcconv2-w32, mlp]", "nets: [mlp], ~: 2"),
        "evaluate: found None; keys must be texts",
    ),
    "alias of nothing": (steps("*none"), "*none names nothing that has ended before it"),
    "alias within itself": (steps("&a [*a]"), "*a names nothing that has ended before it"),
    "anchor twice": (steps("&a 300, &a ipc: 1"), "the anchor &a is there a second time"),
    "alias of a list": (
        ("eval_at: [1], eval_every: 150", "eval_at: &a [1], eval_every: *a"),
        "eval_every: found [1]; must be an",
    ),
    "open bracket": ((SUITES, "suites: [digits"), "not valid YAML: did not find expected ',' or ']'"),
    "tab for indentation": (("  device:", "\tdevice:"), "not valid YAML: found character that cannot start any token"),
    "control character": (steps("\x07"), "not valid YAML: unacceptable character #x0007"),
    "another end of line": (("# An excerpt.", "# An\u2028excerpt."), "line 1: holds U+2028; remove this character"),
    # Keys and suites.
    "suite above": (
        (SUITES, "suites: [digits, ../../tmp/x]"),
        "suites: found '../../tmp/x'; a name may hold letters, digits,",
    ),
    "suite with a command": (
        (SUITES, 'suites: [digits, "digits; touch F"]'),
        "suites: found 'digits; touch F'; a name may hold",
    ),
    "suite with markup": ((SUITES, 'suites: [digits, "<b>x</b>"]'), "suites: found '<b>x</b>'; a name may hold"),
    "suite in the shell": ((SUITES, "suites: [digits, $(touch F)]"), "suites: found '$(touch F)'; a name may hold"),
    "suite twice": ((SUITES, "suites: [digits, digits]"), "suites: found 'digits'; is there 2 times; keep one"),
    "suite of another folder": (
        (SUITES, "suites: [digits, external]"),
        "reports/external is another folder; take another",
    ),
    "suite without letters": ((SUITES, 'suites: [digits, ""]'), "suites: found ''; a name may hold"),
    "suite as an option": ((SUITES, "suites: [digits, -h]"), "suites: found '-h'; a name may hold"),
    "suite that is a number": (
        (SUITES, "suites: [digits, 3]"),
        "suites: found ['digits', 3]; must be a list, each a text",
    ),
    "suites in a text": ((SUITES, "suites: digits"), "suites: found 'digits'; must be a list, each a text"),
    "dataset with a command": (
        added("datasets", '"x; touch F": {source: digits, resolution: 8}'),
        "datasets: found 'x; touch F'; a key may",
    ),
    "dataset in the shell": (
        added("datasets", "$(touch F): {source: digits, resolution: 8}"),
        "datasets: found '$(touch F)'; a key",
    ),
    "dataset above": (
        added("datasets", "../x: {source: digits, resolution: 8}"),
        "datasets: found '../x'; a key may hold letters",
    ),
    "long key": (
        added("datasets", f"{'x' * 101}: {{source: digits, resolution: 8}}"),
        "a key may hold letters, digits, - and _ alone, at most 100",
    ),
    "key as an option": (added("protocols", "--force: {}"), "protocols: found '--force'; a key may hold"),
    "key with a new line": (added("protocols", '"a\\nb": {}'), "protocols: found 'a\\nb'; a key may hold"),
    "key of other digits": (added("protocols", "d١: {}"), "protocols: found 'd١'; a key may hold"),
    "key of a method": (added("methods", "frepoo: {}"), "methods: found 'frepoo'; must be one of dd, sldd, rat, frepo"),
    "key of a table": ((SUITES, f'{SUITES}\n"a\\nb": 1'), "'a\\nb': unknown table; known are runtime, suites"),
    "key of a row": (steps('300, "a\\nb": 1'), "distill.'a\\nb': found 1; unknown key; known are"),
    # Numbers.
    "steps beyond": (
        steps(10**30),
        "found 1000000000000000000000000000000; must be an integer, at least 1 and at most 1,000,000,000",
    ),
    "steps in quotes": (steps("'300'"), "steps: found '300'; must be an integer, at least 1"),
    "steps with an exponent": (steps("3e2"), "steps: found 300.0; must be an integer"),
    "steps as a float": (steps("300.0"), "steps: found 300.0; must be an integer"),
    "steps true": (steps("true"), "steps: found True; must be an integer"),
    "steps of nothing": (steps(""), "steps: found None; must be an integer"),
    "steps below": (steps(-1), "steps: found -1; must be an integer, at least 1"),
    "pool": (
        distilled("pool_size", 10**9),
        "pool_size: found 1000000000; must be an integer, at least 1 and at most 10,000 (each",
    ),
    "batch": (
        distilled("online_batch", 10**10),
        "online_batch: found 10000000000; must be an integer, at least 1 and at most 10,000,000",
    ),
    "rate infinite": (
        distilled("online_lr", ".inf"),
        "online_lr: found '.inf', which YAML takes for inf; numbers are finite",
    ),
    "rate not a number": (
        distilled("online_lr", ".nan"),
        "online_lr: found '.nan', which YAML takes for nan; numbers are finite",
    ),
    "rate in a word": (distilled("online_lr", "nan"), "online_lr: found 'nan'; must be a number, above 0"),
    "rate absurd": (
        distilled("online_lr", "1e30"),
        "online_lr: found 1e+30; must be a number, above 0, from 1.0e-12 to 1,000,000",
    ),
    "rate next to nothing": (
        distilled("online_lr", "1e-30"),
        "online_lr: found 1e-30; must be a number, above 0, from 1.0e-12",
    ),
    "rate of a protocol": (
        protocol("1.0e-3", "1.0e+9"),
        "protocols.digits.lr: found 1000000000.0; must be a number, above 0",
    ),
    "mean of nan": ((MEAN, "mean: [.nan]"), "mean: found '.nan', which YAML takes for nan"),
    "mean of infinity": ((MEAN, "mean: [-.inf]"), "mean: found '-.inf', which YAML takes for -inf"),
    "mean of grey levels": (
        (MEAN, "mean: [77.8]"),
        "mean: found [77.8]; must be a list, each a number, from 0 to 1, as pixels are",
    ),
    "std of infinity": (("std: [0.3760]", "std: [.INF]"), "std: found '.INF', which YAML takes for inf"),
    "std of nothing": (
        ("std: [0.3760]", "std: [1.0e-30]"),
        "std: found [1e-30]; must be a list, each a number, above 0, from 0.001",
    ),
    "zca_eps": ((MEAN, f"zca_eps: 0, {MEAN}"), "zca_eps: found 0; must be a number, above 0"),
    "seed beyond": (
        ("seeds: [0, 1, 2, 3], flip", "seeds: [4294967296], flip"),
        "seeds: found [4294967296]; must be a list, each an integer, distinct integers of at least 0 and below 2^32",
    ),
    "seed below": (("seeds: [0, 1, 2, 3], flip", "seeds: [-1], flip"), "seeds: found [-1]; must be a list"),
    "seeds true": (("seeds: [0, 1, 2, 3], flip", "seeds: [true], flip"), "seeds: found [True]; must be a list"),
    "seeds a number": (("seeds: [0, 1, 2, 3], flip", "seeds: 3, flip"), "seeds: found 3; must be a list"),
    "too many seeds": (
        ("seeds: [0, 1, 2, 3], flip", f"seeds: {list(range(2000))}, flip"),
        "at least one and at most 1,000",
    ),
    "seed of experts": (
        expert("count: 10", "count: 10, seed: 4294967296"),
        "experts.digits.seed: found 4294967296; must be an integer, at least 0 and at most 4,294,967,295 (32 bits)",
    ),
    "experts": (
        expert("count: 10", "count: 1000000"),
        "experts.digits.count: found 1000000; must be an integer, at least 1 and at most 10,000",
    ),
    "networks of a protocol": (
        protocol("num_nets: 3", "num_nets: 1000000"),
        "protocols.digits.num_nets: found 1000000; must be",
    ),
    "fraction": (
        protocol("lr_final: 1.0", "lr_final: 1.5"),
        "protocols.digits.lr_final: found 1.5; must be a number, between 0 and 1",
    ),
    "step twice": (
        ("eval_at: [1]", "eval_at: [1, 1]"),
        "eval_at: found [1, 1]; must be a list, each an integer, distinct steps",
    ),
    "no steps": (("eval_at: [1]", "eval_at: []"), "eval_at: found []; must be a list, each an integer, distinct steps"),
    "step beyond": (
        ("eval_at: [1]", "eval_at: [301]"),
        "eval_at: found [301]; must be from 0 (the start) to steps (300)",
    ),
    "epsilon": (
        ("epsilon: 0.5", "epsilon: 1.0e+9"),
        "methods.isa.epsilon: found 1000000000.0; must be a number, at least -1000",
    ),
    "resolution": (
        ("{source: digits, resolution: 8}", "{folder: x, resolution: 13000}"),
        "datasets.digits.resolution: found 13000; must be an integer, at least 4 and at most 2,048",
    ),
    "checkpoints": (
        ("checkpoint_minutes: 5.0", "checkpoint_minutes: 1e9"),
        "runtime.checkpoint_minutes: found 1000000000.0; must be a number, at least 0",
    ),
    "device": (
        ("device: auto", "device: cuda:999999999999"),
        "runtime.device: found 'cuda:999999999999'; must be auto, cpu, cuda",
    ),
    "device of other digits": (
        ("device: auto", "device: cuda:٣"),
        "runtime.device: found 'cuda:٣'; must be auto, cpu, cuda",
    ),
    # Names.
    "no networks": (net(""), "evaluate.nets: found []; must be a list, each a text, distinct networks, at least one"),
    "network twice": (
        net("mlp, mlp"),
        "evaluate.nets: found ['mlp', 'mlp']; must be a list, each a text, distinct networks",
    ),
    "width": (
        net("conv2-w1000000"),
        "evaluate.nets: found 'conv2-w1000000'; must be a name in ASCII, -w at most 4,096",
    ),
    "width of a hundred digits": (net(f"conv2-w{'9' * 900}"), "-w at most 4,096"),
    "weights": (
        net("conv3-w4096"),
        "evaluate.nets: found 'conv3-w4096'; conv3-w4096 has 1,510,047,746 weights; at most",
    ),
    "depth of other digits": (net("conv٢"), "evaluate.nets: found 'conv٢'; must be a name in ASCII"),
    "baseline": (
        (ISA, "experts: none, baseline: digits-isa-digits-ipc1"),
        "baseline: found 'digits-isa-digits-ipc1'; is the cell itself; name another",
    ),
    "attack": (("start: fixed", "start: fixed, attack: [3, 10]"), "distill.attack: found [3, 10]; must be below 10"),
    "method in distill": (
        distilled("method", "dm"),
        "distill.method: found 'dm'; remove it: the cell's own `method` says it",
    ),
    "default": (
        ("pool_size: 10", "pool_sise: 10"),
        "methods.frepo.pool_sise: found 10; unknown key (did you mean pool_size?)",
    ),
    "default beyond": (
        ("pool_size: 10", "pool_size: 0"),
        "methods.frepo.pool_size: found 0; must be an integer, at least 1",
    ),
    "archives": (
        ("archives: null", 'archives: "a\\0b"'),
        "runtime.archives: found 'a\\x00b'; must be a text, a path, in characters",
    ),
    "folder": (
        ("{source: digits, resolution: 8}", '{folder: "", resolution: 8}'),
        "datasets.digits.folder: found ''; must be a text, a path",
    ),
    "vectors": (
        added("preprocessing", "topics: {dataset: topics, tokens: 50, length: 12, dim: 16, vectors: ../x}"),
        "vectors: found '../x'; must be a text",
    ),
    "long value": (distilled("init", "x" * 5000), "init: found 'xxxxx"),
}


@pytest.mark.parametrize("edit, words", BAD.values(), ids=BAD)
def test_what_is_wrong_is_answered_by_one_sentence(load, edit, words):
    old, new = edit
    text = TEXT.replace(old, new, 1)
    if "topics" in new:
        text = text.replace("datasets:\n", "datasets:\n  topics: {source: topics}\n")
    assert text != TEXT
    started = time.monotonic()
    with pytest.raises(ParamsError) as caught:
        load(text)
    assert time.monotonic() - started < 5
    (line,) = str(caught.value).splitlines()
    assert words in line and "params.yaml: " in line and len(line) < 1500, line


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "must be a mapping of keys to values"),
        (b"# nothing but words\n", "must be a mapping of keys to values"),
        (b"- 1\n", "found [1]; must be a mapping"),
        (TEXT.encode("utf-16"), "line 1: byte 0xff is not UTF-8; save the file as UTF-8"),
        (TEXT.replace("excerpt", "\xe4xcerpt").encode("latin-1"), "line 1: byte 0xe4 is not UTF-8"),
        (TEXT.encode() + b"\x80", "is not UTF-8"),
        (TEXT.encode() + b"\0", "not valid YAML: unacceptable character #x0000: control characters are not allowed"),
        (TEXT.encode() + b"#" * (4 << 20), "has more than 4,194,304 bytes"),
        (random.Random(0).randbytes(1000), "is not UTF-8; save the file as UTF-8"),
    ],
    ids=("empty", "words", "list", "utf-16", "latin-1", "half a letter", "zero byte", "four million", "noise"),
)
def test_a_file_that_holds_no_parameters_is_refused(load, data, words):
    with pytest.raises(ParamsError, match=re.escape(words)):
        load(data)


def test_byte_order_marks_and_windows_ends_of_lines_change_nothing(load):
    assert load(TEXT.replace("\n", "\r\n").encode("utf-8-sig")) == load(TEXT)


def test_twenty_problems_are_told_at_once_and_no_more_than_that(load):
    with pytest.raises(ParamsError) as caught:
        load(TEXT + "".join(f"table{i}: 0{i}\n" for i in range(10, 50)))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and "and more; correct these first" in lines[-1]


def test_a_plan_with_a_suite_that_a_shell_would_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits; touch F", "$(touch F)", "../../../x"):
        (tmp_path / "params.yaml").write_text(TEXT.replace(SUITES, f'suites: [digits, "{name}"]'))
        with pytest.raises(ParamsError, match=re.escape(f"suites: found {name!r}; a name may hold letters")):
            plan.stage()
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_class_without_test_pictures_is_refused(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != "test/dog":
            (tmp_path / folder / "a.png").touch()
    with pytest.raises(FileError, match="test/dog: no pictures"):
        picture_folder(tmp_path)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
DEEP = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [[[[[[*a{i - 1}]]]]]]\n" for i in range(1, 5000))
READ = """
import sys, time
from lib.config.load import ParamsError, load_params
for path in sys.argv[1:]:
    started = time.monotonic()
    try:
        load_params(path)
        print("accepted")
    except ParamsError as error:
        print("late" if time.monotonic() - started > 5 else error)
"""


def test_what_explodes_never_ends_or_is_no_file_is_refused_in_seconds(tmp_path):
    """In a process of its own, which a crash of the parser or a read without end would not leave alive."""
    texts = {
        "brackets": ("[" * 100_000, "line 1: nested more than 50 levels deep"),
        "braces": ("{a: " * 100_000, "line 1: nested more than 50 levels deep"),
        "dashes": ("- " * 100_000, "line 1: nested more than 50 levels deep"),
        "indented": ("\n".join(" " * i + "a:" for i in range(2000)), "line 51: nested more than 50 levels deep"),
        "laughs": (LAUGHS, "and other aliases stand for more than 100,000 values, 50 levels deep; write out"),
        "chain": (DEEP, "and other aliases stand for more than 100,000 values, 50 levels deep; write out"),
        "problems": ("a: [" + "01, " * 900_000 + "]", "line 1: and more; correct these first"),
        "rows": (TEXT + "".join(f"table{i}: 1\n" for i in range(50_000)), "and more, not shown; correct these first"),
    }
    expected = {}
    for name, (text, words) in texts.items():
        (tmp_path / name).write_text(text)
        expected[tmp_path / name] = words
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    device = "neither a file nor a folder, but a device, a pipe or a socket; run from the repository's root"
    expected |= {tmp_path / "folder": "a folder, not a file", tmp_path / "pipe": device, Path("/dev/zero"): device}
    expected |= {tmp_path / name: "a link that leads nowhere" for name in ("nowhere", "loop")}
    expected |= {tmp_path / "absent": "not found; run from the repository's root"}
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, expected)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "late" not in done.stdout.splitlines() and "accepted" not in done.stdout.splitlines()
    for path, words in expected.items():
        assert any(line.startswith(f"{path}: ") and words in line for line in done.stdout.splitlines()), path


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text(TEXT)
    (tmp_path / "params.yaml").chmod(0)
    with pytest.raises(ParamsError, match="cannot be read .Permission denied.; correct its permissions"):
        load_params(tmp_path / "params.yaml")


def dvc_reads(text, value):
    """Whether DVC, by its library, reads this value in a text, or refuses the text."""
    try:
        return same(value, YAML(typ="safe").load(text))
    except YAMLError:
        return True


def same(one, other):
    """Whether two values are equal, and of the same types all through."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(map(same, one, other)) and all(same(one[k], other[k]) for k in one)
    return len(one) == len(other) and all(map(same, one, other)) if isinstance(one, list) else one == other


FORMS = "0 1 7 10 300 - + . _ : e E x o b f a 0x 0o 0b yes no on off true null ~ = inf nan .inf .nan T Z".split()
FORMS += ["2026", "-01", "-02", "10:20", " ", "<<", "#", "NULL", "Yes", "FALSE"]
SCALARS = st.lists(st.sampled_from(FORMS), min_size=1, max_size=6).map("".join)
EVERY = settings(deadline=None, derandomize=True, database=None)


@settings(EVERY, max_examples=1500)
@given(SCALARS, st.sampled_from(["a: {}", "{}: a", "[{}]", "a: '{}'", 'a: "{}"']))
def test_a_text_that_is_taken_is_what_dvc_reads(scalar, form):
    text = form.format(scalar)
    try:
        ours = strict_yaml.load(text)
    except strict_yaml.Refused:
        return
    assert dvc_reads(text, ours)


@pytest.mark.parametrize("text", ["1e-05", "3e-4", "1.0e-3", "1E5", "+5", "-0", "0", "0.0", "5.", ".5", "-.5", "1e+20"])
def test_numbers_in_each_form_that_dvc_writes_or_people_write_are_taken(text):
    assert same(strict_yaml.load(f"a: {text}"), {"a": float(text) if re.search("[.eE]", text) else int(text)})


NASTY = (
    ".nan -.inf 1e999 0300 1:30 no on ~ '' [] {} -1 2026-01-01 !!binary *a &a $(touch) ../x <b> 1_000 0x10 true 1e3 0 "
    "1 2 '0' 3.5 [0] [[[[ null 99999999999999999999 digits mlp dm - ? : # , ] } { | > % @ ` !!python/name:os.system"
).split() + ['"x; touch F"', '"\\0"', "\t", "\x85", "\n", "\r", "\0", " ", "\ufeff", "9" * 5000]
PLACES = st.integers(0, len(TEXT) - 1)
LINES = TEXT.splitlines(keepends=True)
TOKENS = [match.span() for match in re.finditer(r"[^\s,:{}\[\]#]+", TEXT)]


@st.composite
def mutated(draw):
    """The excerpt's bytes after one change, now and then two or three."""
    data = TEXT
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        match draw(st.sampled_from(["flip", "drop", "double", "swap", "value", "insert", "cut"])):
            case "flip":
                raw = bytearray(data.encode("utf-8", "surrogateescape"))
                raw[draw(PLACES) % len(raw)] ^= 1 << draw(st.integers(0, 7))
                data = raw.decode("utf-8", "surrogateescape")
            case "value":
                start, end = draw(st.sampled_from(TOKENS))
                data = data[:start] + draw(st.sampled_from(NASTY)) + data[end:]
            case "insert":
                place = draw(PLACES)
                data = data[:place] + draw(st.sampled_from(NASTY)) + data[place:]
            case "cut":
                data = data[: draw(PLACES)] or "\n"
            case change:
                lines = data.splitlines(keepends=True)
                i, j = (draw(st.integers(0, len(LINES) - 1)) % len(lines) for _ in range(2))
                if change == "swap":
                    lines[i], lines[j] = lines[j], lines[i]
                else:
                    lines[i : i + 1] = [lines[i]] * (2 if change == "double" else 0)
                data = "".join(lines) or "\n"
    return data.encode("utf-8", "surrogateescape")


def missing_from(params, node):
    """What a file says and its checked rows do not, as paths: none, where nothing was left out or changed."""
    rows = {f"{name}.{key}": (row, vars(params)[name][key]) for name in node for key, row in table_of(node, name)}
    rows |= {"runtime": (node["runtime"], params.runtime)}
    for key, row in table_of(node, "cells"):
        defaults = node["methods"].get(row["method"], {})
        rows[f"cells.{key}.distill"] = {**defaults, **row["distill"]}, params.cells[key].distill
    given = [(f"{path}.{c}", value, getattr(row, c)) for path, (said, row) in rows.items() for c, value in said.items()]
    return [path for path, value, found in given if not carried(value, found)]


def table_of(node, name):
    return node[name].items() if name not in ("runtime", "suites", "methods") else ()


def carried(value, found):
    """Whether a value of a row is the one that the file gives. (An integer stands for a number; it is compared so.)"""
    if isinstance(value, dict):  # the sections of a cell
        return all(carried(each, getattr(found, name)) for name, each in value.items())
    if isinstance(value, list):
        return len(value) == len(found) and all(map(carried, value, found))
    return value == found and isinstance(value, bool) == isinstance(found, bool)


@settings(EVERY, max_examples=800)
@given(mutated())
def test_a_changed_file_is_refused_in_words_or_read_to_the_letter(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(data)
    try:
        params = load_params(path)
    except ParamsError as error:
        assert all(line.startswith(f"{path}: ") and line.isprintable() for line in str(error).splitlines()), error
        return
    node = read_yaml(path)
    assert isinstance(params, Settings) and dvc_reads(data.decode("utf-8-sig"), node)
    assert not missing_from(params, node) and list(params.suites) == node["suites"]
    tables = {name: list(rows) for name, rows in vars(params).items() if name not in ("runtime", "suites")}
    assert tables == {name: list(node[name]) for name in tables}
