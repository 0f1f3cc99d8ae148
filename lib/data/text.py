"""Text: sentences as numbers of words, and words as vectors.

Source: reference sheet of dataset distillation, section 11. Words are what stands between spaces, lower-cased; the vocabulary is the
training split's, by frequency, after the two marks; a sentence is cut or padded at its end.
"""

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..files import FileError, load_tensors, save_tensors
from ..rng import generator
from . import READERS
from .sources import SOURCES, members, own_copy

UNKNOWN, PAD = 0, 1
MARKS = ("<unk>", "<pad>")
VECTOR_STD = 0.4  # of random vectors: about GloVe's
MEBI = 1 << 20
SPLITS = ("train", "test")
LEAF = re.compile(r"\(\d ([^()\s]+)\)", re.ASCII)  # a word may hold a no-break space
TOPICS = {
    "weather": "rain snow wind cloud storm sun fog frost",
    "food": "bread soup rice apple cheese salad stew honey",
    "sport": "ball goal race team coach match score medal",
    "money": "bank coin price debt loan rent wage profit",
}
FILLERS = "the a of and in this that was is very some with for on many new old our".split()


@READERS.register()
def topics(files, packed, split):
    """A corpus of our own: sentences of 5 to 12 words, two to four of them of one of four topics, one of another."""
    rng = np.random.default_rng(SPLITS.index(split))
    groups = [words.split() for words in TOPICS.values()]
    for _ in range(800 if split == "train" else 400):
        label, other = rng.choice(4, 2, replace=False)
        told = list(rng.choice(groups[label], rng.integers(2, 5))) + [rng.choice(groups[other])]
        sentence = told + list(rng.choice(FILLERS, rng.integers(2, 8)))
        yield [str(word) for word in rng.permutation(sentence)], int(label)


@READERS.register("trec6")
def trec(files, packed, split, fine=False):
    """`COARSE:fine question`, Latin-1; the fine classes are the pairs, since a fine name alone stands for several."""
    lines = _lines(Path(files[SPLITS.index(split)]).read_bytes(), "latin-1")
    kinds = trec_kinds(files) if fine else SOURCES["trec6"]["names"]
    for line in lines:
        kind, _, question = line.partition(" ")
        yield question.lower().split(), kinds.index(kind if fine else kind.split(":")[0])


def trec_kinds(files):
    """The fine classes of the training split, in alphabetical order."""
    return sorted({line.split(" ", 1)[0] for line in _lines(Path(files[0]).read_bytes(), "latin-1")})


@READERS.register(names=trec_kinds)
def trec50(files, packed, split):
    """TREC with its fine classes."""
    return trec(files, packed, split, fine=True)


@READERS.register("sst5")
def sst(files, packed, split):
    """Trees of the Stanford Sentiment Treebank, one a line: the root's class and the leaves."""
    if packed:
        trees = Path(files[SPLITS.index(split)]).read_bytes()
    else:
        trees = next((data for _, data in members(files[0], 64 * MEBI, lambda n: n.endswith(f"{split}.txt"))), None)
        if trees is None:
            raise FileError(f"{files[0]}: holds no {split}.txt; delete it and get it again")
    for line in _lines(trees, "utf-8"):
        if not re.match(r"\([0-4] ", line):
            raise FileError(f"{files[0]}: {split}: not a tree with a class from 0 to 4: {line[:40]!r}")
        yield [word.lower() for word in LEAF.findall(line)], int(line[1])


@READERS.register()
def imdb(files, packed, split):
    """Reviews as files of aclImdb/{train,test}/{neg,pos}, in the order of their numbers."""
    reviews = _reviews(files[0])
    for name in sorted(
        (n for n in reviews if n.split("/")[-3] == split),
        key=lambda n: (n.split("/")[-2], int(n.split("/")[-1].split("_")[0])),
    ):
        yield reviews[name].split(), ("neg", "pos").index(name.split("/")[-2])


@lru_cache(1)  # both splits are in one archive, which takes a while to unpack
def _reviews(path):
    found = members(path, 1024 * MEBI, lambda n: re.search(r"/(train|test)/(neg|pos)/\d+_\d+\.txt$", n))
    return {name: data.decode("utf-8", errors="replace").lower() for name, data in found}


def _lines(data, encoding):
    """Lines that are not blank; bytes that are not of the encoding become the replacement character."""
    return [line for line in data.decode(encoding, errors="replace").splitlines() if line.strip()]


def numbered(source, files, packed):
    """-> ({split: (tokens (all,) int32, ends (n,) int64, labels (n,) int64)}, words): the sentences one after the other, as numbers.

    Word 0 stands for those that the training split does not have, word 1 pads; the others come by frequency, then by alphabet.
    A sentence of no words is one unknown word.
    """
    sentences = {split: list(READERS[source](files, packed, split)) for split in SPLITS}
    counts = Counter(word for words, _ in sentences["train"] for word in words if word not in MARKS)
    words = [*MARKS, *sorted(counts, key=lambda word: (-counts[word], word))]
    number = {word: i for i, word in enumerate(words)}
    arrays = {}
    for split, pairs in sentences.items():
        tokens = [[number.get(word, UNKNOWN) for word in own] or [UNKNOWN] for own, _ in pairs]
        flat = np.fromiter((t for own in tokens for t in own), np.int32)
        arrays[split] = flat, np.cumsum([len(own) for own in tokens]), np.array([label for _, label in pairs], np.int64)
    return arrays, words


def padded(tokens, ends, length, vocabulary):
    """(n, length) int64: each sentence cut or padded at its end; words beyond the vocabulary's size are unknown."""
    lengths = np.diff(ends, prepend=0)
    columns = np.arange(length)
    inside = columns < lengths[:, None]
    rows = np.where(inside, tokens[np.minimum((ends - lengths)[:, None] + columns, len(tokens) - 1)], PAD)
    return np.where(rows < vocabulary, rows, UNKNOWN).astype(np.int64)


class WordVectors:
    """The vectors (V, D) of the first V words of a dataset, and the length to which its sentences are brought."""

    def __init__(self, words, vectors, length):
        self.words, self.vectors, self.length = words, vectors, length

    def save(self, path, **meta):
        save_tensors(path, {"vectors": self.vectors}, words=self.words, length=self.length, **meta)

    @classmethod
    def load(cls, path):
        tensors, meta = load_tensors(path)
        return cls(meta["words"], tensors["vectors"], meta["length"])

    def decode(self, x):
        """The nearest word to each vector of x (N, 1, L, D) -> N lists of L words (sheet, section 11.4)."""
        nearest = torch.cdist(x[:, 0].double().cpu(), self.vectors.double()).argmin(-1)
        return [[self.words[i] for i in row] for row in nearest.tolist()]


def fit_words(cfg, words, archives):
    """WordVectors for `cfg` (schema.Words) and a dataset's `words`: drawn, or read from the user's file; the marks are zero.

    Of a file of lines, as GloVe's, the first `tokens` lines alone are read, as the original does.
    """
    if cfg.tokens > len(words):
        raise FileError(
            f"params.yaml: tokens: found {cfg.tokens}; the dataset {cfg.dataset} has {len(words)} words with the two marks"
        )
    words = words[: cfg.tokens]
    if cfg.vectors == "random":
        vectors = VECTOR_STD * torch.randn(cfg.tokens, cfg.dim, generator=generator(0, "vectors"))
    else:
        path = own_copy(archives, "glove", cfg.vectors)
        if path is None:
            raise FileError(
                f"{cfg.vectors}: no such file of word vectors in runtime.archives or DISTILLERY_ARCHIVES ({archives}); "
                "put it there (GloVe: glove.6B.100d.txt of glove.6B.zip), or take a row with random vectors"
            )
        known = read_vectors(path, cfg.tokens)
        found = (
            torch.from_numpy(np.stack([known.get(w, np.zeros(cfg.dim, np.float32)) for w in words]))
            if _dim(known) == cfg.dim
            else None
        )
        if found is None:
            raise FileError(f"{path}: holds vectors of {_dim(known)} numbers; the row's dim is {cfg.dim}")
        vectors = found
    vectors[: len(MARKS)] = 0
    return WordVectors(words, vectors, cfg.length)


def _dim(known):
    return len(next(iter(known.values()))) if known else 0


def read_vectors(path, lines):
    """{word: vector} of a file of `word numbers` lines, or of an npz of `words` and `vectors`."""
    if path.suffix == ".npz":
        file = np.load(path, allow_pickle=False)
        return dict(zip(file["words"].tolist(), file["vectors"].astype(np.float32)))
    with open(path, encoding="utf-8") as file:
        rows = (line.rstrip("\n").split(" ") for _, line in zip(range(lines), file))
        try:
            return {word: np.array(numbers, np.float32) for word, *numbers in rows}
        except ValueError as error:
            raise FileError(f"{path}: not lines of a word and its numbers ({error})") from None


class Sentences:
    """Real sentences on the device as numbers of words (n, L); an index gives their vectors (..., 1, L, D)."""

    def __init__(self, tokens, vectors):
        self.tokens, self.vectors = tokens, vectors

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return self.vectors[self.tokens[index]].unsqueeze(-3)

    def split(self, size):
        return (self[start : start + size] for start in range(0, len(self), size))

    @property
    def shape(self):
        return len(self), 1, self.tokens.shape[1], self.vectors.shape[1]

    @property
    def device(self):
        return self.tokens.device
