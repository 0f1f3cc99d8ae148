"""The rules of the house, checked: layers, sizes, and nothing that is not data."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILES = sorted(p for folder in ("lib", "stages") for p in (ROOT / folder).rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, anywhere=True):
    """Absolute names of the modules that a file imports; `anywhere` includes those inside functions."""
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_no_import_circle():
    modules = {name_of(p): p for p in FILES}
    edges = {name: imports(path, anywhere=False) & (modules.keys() - {name}) for name, path in modules.items()}
    while leaves := [name for name, out in edges.items() if not out & edges.keys()]:
        for name in leaves:
            del edges[name]
    assert not edges, f"circle among {sorted(edges)}"


def test_lib_never_imports_stages():
    assert not [p for p in FILES if p.is_relative_to(ROOT / "lib") and any(m.split(".")[0] == "stages" for m in imports(p))]


@pytest.mark.parametrize("package, home", [("mlflow", "lib/tracking.py"), ("tensorflow_datasets", "lib/data/prepare.py"), ("dvc", None)])
def test_each_outside_system_has_one_home(package, home):
    users = {str(p.relative_to(ROOT)) for p in FILES if any(m.split(".")[0] == package for m in imports(p))}
    assert users == ({home} if home else set())


def test_methods_reach_neither_files_nor_tracking():
    for path in (ROOT / "lib/methods").glob("*.py"):
        assert not imports(path) & {"lib.files", "lib.tracking", "lib.data", "pathlib", "os", "io"}, path
        assert "open(" not in path.read_text()


def test_files_stay_small():
    lengths = {p: len(p.read_text().splitlines()) for p in FILES}
    assert not {p: n for p, n in lengths.items() if p.parent.name == "methods" and n > 200}
    assert not {p: n for p, n in lengths.items() if p.parent.name == "stages" and n > 80}


def test_no_pickle_is_ever_loaded():
    for path in FILES:
        text = path.read_text()
        assert not re.search(r"import pickle|pickle\.load|torch\.load\((?!.*weights_only=True)|joblib|allow_pickle=True", text), path
        assert all("allow_pickle=False" in line for line in text.splitlines() if "np.load(" in line), path


def test_lib_imports_where_only_torch_and_numpy_are():
    """A bare GPU machine: no dvc, mlflow, tensorflow-datasets, matplotlib, jinja2 or timm until they are needed."""
    absent = ("dvc", "mlflow", "tensorflow_datasets", "matplotlib", "jinja2", "timm", "sklearn", "array_record")
    stages = ", ".join(f"stages.{name}" for name in ("whiten", "experts", "distill", "evaluate", "continual", "membership", "scores", "given"))
    code = f"import sys\nfor name in {absent!r}: sys.modules[name] = None\nimport {stages}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_stage_explains_itself():
    for path in sorted((ROOT / "stages").glob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), path
    for args, words in ((["--help"], "Distil one cell"), (["distill", "--help"], "a key of `cells`")):
        helped = subprocess.run([sys.executable, "-X", "importtime", "-m", "stages", *args], cwd=ROOT, capture_output=True, text=True)
        assert helped.returncode == 0 and words in " ".join(helped.stdout.split())
        assert "torch" not in helped.stderr, "help must not wait for torch"


@pytest.mark.parametrize("stage", ["distill", "distill_experts", "experts"])
def test_stages_depend_on_every_module_that_can_change_them(stage):
    """What a stage imports is what dvc.yaml names, so that an edit of any of it reruns the stage."""
    ours = "n.startswith('lib.') and not n.startswith(NEUTRAL)"
    code = f"import sys, stages.{stage.split('_')[0]}; from stages.checkpoints import NEUTRAL; print([n for n in sys.modules if {ours}])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["do"]["deps"]
    paths = [name.replace(".", "/") for name in ast.literal_eval(found) if not name.startswith("lib.methods")]  # these by the cell's own method
    elsewhere = {"lib/data", "lib/data/sources", "lib/data/imagenet"}  # a package; what reads archives, in the stages before
    if stage == "experts":  # whose rows are checked beside those of cells
        elsewhere |= {"lib/lowrank", "lib/cam", "lib/matching"}
    missing = [path for path in paths if path not in elsewhere and not any(d in (path, f"{path}.py") or path.startswith(f"{d}/") for d in deps)]
    assert not missing
