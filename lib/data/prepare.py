"""Download -> verify -> our own tensorflow-datasets builder -> arrays and a manifest on disk.

The builder needs no TensorFlow: it writes array_record files of plain tensors, which are read once into one array per
split, in the archive's order. Each dataset has its own data folder, because tensorflow-datasets keys what it stores by
file name alone, and MNIST and Fashion-MNIST share theirs.
"""

import hashlib
import shutil
from pathlib import Path

import numpy as np

from ..files import FileError, replacing, sha256, write_json
from ..progress import progress_bar
from ..records import write_record
from . import examples_of, readers, text
from .folders import picture_folder
from .imagenet import read_subset
from .sources import SOURCES, SUBSETS, in_shape, is_text, locate

FLAT = 0.5 / 255  # a deviation of half a grey level: the pictures show nothing


def prepare(name, dataset, out, downloads, archives=None, imagenet=None):
    """Prepare `dataset` (config.models.Dataset) into the folder `out`.

    Writes train_x.npy (n, K, H, W) uint8, train_y.npy (n,) int64, the same of the test split, and manifest.json. Images
    of ImageNet's subsets are float32, from 0 to 255. For text, train_x.npy is (all words,) int32, and there are
    train_ends.npy (n,) and words.json too. `downloads` keeps the archives; `archives` holds the user's own, `imagenet`
    their copy of ImageNet-1K. FileError says what is wrong.
    """
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    files, packed, own = [], False, None
    if dataset.folder:
        own = picture_folder(dataset.folder)
        names = own.names
    elif dataset.subset:
        names = [wnid for _, wnid in SUBSETS[dataset.subset]]
    else:
        if "archives" in SOURCES[dataset.source]:
            files, packed = locate(SOURCES[dataset.source], downloads, archives)
        if is_text(dataset):
            prepare_text(name, dataset, files, packed, out)
            return
        names = readers.class_names(dataset.source, files)

    def examples(split):
        if own:
            return own.examples(split, dataset.resolution, in_shape(dataset)[0])
        if dataset.subset:
            return read_subset(imagenet, dataset.subset, split, dataset.resolution, dataset.antialias)
        return examples_of(dataset.source, files, packed, split, dataset.resolution)

    out.mkdir(parents=True)
    arrays = {}
    workspace = out.parent / f".{name}.tmp"  # a fixed name: it replaces what an interrupted run left
    shutil.rmtree(workspace, ignore_errors=True)
    try:
        dtype = np.float32 if dataset.subset else np.uint8
        for split, x, y in build_arrays(name, in_shape(dataset), dtype, examples, workspace):
            arrays[split] = (x, y)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    num_classes = int(max(y.max() for _, y in arrays.values())) + 1
    if dataset.source:
        check_counts(name, dataset.source, [len(arrays[s][0]) for s in readers.SPLITS], num_classes)
    if dataset.held_out:
        if dataset.held_out % num_classes:
            raise FileError(f"{name}: held_out is {dataset.held_out}; must be a multiple of the {num_classes} classes")
        arrays = held_out(name, *arrays["train"], dataset.held_out // num_classes)
    for split, (x, y) in arrays.items():
        save_arrays(out, split, x=x, y=y)
    record = manifest(name, dataset, arrays, names, files, packed, out)
    if own:
        record |= of_folder(name, own, dataset.held_out, arrays, record["std"])
    write_record(out / "manifest.json", record)


def of_folder(name, own, held_out, arrays, std):
    """Print what a user's folder was taken for -> that for its manifest. FileError if its pictures show nothing."""
    taken, notes, (x, y) = own.taken, own.notes(), arrays["train"]
    if held_out:
        unused = [*taken["not_used"], taken["test"]]
        taken = {**taken, "test": f"{held_out} pictures held out of the training set", "not_used": unused}
    deviations = ", ".join(f"{value:.2g}" for value in std)
    if max(std) < FLAT:
        problem = f"its training pictures are all alike (deviation {deviations}, where white is 1)"
        raise FileError(f"{name}: {problem}; check that they show their classes")
    if min(std) < FLAT:
        notes.append(f"a channel hardly differs (deviations {deviations}): give the preprocessing a mean and a std")
    classes = {}  # {the pictures of a class: the class}
    for label, class_name in enumerate(own.names):
        pictures = frozenset(hashlib.sha256(image).digest() for image in x[y == label])
        if pictures in classes:
            problem = f"the classes {classes[pictures]} and {class_name} hold the same training pictures"
            raise FileError(f"{name}: {problem}, at this resolution; correct or remove one")
        classes[pictures] = class_name
    print(f"{name}: training set: {taken['train']}; test set: {taken['test']}", flush=True)
    if taken["not_used"]:
        print(f"{name}: not used: {', '.join(taken['not_used'])}", flush=True)
    counts = [np.bincount(labels, minlength=len(own.names)) for _, labels in arrays.values()]
    for class_name, *count in zip(own.names, *counts):
        print(f"{name}: {class_name}: {count[0]} training and {count[1]} test pictures", flush=True)
    for note in notes:
        print(f"{name}: {note}", flush=True)
    return {"splits": taken, "notes": notes}


def prepare_text(name, dataset, files, packed, out):
    """Write a text dataset's sentences as word indices, its vocabulary and its manifest."""
    splits, words = text.indexed_sentences(dataset.source, files, packed)
    out.mkdir(parents=True)
    for split, (tokens, ends, labels) in splits.items():
        save_arrays(out, split, x=tokens, ends=ends, y=labels)
    write_json(out / "words.json", words)
    counts = [len(splits[split][2]) for split in readers.SPLITS]
    check_counts(name, dataset.source, counts, int(max(labels.max() for *_, labels in splits.values())) + 1, packed)
    names = readers.class_names(dataset.source, files)
    write_record(out / "manifest.json", {
        "name": name, "source": dataset.source, "text": True, "num_classes": len(names), "class_names": names,
        "num_train": counts[0], "num_test": counts[1], "class_counts": np.bincount(splits["train"][2]).tolist(),
        "words": len(words), "longest": int(np.diff(splits["train"][1], prepend=0).max()),
        "archives": [path.name for path in files], "repacked": packed, "sha256": array_digests(out),
    })  # fmt: skip


def held_out(name, x, y, per_class):
    """Split a training set in two: {"train": (x, y), "test": (x, y)}, test with `per_class` images of each class.

    They are drawn from a seed of their own, so that all who choose settings by them see the same ones.
    """
    rng, taken = np.random.default_rng(0), []
    for c in range(y.max() + 1):
        members = np.flatnonzero(y == c)
        if not 0 < per_class < len(members):
            found = f"held_out takes {per_class} images of each class; class {c} has {len(members)}"
            raise FileError(f"{name}: {found}: it must be at least 1 and leave one")
        taken.append(rng.choice(members, per_class, replace=False))
    test = np.zeros(len(y), bool)
    test[np.concatenate(taken)] = True
    return {"train": (x[~test], y[~test]), "test": (x[test], y[test])}


def save_arrays(out, split, **arrays):
    """Write SPLIT_NAME.npy for each array."""
    for name, array in arrays.items():
        with replacing(out / f"{split}_{name}.npy") as tmp, open(tmp, "wb") as file:
            np.save(file, array, allow_pickle=False)


def array_digests(out):
    return {path.name: sha256(path) for path in sorted([*out.glob("*.npy"), *out.glob("words.json")])}


def check_counts(name, source, counts, num_classes, packed=False):
    """Refuse splits that are not what the source publishes; IMDB's other packing lacks four reviews of each."""
    classes, *expected = (SOURCES[source][key] for key in ("classes", "train", "test"))
    if packed and source == "imdb":
        expected = [n - 4 for n in expected]
    if counts != expected or num_classes != classes:
        examples = f"{counts} train and test examples of {num_classes} classes"
        raise FileError(f"{name}: {examples}, expected {expected} of {classes}")


def build_arrays(name, shape, dtype, examples, workspace):
    """Run examples(split) through a tensorflow-datasets builder; yield (split, x (n, K, H, W) of the dtype, y (n,))."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    channels, height, width = shape
    shape_hwc = height, width, channels

    class Images(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Images of one size with integer labels, as raw tensors (PNG encoding would need TensorFlow)."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Tensor(shape=shape_hwc, dtype=dtype)
            features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.Scalar(dtype=np.int64)})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in readers.SPLITS}

        def _generate_examples(self, split):
            for i, (image, label) in enumerate(examples(split)):
                image = np.broadcast_to(image, shape_hwc)  # grey may be wanted as three channels
                yield i, {"image": np.ascontiguousarray(image), "label": label}

    Images.name = name.replace("-", "_").lower()
    builder = Images(data_dir=workspace, file_format="array_record")
    builder.download_and_prepare()
    for split in readers.SPLITS:
        source = builder.as_data_source(split)
        x = np.empty((len(source), channels, height, width), dtype)
        y = np.empty(len(source), np.int64)
        for start in progress_bar(range(0, len(source), 1000), desc=f"{name} {split}", unit="k images"):
            for i, example in enumerate(source.__getitems__(list(range(start, min(start + 1000, len(source))))), start):
                x[i], y[i] = example["image"].transpose(2, 0, 1), example["label"]
        yield split, x, y


def manifest(name, dataset, arrays, names, files, packed, out):
    """What the arrays are and where they came from."""
    train_x, train_y = arrays["train"]
    num_classes = int(max(y.max() for _, y in arrays.values())) + 1
    chunks = [train_x[i : i + 10000].astype(np.float64) / 255 for i in range(0, len(train_x), 10000)]
    mean = sum(c.sum((0, 2, 3)) for c in chunks) / train_x[:, 0].size
    square = sum((c**2).sum((0, 2, 3)) for c in chunks) / train_x[:, 0].size
    imagenet = {}
    if dataset.subset:  # a class that a list names twice has one label with images
        present = [c for c in range(num_classes) if (train_y == c).any()]
        imagenet = {"imagenet": [index for index, _ in SUBSETS[dataset.subset]], "classes": present}
    return {
        **imagenet, "name": name, "source": dataset.source or dataset.subset or "folder",
        "shape": list(in_shape(dataset)), "num_classes": num_classes,
        "class_names": names or [str(c) for c in range(num_classes)],
        "num_train": len(train_x), "num_test": len(arrays["test"][0]),
        "class_counts": np.bincount(train_y, minlength=num_classes).tolist(),
        "mean": mean.tolist(), "std": np.sqrt(np.maximum(square - mean**2, 1e-12)).tolist(),
        "archives": [path.name for path in files], "repacked": packed, "sha256": array_digests(out),
    }  # fmt: skip
