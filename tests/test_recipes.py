"""What a result depends on: recipes of the real tree, in a copy of it that is edited, and beside what stages run."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib.config import fingerprint
from lib.config.load import load_params
from lib.config.recipes import recipes

from .toy import ENV, edit

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what `plan` reads, and the recipes that it gives -> (folder, recipes)."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("lib", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", folder)
    return folder, planned(folder)


def planned(folder):
    """{stage/key: recipe} that the stage of a copy writes."""
    done = subprocess.run([sys.executable, "-m", "stages", "plan"], cwd=folder, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    paths = (folder / "build/plan").glob("*/*.json")
    return {f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in paths}


def reread(folder):
    """As `planned`, in this process: for edits of code that planning reads, and does not run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "ROOT", folder)
        forget()
        plan = recipes(load_params(folder / "params.yaml"))
    forget()
    return {f"{stage}/{key}": json.loads(json.dumps(row)) for stage, rows in plan.items() for key, row in rows.items()}


def forget():
    for function in (fingerprint.module_of, fingerprint.mentioned, fingerprint.meaning):
        function.cache_clear()


def changed(folder, before, path, old, new):
    """The recipes that an edit of a copy changes; the edit is taken back."""
    file = folder / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    after = reread(folder)
    file.write_text(text)
    assert before.keys() <= after.keys()
    return {name for name in before if after[name] != before[name]}


def methods_of(names):
    """The methods of the cells whose recipes of distillation are among these."""
    cells = yaml.safe_load((ROOT / "params.yaml").read_text())["cells"]
    return {cells[name.removeprefix("distill/")]["method"] for name in names if name.startswith("distill/")}


def test_a_number_of_kernel_regression_is_of_frepo_and_isa(tree):
    names = changed(*tree, "lib/methods/kernel_regression.py", "RIDGE = 1e-6", "RIDGE = 2e-6")
    assert methods_of(names) == {"frepo", "isa"} and not any(name.startswith("experts/") for name in names)
    distilled = {name for name in tree[1] if name.startswith("distill/")}
    assert names & distilled == {n for n in distilled if tree[1][n]["cell"]["method"] in ("frepo", "isa")}


@pytest.mark.parametrize(
    "path, old, new, methods",
    [
        ("lib/methods/dsa.py", "dsa.draw(self.cfg.augment", "dsa.draw(str(self.cfg.augment)", {"dsa", "dm"}),
        ("lib/methods/edf.py", "self.cfg.map_every == 0", "self.cfg.map_every == 1", {"edf"}),
        ("lib/methods/class_maps.py", "SIGMA * noise", "2 * SIGMA * noise", {"edf"}),
        ("lib/methods/state.py", "def state_dict(self):", "def state_dict(self, extra=None):", None),
        (
            "lib/networks/text.py",
            "class Sentence(nn.Module):\n",
            "class Sentence(nn.Module):\n    spare = 1\n",
            {"sldd"},
        ),
    ],
)
def test_a_changed_formula_changes_what_is_computed_by_it(tree, path, old, new, methods):
    names = methods_of(changed(*tree, path, old, new))
    assert names == methods if methods else {"dd", "dc", "mtt"} <= names and "frepo" not in names


def test_words_and_forms_change_nothing(tree):
    """Comments, docstrings and formatting of every file at once."""
    folder, before = tree
    texts = {path: path.read_text() for name in ("lib", "stages") for path in (folder / name).rglob("*.py")}
    for path, text in texts.items():
        words = ast.unparse(ast.parse(text)) + "\n# a remark\n"
        path.write_text(words.replace('"""', '"""In other words: ', 1) if words.startswith('"""') else words)
    after = reread(folder)
    for path, text in texts.items():
        path.write_text(text)
    assert after == before


def test_what_is_added_leaves_what_is_there(tree):
    """A network, a method, a source, a protocol and rows of them."""
    folder, before = tree
    (folder / "lib/networks/mine.py").write_text(
        "from . import ARCHITECTURES\nfrom .classic import mlp\n\n\n"
        "@ARCHITECTURES.register(scalable=False, text=False, options={})\n"
        "def mine(in_shape, num_classes):\n    return mlp(in_shape, num_classes, gain=2.0)\n"
    )
    (folder / "lib/methods/mine.py").write_text(
        "from . import METHODS\nfrom .dm import DM\n\n\n@METHODS.register()\nclass Mine(DM):\n    pass\n"
    )
    texts = {
        path: (folder / path).read_text() for path in ("lib/config/models.py", "lib/data/sources.yaml", "params.yaml")
    }
    models = texts["lib/config/models.py"].replace(
        "class DC(Distill):", 'class Mine(DM):\n    method: Literal["mine"]\n\n\nclass DC(Distill):'
    )
    (folder / "lib/config/models.py").write_text(
        models.replace("DC, DSA, DM,", "DC, DSA, DM, Mine,").replace("DC | DSA | DM |", "DC | DSA | DM | Mine |")
    )
    source = "\nother:\n  channels: 1\n  classes: 10\n  smallest_class: 9\n  train: 90\n  test: 90\n"
    (folder / "lib/data/sources.yaml").write_text(texts["lib/data/sources.yaml"] + source)
    (folder / "lib/data/other.py").write_text(
        "from . import READERS\n\n\n@READERS.register()\ndef other(files, packed, split, resolution):\n    yield None\n"
    )

    def add(params):
        params["datasets"]["other"] = {"source": "other", "resolution": 8}
        params["preprocessing"]["other"] = {"dataset": "other"}
        params["methods"]["mine"] = params["methods"]["dm"]
        params["protocols"]["other"] = params["protocols"]["digits-sgd"]
        row = params["cells"]["digits-dm-digits-ipc1"]
        mine = {
            "method": "mine",
            "distill": {**row["distill"], "net": "mine"},
            "evaluate": {"protocol": "other", "nets": ["mine"]},
        }
        params["cells"]["ablation-mine-digits-ipc1"] = {**row, **mine, "suite": "ablation"}

    edit(folder, add)
    after = planned(folder)
    for path, text in texts.items():
        (folder / path).write_text(text)
    assert {name for name in before if after[name] != before[name]} == {"report/ablation"}
    assert after.keys() - before.keys() == {
        *("prepare/other", "whiten/other", "distill/ablation-mine-digits-ipc1", "evaluate/ablation-mine-digits-ipc1")
    }


def test_imports_that_would_hide_code_are_refused(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    (tmp_path / "lib/there.py").write_text("X = 1\n")
    for line, word in (("from lib.there import *", "name what is imported"), ("import lib.there", "by `from`")):
        (tmp_path / "lib/bad.py").write_text(f"{line}\n\n\ndef f():\n    return X\n")
        with pytest.raises(ValueError, match=word):
            fingerprint.Module("lib.bad", tmp_path / "lib/bad.py")


@pytest.mark.long
def test_what_stages_run_is_in_their_recipes(tmp_path, monkeypatch):
    """Every stage of suite digits, shortened, traced: each function that ran is one its recipe reached."""
    entries = {}

    def keep(named, neutral):
        digests = real(named, neutral)
        entries[json.dumps(digests)] = fingerprint.reach(named, neutral), neutral
        return digests

    real = fingerprint.fingerprint
    monkeypatch.setattr("lib.config.recipes.fingerprint", keep)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    edit(tmp_path, shortened)
    plan = recipes(load_params(tmp_path / "params.yaml"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.trace", str(tmp_path)], cwd=ROOT, env=ENV, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ran = json.loads((tmp_path / "ran.json").read_text())
    assert {name.split("/")[0] for name in ran} == {*plan} - {"external"}
    for name, functions in ran.items():
        stage, key = name.split("/")
        reached, neutral = entries[json.dumps(plan[stage][key]["code"])]
        places = {place(path, line) for path, line in functions}
        places = {(module, top) for module, top in places if not any(f"{module}.".startswith(f"{n}.") for n in neutral)}
        assert places and not places - reached, f"{name}: {sorted(places - reached)}"


def place(path, line):
    """(module, name of its statement) of a line."""
    module = ".".join(Path(path).relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for name, nodes in fingerprint.module_of(module).definitions.items():
        if any(
            min(n.lineno for n in ast.walk(node) if hasattr(n, "lineno")) <= line <= node.end_lineno for node in nodes
        ):
            return module, name
    return module, None


def shortened(params):
    """Suite digits with as little work as takes every path."""
    keep = {key: row for key, row in params["cells"].items() if row["suite"] == "digits"}
    for row in keep.values():
        row["distill"] |= {"steps": 2, "eval_every": 0, "eval_at": None}
        row["distill"]["seeds"] = row["distill"].get("seeds", [0])[:1]
    chunked = [key for key in params["membership"] if key in keep]
    for key in chunked:
        keep[key]["distill"] |= {"seeds": [0, 1], "ipc": 2, "chunk": 100, "real_batch": 50}
        params["membership"][key] |= {"updates": [2], "shadows": 2}
    params["cells"], params["suites"] = keep, ["digits"]
    for table in ("continual", "membership", "scores"):
        params[table] = {key: row for key, row in params[table].items() if key in keep}
    used = {row["experts"] for row in keep.values()} | {row["experts"] for row in params["scores"].values()}
    two = {"count": 2, "together": 2}
    params["experts"] = {key: {**row, **two} for key, row in params["experts"].items() if key in used}
    for row in params["scores"].values():
        row |= {"runs": 1, "kd_epochs": 1}
    for protocol in params["protocols"].values():
        protocol |= {"num_nets": 1}
        if protocol.get("epochs"):
            protocol["epochs"] = 2
        elif protocol.get("steps"):
            protocol |= {"steps": 2, "warmup": 0}
    datasets = {row["dataset"] for row in keep.values()}
    params["preprocessing"] = {k: row for k, row in params["preprocessing"].items() if row["dataset"] in datasets}
    params["datasets"] = {key: row for key, row in params["datasets"].items() if key in datasets}
