"""params.yaml -> its checked rows. Every error of the file is found at once, before any compute.

An error names the key's path, the value found and what is allowed. A cell's `distill` section holds only what differs
from its method's defaults (`methods.NAME`); a section that is read knows every one of its keys.
"""

import difflib
import re
from collections import Counter
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..data.sources import SOURCES
from ..files import FileError, read_yaml
from . import checks, models
from .settings import ALLOWED, KEY, ParamsError, Settings

TAKEN = ("external", "benchmarks")  # folders of reports/ that are no suite's
MOST_LINES, LONGEST = 100, 200  # lines of one answer, and characters of a value shown in one
WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
ROWS = {  # the model of a table's rows, and the check of each against the others
    "datasets": (models.Dataset, checks.dataset),
    "preprocessing": (models.Preprocessing, checks.preprocessing),
    "protocols": (models.Protocol, checks.protocol),
    "experts": (models.Experts, checks.experts),
    "cells": (models.Cell, checks.cell),
    "continual": (models.Continual, checks.continual),
    "membership": (models.Membership, checks.membership),
    "scores": (models.Scores, checks.scores),
    "external": (models.External, checks.external),
}
APPLICATIONS = ("continual", "membership", "scores")


def load_params(path="params.yaml"):
    """Read and check a parameter file -> its tables by name, rows by key. ParamsError has a line for each error."""
    try:
        node = read_yaml(path)
    except FileError as error:
        raise ParamsError(str(error)) from None
    reader = Reader()
    params = reader.read(node)
    if reader.errors:
        lines = list(dict.fromkeys(reader.errors))
        more = ["and more, not shown; correct these first"] if len(lines) > MOST_LINES else []
        raise ParamsError("\n".join(f"{path}: {line}" for line in lines[:MOST_LINES] + more))
    return params


class Reader:
    """Reads tables into models and gathers what is wrong."""

    def __init__(self):
        self.errors, self.names = [], {}

    def error(self, path, value, must):
        self.errors.append(f"{path}: found {shown(list(value) if isinstance(value, tuple) else value)}; {must}")

    def key(self, path, key):
        """Whether a key of a table, or a suite's name, is one; what is not is among the errors."""
        if fits := bool(re.fullmatch(KEY, key)):
            return fits
        self.error(path, key, f"a {'name' if path == 'suites' else 'key'} may hold {ALLOWED}")

    def mapping(self, node, path):
        if not isinstance(node, dict):
            self.error(path, node, "must be a mapping of keys to values")
            return {}
        for key in [key for key in node if not isinstance(key, str)]:
            self.error(path, key, "keys must be texts")
        return {key: value for key, value in node.items() if isinstance(key, str)}

    def read(self, node):
        top, known = self.mapping(node, "(top level)"), ["runtime", "suites", "methods", *ROWS]
        self.errors += [f"{word(key)}: unknown table; known are {', '.join(known)}" for key in top if key not in known]
        kinds = {name: "a list of names" if name == "suites" else "a mapping" for name in known if name not in top}
        self.errors += [f"{name}: missing; must be {kind}" for name, kind in kinds.items()]
        given = {name: self.mapping(top[name], name) for name in known if name in top and name != "suites"}
        self.names = {name: list(given.get(name, ())) for name in ROWS}
        suites = self.names["suites"] = self.suites(top.get("suites", []), self.names["cells"])
        self.names["experts"].append("none")
        runtime = self.validated(models.Runtime, given.get("runtime", {}), "runtime")
        self.defaults(given.get("methods", {}))
        tables = {name: self.rows(name, given, kind) for name, (kind, _) in ROWS.items()}
        for name, (_, check) in ROWS.items():
            tables[name] = {key: row for key, row in tables[name].items() if self.agrees(check, tables, name, key, row)}
        return Settings(runtime=runtime, suites=suites, **tables)

    def suites(self, node, cells):
        """The names of suites, each once; where they are no names, all that cells may begin with."""
        if (named := self.validated(models.tuple_of(str), node, "suites")) is None:
            return tuple(key.split("-")[0] for key in cells)
        names = [name for name in named if self.key("suites", name)]
        for name, count in Counter(names).items():
            if count > 1:
                self.error("suites", name, f"is there {count} times; keep one")
            if name in TAKEN:
                self.error("suites", name, f"reports/{name} is another folder; take another name")
        return tuple(names)

    def defaults(self, methods):
        """That each of `methods` is one, and its defaults such as its cells may have."""
        for method, row in methods.items():
            if method not in models.METHODS:
                self.error("methods", method, f"must be one of {', '.join(models.METHODS)}")
            elif row := self.section(row, f"methods.{method}"):
                self.validated(models.METHODS[method], {"method": method, **row}, f"methods.{method}", whole=False)

    def rows(self, name, given, kind):
        """The rows of a table that are right in themselves."""
        read, data = {}, given.get("datasets", {})
        for key, row in given.get(name, {}).items():
            path = f"{name}.{key}"
            if len(self.errors) > MOST_LINES:
                break
            if not self.key(name, key):
                continue
            if name in APPLICATIONS and key not in self.names["cells"]:
                self.error(path, key, "a row's key is that of the cell whose sets it is about; there is no such cell")
            elif name != "cells" or (row := self.with_defaults(row, path, given.get("methods", {}))):
                row = self.mapping(row, path)
                source = entry(data, row.get("dataset")).get("source") if name == "preprocessing" else None
                if row := self.validated(models.Words if entry(SOURCES, source).get("text") else kind, row, path):
                    read[key] = row
        return read

    def section(self, node, path):
        """What a cell or the defaults of its method say of its distillation; the method itself stands elsewhere."""
        section = self.mapping(node, path)
        if "method" in section:
            self.error(f"{path}.method", section["method"], "remove it: the cell's own `method` says it")
        return section

    def with_defaults(self, row, path, methods):
        """A cell's row with its method's defaults in `distill`; None where it names no method, or these are wrong."""
        row = self.mapping(row, path)
        if any(line.startswith("methods.") for line in self.errors):
            return None
        if (method := row.get("method")) not in list(models.METHODS):
            self.error(f"{path}.method", method, f"must be one of methods: {', '.join(models.METHODS)}")
            return None
        if "distill" not in row:
            return row
        defaults = self.mapping(methods.get(method), f"methods.{method}")
        return row | {"distill": {**defaults, **self.section(row["distill"], f"{path}.distill"), "method": method}}

    def validated(self, kind, value, path, whole=True):
        """`value` as `kind`; None where it is wrong, which is then among the errors, a line for each key.

        whole: a key that is missing is wrong too.
        """
        try:
            return TypeAdapter(kind).validate_python(value, context=self.names)
        except ValidationError as error:
            found = [each for each in error.errors(include_url=False) if whole or each["type"] != "missing"]
            self.errors += dict.fromkeys(self.line(kind, value, path, each) for each in found[:MOST_LINES])

    def line(self, kind, value, path, found):
        """One pydantic error in our words."""
        words, location = describe(kind), [part for part in found["loc"] if part not in models.METHODS]
        if found["type"] == "invalid_key":
            return f"{'.'.join([path, *location[:-1]])}: found {shown(found['input'])}; keys must be texts"
        while location and isinstance(kind, type) and issubclass(kind, BaseModel):
            name, known = location.pop(0), kind.model_fields
            path = f"{path}.{word(name)}"
            if name not in known:
                free = [key for key, field in known.items() if not is_fixed(field)]
                near = difflib.get_close_matches(name, free, 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                return f"{path}: found {shown(value[name])}; unknown key{hint}; known are {', '.join(free)}"
            words = known[name].description or describe(known[name].annotation, known[name].metadata)
            if name not in value:
                return f"{path}: missing; must be {words}"
            value, kind = value[name], known[name].annotation
            if name == "distill" and isinstance(value, dict):
                kind = models.METHODS[value["method"]]
        if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", value, re.IGNORECASE):
            words += " (in quotes it is a text: remove them)"
        told = str(found.get("ctx", {}).get("error", ""))  # what a validator of ours says
        return f"{path}: found {shown(found['input'] if told else value)}; {told or f'must be {words}'}"

    def agrees(self, check, tables, name, key, row):
        """Whether a row fits the others; what does not is among the errors."""
        found = list(check(tables, key, row))
        for column, *value, must in found:
            node = row
            for part in column.split(".") if not value else ():
                node = getattr(node, part)
            self.error(f"{name}.{key}.{column}".rstrip("."), *(value or [node]), must)
        return not found


def shown(value):
    """A value as an answer has it: in Python's words, without control characters, not too long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def word(key):
    """A key in a path: as it is where it is a proper one."""
    return key if re.fullmatch(KEY, key) else shown(key)


def entry(table, name):
    """The mapping of this name in a table; an empty one where there is none, or where the name is no text."""
    found = table.get(name) if isinstance(name, str) else None
    return found if isinstance(found, dict) else {}


def is_fixed(field):
    """Whether a field has one value, so that nobody writes it."""
    return (
        field.annotation is type(None)
        or len(get_args(field.annotation)) == 1
        and get_origin(field.annotation) is Literal
    )


def describe(kind, metadata=()):
    """A type as a newcomer would say it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        words = " or ".join(dict.fromkeys(map(describe, arguments)))
    elif origin is Literal:
        words = f"one of {', '.join(map(str, arguments))}"
    else:
        words = f"a list, each {describe(arguments[0])}" if origin is tuple else WORDS.get(kind, "a mapping")
    tests = [each.func.allowed for each in metadata if isinstance(getattr(each, "func", None), models.Check)]
    return ", ".join([words, *tests])
