"""YAML that every reader takes for the same values, or a sentence. Imports nothing of lib.

DVC reads params.yaml by YAML 1.2, PyYAML by YAML 1.1, a person by eye. The versions differ in `yes`, `no`, `on`, `off`
(texts, or truth values), `0300` (300, or 192), `0o17` (15, or a text), `1:30` (a text, or 90) and `1e-3` (a number, or
a text). Of these `1e-3` alone is taken, as DVC reads and writes it. `0x10`, `1_000`, dates, `.inf` and `.nan` are alike
in both and refused all the same: no value of ours is meant by them.
"""

import math
import re
from functools import lru_cache

import yaml

PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C: the same events, quicker
DEEPEST = 50  # levels; our files have 7
MOST_REPEATED = 100_000  # values that aliases stand for; ten aliases of ten aliases of ten ... soon fill the memory
MOST_PROBLEMS = 20
LONGEST_NUMBER = 100  # characters; Python reads no number of more than 4300

CONSTANTS = dict.fromkeys(("", "~", "null", "Null", "NULL"))
CONSTANTS |= {word: True for word in ("true", "True", "TRUE")} | {word: False for word in ("false", "False", "FALSE")}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?|\.[0-9]+)")
LIKE_1_2 = re.compile(r"[-+]?(0o[0-7_]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.[0-9_]+([eE][-+][0-9]+)?)")
LIKE_1_1 = yaml.resolver.Resolver()
TEXT = "tag:yaml.org,2002:str"
ENDS_OF_LINES = re.compile("[\x85\u2028\u2029]")  # for some readers alone


class Refused(Exception):
    """All that is wrong in a text, one line each, beginning with `line N: `."""


def load(text):
    """The value of a text's one document: dicts, lists, texts, numbers, true, false, null; None of an empty text.

    It is built from the parser's events, without recursion, so that nothing too deep or too large is ever built.
    """
    builder = Builder()
    if found := ENDS_OF_LINES.search(text):
        builder.stop(text.count("\n", 0, found.start()) + 1, f"holds U+{ord(found[0]):04X}; remove this character")
    try:
        for event in yaml.parse(text, Loader=PARSER):
            builder.take(event)
    except yaml.YAMLError as error:
        builder.stop(
            line_of(error, text), f"not valid YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"
        )
    if builder.problems:
        raise Refused("\n".join(builder.problems))
    return builder.open[0].value[0] if builder.open[0].value else None


def line_of(error, text):
    """Where the parser gave up; the position of a character that it takes nowhere is one in bytes."""
    if mark := getattr(error, "problem_mark", None):
        return mark.line + 1
    return text.encode().count(b"\n", 0, getattr(error, "position", 0)) + 1


@lru_cache(4096)
def plain(text):
    """The value of an unquoted scalar; ValueError where readers could differ, or a person could misread it."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    number = FLOAT.fullmatch(text)
    if not number and not LIKE_1_2.fullmatch(text) and LIKE_1_1.resolve(yaml.ScalarNode, text, (True, False)) == TEXT:
        return text
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"found a number of {len(text):,} characters; none of more than {LONGEST_NUMBER} is taken")
    if INTEGER.fullmatch(text):
        return int(text)
    if not number:
        raise ValueError(f"found {text!r}, {taken_for(text)}; in quotes it is a text")
    value = float(text)
    if math.isinf(value) or not value and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise ValueError(f"found {text!r}, which is beyond what a number of 64 bits holds; numbers go up to 1.0e+308")
    return value


def taken_for(text):
    """What readers of YAML take a text for, and what to write instead."""
    if text == "<<":
        return "which merges mappings; write its keys and values out"
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return "which has a meaning of its own in YAML"
    if isinstance(value, bool):
        return f"which YAML 1.1 takes for {str(value).lower()} and YAML 1.2 for a text; write {str(value).lower()}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"which YAML takes for {value}; numbers are finite"
    if isinstance(value, int | float):
        return f"which YAML 1.1 takes for the number {value}; write a number in decimal digits, without 0 before it"
    if isinstance(value, str):
        return "which YAML 1.2 takes for a number and YAML 1.1 for a text; write a number in decimal digits"
    return f"which YAML takes for a date, {value}; dates are not taken"


class Open:
    """A list or mapping that has not ended: its value so far, the lines of its keys, and the key that waits."""

    __slots__ = ("value", "lines", "key", "anchor", "size", "height")

    def __init__(self, value, anchor=None):
        self.value, self.anchor = value, anchor
        self.lines, self.key, self.size, self.height = {}, NO_KEY, 1, 1


NO_KEY = object()


class Builder:
    """Takes a parser's events one by one. `open`: what has not ended, below it the list of documents."""

    def __init__(self):
        self.problems, self.open, self.anchors, self.repeated = [], [Open([])], {}, 0

    def stop(self, line, problem):
        self.problems.append(f"line {line}: {problem}")
        raise Refused("\n".join(self.problems))

    def add(self, line, problem):
        """One more problem, with the keys that lead to it."""
        if len(self.problems) == MOST_PROBLEMS:
            self.stop(line, "and more; correct these first")
        keys = ".".join(str(each.key)[:100] for each in self.open if each.key is not NO_KEY)
        self.problems.append(f"line {line}: {f'{keys}: ' if keys.isprintable() and keys else ''}{problem}")

    def take(self, event):
        line = event.start_mark.line + 1
        if tag := getattr(event, "tag", None):
            tag = tag.replace("tag:yaml.org,2002:", "!!")
            self.stop(line, f"found the tag {tag!r}; remove it: texts, numbers, lists and mappings have none")
        if isinstance(event, yaml.ScalarEvent):
            self.put(self.scalar(event, line), line, event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self.open) > DEEPEST:
                self.stop(line, f"nested more than {DEEPEST} levels deep; nothing here is")
            self.name(event.anchor, None, line)
            self.open.append(Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.open.pop()
            if done.anchor:
                self.anchors[done.anchor] = done
            self.put(done.value, line, None, done)
        elif isinstance(event, yaml.AliasEvent):
            if (named := self.anchors.get(event.anchor)) is None:
                self.stop(line, f"*{event.anchor} names nothing that has ended before it")
            self.repeated += named.size
            if self.repeated > MOST_REPEATED or len(self.open) + named.height > DEEPEST + 1:
                most = f"{MOST_REPEATED:,} values, {DEEPEST} levels deep"
                self.stop(
                    line, f"*{event.anchor} and other aliases stand for more than {most}; write out what is meant"
                )
            self.put(named.value, line, None, named)
        elif isinstance(event, yaml.DocumentStartEvent):
            if event.version or event.tags:
                self.stop(line, "found a line that begins with %; remove it")
            if self.open[0].value:
                self.stop(line, "a second document begins; a file has one: remove the line ---")

    def scalar(self, event, line):
        if event.style:  # quoted, or a block
            return event.value
        try:
            return plain(event.value)
        except ValueError as error:
            self.add(line, error)
            return event.value

    def name(self, anchor, named, line):
        """Give an anchor what it names: None until a list or mapping has ended."""
        if anchor in self.anchors:
            self.stop(line, f"the anchor &{anchor} is there a second time; take another name")
        if anchor:
            self.anchors[anchor] = named

    def put(self, value, line, anchor=None, done=None):
        """Put a value where it belongs: into the list, as the next key, or under the key that waits."""
        into = self.open[-1]
        if anchor:
            self.name(anchor, Open(value, anchor), line)
        into.size += done.size if done else 1
        into.height = max(into.height, 1 + done.height if done else 1)
        if isinstance(into.value, list):
            into.value.append(value)
        elif into.key is not NO_KEY:
            into.value[into.key], into.key = value, NO_KEY
        elif isinstance(value, list | dict):
            self.stop(line, "a key that is a list or mapping; keys are texts")
        elif value in into.lines:
            self.add(line, f"the key {str(value)[:100]!r} is there a second time (first: line {into.lines[value]})")
            into.key = value
        else:
            into.key, into.lines[value] = value, line
