"""The rules of the house, checked: layers, sizes, and nothing that is not data."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert not [
        p for p in FILES if p.is_relative_to(ROOT / "lib") and any(m.split(".")[0] == "stages" for m in imports(p))
    ]


@pytest.mark.parametrize(
    "package, home",
    [
        ("mlflow", "lib/tracking.py"),
        ("tensorflow_datasets", "lib/data/prepare.py"),
        ("dvc", "stages/clones.py stages/force.py stages/lock.py stages/runner.py stages/stale.py"),
        ("ray", "stages/fanout.py"),
        ("pydantic", "lib/config/models.py lib/config/load.py lib/records.py"),
    ],
)
def test_each_outside_system_has_one_home(package, home):
    users = {str(p.relative_to(ROOT)) for p in FILES if any(m.split(".")[0] == package for m in imports(p))}
    assert users == set(home.split())


def test_methods_reach_neither_files_nor_tracking():
    for path in (ROOT / "lib/methods").glob("*.py"):
        assert not imports(path) & {"lib.files", "lib.tensors", "lib.tracking", "lib.data", "pathlib", "os", "io"}, path
        assert "open(" not in path.read_text()


def test_files_stay_small():
    lengths = {p: len(p.read_text().splitlines()) for p in FILES}
    assert not {p: n for p, n in lengths.items() if p.parent.name == "methods" and n > 200}
    limits = {"fanout": 200}  # all that knows Ray
    assert not {p: n for p, n in lengths.items() if p.parent.name == "stages" and n > limits.get(p.stem, 80)}


def test_no_pickle_is_ever_loaded():
    for path in FILES:
        text = path.read_text()
        assert not re.search(
            r"import pickle|pickle\.load|torch\.load\((?!.*weights_only=True)|joblib|allow_pickle=True", text
        ), path
        assert all("allow_pickle=False" in line for line in text.splitlines() if "np.load(" in line), path


def test_lib_imports_where_only_torch_and_numpy_are():
    """A bare GPU machine: no dvc, mlflow, tensorflow-datasets, matplotlib or jinja2 until they are needed."""
    absent = (
        "dvc",
        "mlflow",
        "tensorflow_datasets",
        "matplotlib",
        "jinja2",
        "sklearn",
        "array_record",
    )
    stages = ", ".join(
        f"stages.{name}"
        for name in ("whiten", "experts", "distill", "evaluate", "continual", "membership", "scores", "external")
    )
    code = f"import sys\nfor name in {absent!r}: sys.modules[name] = None\nimport {stages}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_page_and_the_table_do_not_wait_for_torch():
    code = "import sys\nsys.modules['torch'] = None\nimport stages.common, stages.index, stages.process, stages.table"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_stage_explains_itself():
    for path in sorted((ROOT / "stages").glob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), path
    for args, words in ((["--help"], "Distil one cell"), (["distill", "--help"], "a key of `cells`")):
        helped = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "stages", *args], cwd=ROOT, capture_output=True, text=True
        )
        assert helped.returncode == 0 and words in " ".join(helped.stdout.split())
        assert "torch" not in helped.stderr, "help must not wait for torch"


# The rooms from the ground up; a room imports those below it alone.
FLOORS = (
    ("strict_yaml",),
    ("files", "rng", "registry", "tracking", "progress"),
    ("records", "tensors"),
    ("data", "augment", "networks"),
    ("synthetic", "autodiff", "own"),
    ("training",),
    ("methods",),
    ("evaluation",),
    ("report",),
    ("config",),
)


def test_every_room_imports_what_is_below_it():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert {path.relative_to(ROOT / "lib").parts[0].removesuffix(".py") for path in FILES if "lib" in path.parts} == {
        *floor,
        "__init__",
    }
    for path in FILES:
        room = path.relative_to(ROOT).with_suffix("").parts[1]
        if not path.is_relative_to(ROOT / "lib") or room == "__init__":
            continue
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("lib.")}
        above = {other for other in rooms if other != room and floor[other] >= floor[room]}
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


def test_every_room_says_what_it_is_for():
    for folder in (path for path in (ROOT / "lib").iterdir() if path.is_dir() and path.name != "__pycache__"):
        words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert words and "mports" in words, folder
    for folder in ("lib", "stages", "reports", "tests"):
        assert 10 < len((ROOT / folder / "README.md").read_text().splitlines()) < 130, folder
