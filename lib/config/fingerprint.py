"""What code a result depends on: the definitions that entry points reach, without comments, docstrings, formatting.

The project's modules are read, not run. From a definition every name that it mentions is followed, to definitions of
its own module or through imports. Of a module that is reached, statements other than definitions count too. What is
found by name at run time stands in a Registry, or in lib/own; the caller gives the entries that a row uses as entry
points. Nothing else in lib or stages is looked up dynamically; tests/test_recipes.py compares with what stages run.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("lib", "stages")
# Code that tells of a result and cannot change it: logs, prices, reports and the checks made before it starts.
NEUTRAL = ("lib.tracking", "lib.progress", "lib.records", "lib.training.cost", "lib.config", "lib.report")
NEUTRAL += ("stages.common", "stages.checkpoints", "stages.identity", "stages.force", "stages.how_far")
NEUTRAL += ("stages.process", "stages.signals", "lib.training.checkpoint")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def fingerprint(entries, neutral=NEUTRAL):
    """{module: digest of what is reached in it} from entries, pairs of a module's name and a definition's."""
    digests = {}
    for module, name in sorted(reach(entries, neutral), key=str):
        digests.setdefault(module, hashlib.sha256()).update(f"{name}={meaning(module, name)}\n".encode())
    return {module: digest.hexdigest()[:12] for module, digest in digests.items()}


def reach(entries, neutral=NEUTRAL):
    """The entries that these lead to, themselves included, but for those of neutral modules."""
    reached, queue = set(), list(entries)
    while queue:
        entry = queue.pop()
        if entry not in reached and not any(entry[0] == name or entry[0].startswith(f"{name}.") for name in neutral):
            reached.add(entry)
            queue += mentioned(*entry)
    return reached


class Module:
    """A file's `definitions` {name: nodes}, `imports` {name: (module, name; None for a module)}, and `others`."""

    def __init__(self, name, path):
        self.name, self.definitions, self.imports, self.others = name, {}, {}, []
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= self.imported(node)
            elif names := defined(node):
                for each in names:
                    self.definitions.setdefault(each, []).append(node)
            elif not is_docstring(node):
                self.others.append(node)

    def imported(self, node):
        """{local name: (module, name or None)} of the project's own that an import statement brings."""
        if isinstance(node, ast.Import):
            own = [alias for alias in node.names if alias.name.split(".")[0] in PACKAGES]
            if any(not alias.asname for alias in own):
                raise ValueError(f"{self.name}, line {node.lineno}: import the project's own modules by `from`")
            return {alias.asname: (alias.name, None) for alias in own}
        base = self.package.split(".")[: len(self.package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*base, *filter(None, [node.module])])
        if module.split(".")[0] not in PACKAGES:
            return {}
        if any(alias.name == "*" for alias in node.names):
            raise ValueError(f"{self.name}, line {node.lineno}: name what is imported")
        return {
            alias.asname or alias.name: (f"{module}.{alias.name}", None)
            if path_of(f"{module}.{alias.name}")
            else (module, alias.name)
            for alias in node.names
        }


def path_of(module):
    """The file of a module of ours, or None."""
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def module_of(name):
    return Module(name, path_of(name))


def defined(node):
    """The names that a statement of a module defines or changes."""
    if isinstance(node, DEFINITIONS):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return []


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def mentioned(module, name):
    """What a definition leads to, as entries. Name None: a module's other statements; "*": all of it."""
    own = module_of(module)
    if name == "*":
        return [(module, None), *((module, each) for each in own.definitions)]
    if name is not None and name not in own.definitions:
        if name in own.imports:  # passed on
            return resolved(*own.imports[name])
        raise ValueError(f"{module} defines no {name}")
    found = [(module, None)]
    for node in own.definitions[name] if name else own.others:
        names = dict(own.imports)
        for each in ast.walk(node):
            if isinstance(each, ast.Import | ast.ImportFrom):
                names |= own.imported(each)
        qualified = {id(each.value): each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and each.id in names:
                found += resolved(*names[each.id], qualified.get(id(each)))
            elif isinstance(each, ast.Name) and each.id in own.definitions:
                found.append((module, each.id))
    return list(dict.fromkeys(found))


def resolved(module, name, attribute=None):
    """The entries that an imported name stands for; of a module, the attribute that is taken of it, or else all."""
    if name is None:
        if attribute and path_of(f"{module}.{attribute}"):
            return resolved(f"{module}.{attribute}", None)
        return [(module, attribute or "*")]
    return [(module, name)]


@cache
def meaning(module, name):
    """A definition, or a module's other statements, as text that only a change of meaning changes."""
    own = module_of(module)
    if name == "*" or (name and name not in own.definitions):
        return ""
    return hashlib.sha256("".join(map(dump, own.definitions[name] if name else own.others)).encode()).hexdigest()


def dump(node):
    """A syntax tree as text, without positions, docstrings and fields that only some versions of Python have."""
    if isinstance(node, list):
        return f"[{','.join(map(dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(node, DEFINITIONS) and is_docstring(value[0]):
            value = value[1:]
        if value not in (None, []) and field not in ("ctx", "kind", "type_comment"):
            parts.append(f"{field}={dump(value)}")
    return f"{type(node).__name__}({','.join(parts)})"
