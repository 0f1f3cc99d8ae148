"""Text: sentences as word indices, and words as vectors.

Source: reference sheet of dataset distillation, section 11. A word is what stands between spaces, in lower case. The
vocabulary is the training split's, by frequency, after two special tokens. Sentences are cut or padded at their end.
"""

import re
from collections import Counter
from functools import lru_cache

import numpy as np
import torch

from ..files import FileError, parsing, read_bytes
from ..rng import generator
from ..tensors import load_sealed, save_sealed
from . import READERS, examples_of
from .archives import members, read_npz
from .sources import REMEDY, SOURCES, own_copy

UNKNOWN, PAD = 0, 1
SPECIAL_TOKENS = ("<unk>", "<pad>")
VECTOR_STD = 0.4  # of random vectors: about GloVe's
MEBI = 1 << 20
SPLITS = ("train", "test")
LEAF = re.compile(r"\(\d ([^()]+)\)")  # of a tree: mostly one word; a no-break space ends a word too
NO_LETTER = b"\xf0"  # once in TREC, where its readers have a space
TOPICS = {
    "weather": "rain snow wind cloud storm sun fog frost",
    "food": "bread soup rice apple cheese salad stew honey",
    "sport": "ball goal race team coach match score medal",
    "money": "bank coin price debt loan rent wage profit",
}
FILLERS = "the a of and in this that was is very some with for on many new old our".split()


@READERS.register()
def topics(files, packed, split):
    """A generated corpus: sentences of 5 to 12 words, of which 2 to 4 are from the label's topic and 1 from another."""
    rng = np.random.default_rng(SPLITS.index(split))
    vocabularies = [words.split() for words in TOPICS.values()]
    for _ in range(800 if split == "train" else 400):
        label, other = rng.choice(4, 2, replace=False)
        topic_words = list(rng.choice(vocabularies[label], rng.integers(2, 5))) + [rng.choice(vocabularies[other])]
        sentence = topic_words + list(rng.choice(FILLERS, rng.integers(2, 8)))
        yield [str(word) for word in rng.permutation(sentence)], int(label)


@READERS.register("trec6")
def trec(files, packed, split, fine=False):
    """Lines `COARSE:fine question`. The fine classes are the pairs: several share a fine name."""
    classes = trec_fine_classes(files) if fine else SOURCES["trec6"]["names"]
    for line in _lines(read_bytes(files[SPLITS.index(split)], REMEDY).replace(NO_LETTER, b" "), "latin-1"):
        pair, _, question = line.partition(" ")
        yield question.lower().split(), classes.index(pair if fine else pair.split(":")[0])


def trec_fine_classes(files):
    """The fine classes of the training split, in alphabetical order."""
    return sorted({line.split(" ", 1)[0] for line in _lines(read_bytes(files[0], REMEDY), "latin-1")})


@READERS.register(names=trec_fine_classes)
def trec50(files, packed, split):
    """TREC with its fine classes."""
    return trec(files, packed, split, fine=True)


@READERS.register("sst5")
def sst(files, packed, split):
    """Stanford Sentiment Treebank, one tree a line: the root's class and the leaves."""
    if packed:
        trees = read_bytes(files[SPLITS.index(split)], REMEDY)
    else:
        trees = next((data for _, data in members(files[0], 64 * MEBI, lambda n: n.endswith(f"{split}.txt"))), None)
        if trees is None:
            raise FileError(f"{files[0]}: holds no {split}.txt; delete it and get it again")
    for line in _lines(trees, "utf-8"):
        if not re.match(r"\([0-4] ", line):
            raise FileError(f"{files[0]}: {split}: not a tree with a class from 0 to 4: {line[:40]!r}")
        yield " ".join(LEAF.findall(line)).lower().split(), int(line[1])


@READERS.register()
def imdb(files, packed, split):
    """Reviews aclImdb/{train,test}/{neg,pos}/NUMBER_RATING.txt: the negative ones first, each class by number."""
    reviews = []
    for name, review in _reviews(files[0]).items():
        folder, sentiment, file = name.split("/")[-3:]
        if folder == split:
            reviews.append((sentiment, int(file.split("_")[0]), review))
    for sentiment, _, review in sorted(reviews, key=lambda row: row[:2]):
        yield review.split(), ("neg", "pos").index(sentiment)


@lru_cache(1)  # both splits are in one archive, which is slow to unpack
def _reviews(path):
    files = members(path, 1024 * MEBI, lambda n: re.search(r"/(train|test)/(neg|pos)/\d+_\d+\.txt$", n))
    return {name: data.decode("utf-8", errors="replace").lower() for name, data in files}


def _lines(data, encoding):
    """The lines that are not blank; invalid bytes become the replacement character."""
    return [line for line in data.decode(encoding, errors="replace").splitlines() if line.strip()]


def indexed_sentences(source, files, packed):
    """A source's sentences as word indices -> ({split: (tokens, ends, labels)}, vocabulary).

    tokens (all words,) int32: the sentences one after the other; ends (n,) int64: where each ends; labels (n,) int64.
    Index 0 is a word that the training split does not have, 1 is padding. The others are sorted by frequency, then by
    alphabet. An empty sentence becomes one unknown word.
    """
    sentences = {split: list(examples_of(source, files, packed, split)) for split in SPLITS}
    counts = Counter(word for words, _ in sentences["train"] for word in words if word not in SPECIAL_TOKENS)
    vocabulary = [*SPECIAL_TOKENS, *sorted(counts, key=lambda word: (-counts[word], word))]
    index = {word: i for i, word in enumerate(vocabulary)}
    arrays = {}
    for split, pairs in sentences.items():
        rows = [[index.get(word, UNKNOWN) for word in words] or [UNKNOWN] for words, _ in pairs]
        tokens = np.fromiter((token for row in rows for token in row), np.int32)
        arrays[split] = tokens, np.cumsum([len(row) for row in rows]), np.array([label for _, label in pairs], np.int64)
    return arrays, vocabulary


def padded(tokens, ends, length, vocabulary_size):
    """(n, length) int64: each sentence cut or padded at its end; indices beyond the vocabulary become unknown."""
    lengths = np.diff(ends, prepend=0)
    columns = np.arange(length)
    inside = columns < lengths[:, None]
    rows = np.where(inside, tokens[np.minimum((ends - lengths)[:, None] + columns, len(tokens) - 1)], PAD)
    return np.where(rows < vocabulary_size, rows, UNKNOWN).astype(np.int64)


class WordVectors:
    """Vectors (V, D) of the first V words of a dataset's vocabulary, and the length of the padded sentences."""

    def __init__(self, words, vectors, length):
        self.words, self.vectors, self.length = words, vectors, length

    def save(self, path, **meta):
        save_sealed(path, {"vectors": self.vectors}, words=self.words, length=self.length, **meta)

    @classmethod
    def load(cls, path):
        tensors, meta = load_sealed(path)
        return cls(meta["words"], tensors["vectors"], meta["length"])

    def decode(self, x):
        """The nearest word to each vector of x (N, 1, L, D) -> N lists of L words (sheet, section 11.4)."""
        nearest = torch.cdist(x[:, 0].double().cpu(), self.vectors.double()).argmin(-1)
        return [[self.words[i] for i in row] for row in nearest.tolist()]


def fit_words(cfg, words, archives):
    """WordVectors for `cfg` (config.models.Words) and a dataset's vocabulary `words`: random, or from the user's file.

    The special tokens' vectors are zero. Of a text file, as GloVe's, only the first `tokens` lines are read, as in the
    original code.
    """
    if cfg.tokens > len(words):
        size = f"has {len(words)} words with the two special tokens"
        raise FileError(f"params.yaml: tokens: found {cfg.tokens}; the dataset {cfg.dataset} {size}")
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
        vector_of = read_vectors(path, cfg.tokens)
        dim = len(next(iter(vector_of.values()), ()))
        if dim != cfg.dim:
            raise FileError(f"{path}: holds vectors of {dim} numbers; the row's dim is {cfg.dim}")
        vectors = torch.from_numpy(np.stack([vector_of.get(word, np.zeros(dim, np.float32)) for word in words]))
    vectors[: len(SPECIAL_TOKENS)] = 0
    return WordVectors(words, vectors, cfg.length)


def read_vectors(path, num_lines):
    """{word: vector} from the first lines `WORD NUMBERS` of a text file, or from an npz of `words` and `vectors`."""
    with parsing(path, "not lines of a word and its numbers, or an npz of words and vectors", REMEDY):
        if path.suffix == ".npz":
            arrays = read_npz(path)
            vectors = dict(zip(arrays["words"].tolist(), arrays["vectors"].astype(np.float32), strict=True))
        else:
            with open(path, encoding="utf-8") as file:
                lines = zip(range(num_lines), iter(lambda: file.readline(MEBI), ""))
                rows = (line.rstrip("\n").split(" ") for _, line in lines)
                vectors = {word: np.array(numbers, np.float32) for word, *numbers in rows}
        lengths = {vector.shape for vector in vectors.values()}
        if len(lengths) != 1 or not all(np.isfinite(vector).all() for vector in vectors.values()):
            raise ValueError(f"vectors of {len(lengths)} lengths" if len(lengths) != 1 else "a number is not finite")
        return vectors


class Sentences:
    """Real sentences on the device as word indices (n, L). Indexing gives their vectors (..., 1, L, D)."""

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
