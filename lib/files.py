"""Files that are data, never code, written to a temporary name and renamed; FileError for what cannot be read."""

import hashlib
import json
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from . import strict_yaml

REMEDY = "delete it and run its stage again"
LARGEST_YAML = 4 << 20  # bytes: twenty times params.yaml
MOST_TOLD = 200  # characters of another library's message


class FileError(Exception):
    """A file that is missing, damaged or not what it should be; the message says what to do."""


def kind_of(path):
    """What a path leads to: "file", "folder", or in words what must not be opened, as a pipe, which may never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: of a name with a zero byte
        told = getattr(error, "strerror", None) or error
        if os.path.islink(path):
            return f"a link that leads nowhere ({told})"
        return "not found" if isinstance(error, FileNotFoundError | NotADirectoryError) else f"cannot be read ({told})"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "neither a file nor a folder, but a device, a pipe or a socket"


def refuse_unless_file(path, remedy):
    """FileError, with the remedy, unless `path` leads to a regular file."""
    if (kind := kind_of(path)) != "file":
        raise FileError(f"{path}: {'a folder, not a file' if kind == 'folder' else kind}; {remedy}")


def read_bytes(path, remedy, limit=None):
    """The bytes, at most `limit`, of a regular file; FileError for all else, which is not opened."""
    refuse_unless_file(path, remedy)
    with parsing(path, "cannot be read", remedy), open(path, "rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise FileError(f"{path}: has more than {limit:,} bytes; is it the right file?")
    return data


@contextmanager
def parsing(path, problem, remedy):
    """What a parser raises, which is nearly anything where a file is damaged, becomes one FileError about `path`."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:MOST_TOLD]}"
        told = "".join(letter if letter.isprintable() else "?" for letter in told)
        if isinstance(error, OSError) and error.errno:  # of the machine, not of the file
            problem, told = "cannot be read", error.strerror
        elif isinstance(error, MemoryError):
            problem, told = "cannot be read", "no memory is left"
            remedy = "end other programs, or take a larger machine"
        raise FileError(f"{path}: {problem} ({told}); {remedy}") from None


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path`; it takes the place of `path` if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def write_json(path, value):
    with replacing(path) as tmp:
        tmp.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path):
    data = read_bytes(path, "run the stage that writes it (`dvc repro`)")
    with parsing(path, "not valid JSON", REMEDY):
        return json.loads(data.decode("utf-8"), parse_constant=refuse)


def refuse(constant):
    raise ValueError(f"{constant} is no number")


def read_yaml(path):
    """The plain values of a YAML file (`strict_yaml`); FileError names each line that is wrong."""
    data = read_bytes(path, "run from the repository's root, where it must be a file that you may read", LARGEST_YAML)
    try:
        return strict_yaml.load(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"line {line}: byte {data[error.start]:#x} is not UTF-8"
        raise FileError(f"{path}: {problem}; save the file as UTF-8") from None
    except strict_yaml.Refused as error:
        raise FileError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def link(source, target):
    """Give a file a second name, without storing it twice where the file system can."""
    with replacing(target) as tmp:
        try:
            os.link(source, tmp)
        except OSError:
            shutil.copyfile(source, tmp)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path, wanted, remedy):
    """FileError, with the remedy, unless a file has this SHA-256.

    A file that was changed in place has changed DVC's cache too, where both are one file, and DVC believes what is
    read-only. So the file is made writable and new: DVC looks at it again, and its stage mends it.
    """
    refuse_unless_file(path, remedy)
    if (found := sha256(path)) != wanted:
        with suppress(OSError):
            os.chmod(path, 0o644)
            os.utime(path)
        shown = f"found SHA-256 {found[:12]}..., recorded is {str(wanted)[:12]}..."
        raise FileError(f"{path}: changed since its stage wrote it: {shown}; {remedy}")
