"""A user's own folder of pictures: what its folders are taken for, which files are pictures, and what is said of it.

FOLDER/train/CLASS/* with FOLDER/test or FOLDER/val beside it, in any usual spelling; or FOLDER/CLASS/*, also below a
train folder alone: then every fifth picture of each class, sorted by name, goes to the test set. Pictures may lie in
folders below a class's, also in linked ones. Hidden names and __MACOSX never count; what else is not read is said.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import FileError, kind_of, read_bytes
from .pictures import SUFFIXES, Seen, recognised
from .readers import picture

ROLES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
ROLES |= {"val": "val", "valid": "val", "validation": "val"}
FIFTH = 5
MOST = 5  # names in one sentence
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # Python keeps bytes that are not UTF-8 as the last of these


@dataclass
class PictureFolder:
    """A user's folder: (path, label) pairs by split, class names, and which folder is taken for which split."""

    root: Path
    pairs: dict = field(default_factory=lambda: {"train": [], "test": []})
    names: list = field(default_factory=list)
    taken: dict = field(default_factory=dict)  # {"train": what, "test": what, "not_used": [folders]}
    remarks: list = field(default_factory=list)
    unread: dict = field(default_factory=dict)  # {why: [paths]}
    seen: Seen = field(default_factory=Seen)

    def examples(self, split, resolution, channels):
        """Yield (image uint8 (H, W, K), label) of one split, class by class."""
        for path, label in self.pairs[split]:
            image = picture(read_bytes(path, "correct or remove it"), resolution, path, self.seen)
            yield (image if channels == 3 else np.asarray(Image.fromarray(image).convert("L"))[..., None]), label

    def notes(self):
        """Sentences for its owner, when all of it was read; FileError if its pictures are on different scales."""
        unread = [f"{len(paths)} not read: {self.first(paths)}, because {why}" for why, paths in self.unread.items()]
        return self.remarks + unread + self.seen.notes()

    def first(self, paths):
        names = [str(path.relative_to(self.root)) for path in paths[:MOST]]
        return ", ".join(names) + (", ..." if len(paths) > MOST else "")

    def leave(self, paths, why):
        if paths:
            self.unread.setdefault(why, []).extend(paths)


def picture_folder(folder):
    """Find the classes, splits and pictures of a user's folder -> PictureFolder; FileError for what cannot be right."""
    found = PictureFolder(Path(folder).expanduser())
    if (kind := kind_of(found.root)) != "folder":
        kind = "a file" if kind == "file" else kind
        raise FileError(
            f"{folder}: no such folder: {kind} (a dataset's `folder` holds one folder of pictures per class)"
        )
    roles = split_folders(found)
    train, test = roles.get("train", found.root), roles.get("test", roles.get("val"))
    classes = class_folders(found, train)
    if len(classes) < 2:
        raise FileError(f"{train}: holds {len(classes)} class folder(s); at least 2 are needed")
    found.names = list(classes)
    pictures = [class_pictures(found, train, path) for path in classes.values()]
    if test:
        found.taken = {"train": train.name, "test": test.name}
        tested = class_folders(found, test)
        for one, other, these, those in ((train, test, classes, tested), (test, train, tested, classes)):
            if lone := sorted(these.keys() - those.keys()):
                remedy = "each class needs pictures in both"
                raise FileError(f"{other}: has no folder of {', '.join(lone)}, which {one} has; {remedy}")
        splits = [("train", pictures), ("test", [class_pictures(found, test, tested[name]) for name in classes])]
    else:
        where = "" if train == found.root else f" in {train.name}"
        found.taken = {
            "train": f"the other pictures of each class{where}",
            "test": f"every fifth picture of each class{where}, sorted by name",
        }
        few = [f"{name} ({len(paths)})" for name, paths in zip(classes, pictures) if len(paths) < FIFTH]
        if few:
            remedy = f"each class needs at least {FIFTH}, or give a test folder"
            raise FileError(f"{train}: too few pictures for a test set in {', '.join(few)}; {remedy}")
        tests = [paths[FIFTH - 1 :: FIFTH] for paths in pictures]
        rest = [[path for i, path in enumerate(paths) if i % FIFTH != FIFTH - 1] for paths in pictures]
        splits = [("train", rest), ("test", tests)]
    found.taken["not_used"] = [roles["val"].name] if roles.keys() >= {"test", "val"} else []
    for split, by_class in splits:
        found.pairs[split] = [(path, label) for label, paths in enumerate(by_class) for path in paths]
    return found


def split_folders(found):
    """{role: folder} of the folders above classes, empty where classes lie in the folder itself.

    A folder called train, test or val is a class where it and its like hold no folders and other folders lie beside.
    """
    folders, files = entries(found.root)
    named = [path for path in folders if path.name.casefold() in ROLES]
    others = [path for path in folders if path not in named]
    names = ", ".join(path.name for path in named)
    if not named:
        return {}
    if others and not any(entries(path)[0] for path in named):
        found.remarks.append(f"{names}: taken for a class, because it holds pictures and lies beside other classes")
        return {}
    for path in others:
        if pictures_below(PictureFolder(found.root), path, set()):
            problem = f"{names} would be taken for train, test or val, but {path.name} with pictures lies beside"
            remedy = f"rename the classes called {names}, or move {path.name} elsewhere"
            raise FileError(f"{found.root}: {problem}; {remedy}")
    found.leave(files + others, "they lie in no class folder")
    roles = {}
    for path in named:
        role = ROLES[path.name.casefold()]
        if role in roles:
            problem = f"{roles[role].name} and {path.name} both mean {role}"
            raise FileError(f"{found.root}: {problem}; put their classes together")
        roles[role] = path
    if "train" not in roles:
        raise FileError(f"{found.root}: has {names} and no train folder; add it, or put the classes here without them")
    return roles


def class_folders(found, folder):
    """{class name: folder}, sorted."""
    folders, files = entries(folder)
    found.leave(files, "they lie in no class folder")
    return {path.name: path for path in folders}


def class_pictures(found, split, folder):
    """The paths of a class's pictures, sorted."""
    inner = [path.name for path in entries(folder)[0] if path.name.casefold() in ROLES]
    if inner:
        raise FileError(f"{folder}: a class that holds {', '.join(inner)}; put train and test above the classes")
    paths = sorted(pictures_below(found, folder, {identity(found.root), identity(split)}))
    if not paths:
        raise FileError(f"{folder}: no pictures ({' '.join(sorted(SUFFIXES))}); add some or remove it")
    return paths


def pictures_below(found, folder, read):
    """The pictures in a folder and in those below it, linked ones too; `read`: identities of folders to stay out of."""
    pictures, waiting = [], [folder]
    while waiting:
        folder = waiting.pop()
        if identity(folder) in read:  # a link: without this, one to a folder above would never end
            found.leave([folder], "they lead to a folder that is read already")
            continue
        read.add(identity(folder))
        folders, files = entries(folder)
        taken = {path for path in files if (path.suffix.lower() in SUFFIXES if path.suffix else recognised(path))}
        rest = [path for path in files if path not in taken]
        found.leave(
            rest, f"their suffix is none of {' '.join(sorted(SUFFIXES))}, or they have none and are no pictures"
        )
        if named := [path for path in folders if path.suffix.lower() in SUFFIXES]:
            raise FileError(f"{named[0]}: a folder with a picture's name; rename or remove it")
        pictures += taken
        waiting += reversed(folders)
    return pictures


def identity(path):
    status = path.stat()
    return status.st_dev, status.st_ino


def entries(folder):
    """(folders, files) in a folder, sorted, without hidden names; FileError for what is neither; it is not opened."""
    folders, files = [], []
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX")
    except OSError as error:
        raise FileError(f"{folder}: cannot be read ({error.strerror}); correct or remove it") from None
    for path in paths:
        if UNPRINTABLE.search(path.name):
            raise FileError(f"{str(path)!r}: its name is not UTF-8, or has a control character; rename it")
        if (kind := kind_of(path)) not in ("file", "folder"):
            raise FileError(f"{path}: {kind}; remove it or correct it")
        (folders if kind == "folder" else files).append(path)
    return folders, files
