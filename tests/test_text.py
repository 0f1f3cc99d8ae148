"""Text from its files to vectors and back: reference sheet of dataset distillation, section 11."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from lib.config.load import load_params
from lib.config.models import Dataset, Words
from lib.data import text
from lib.data.prepare import prepare
from lib.data.real import load_real
from lib.data.text import PAD, UNKNOWN, Sentences, WordVectors, fit_words, indexed_sentences, padded
from lib.files import FileError, read_json


def trec_files(tmp_path, train, test):
    for name, lines in (("train", train), ("test", test)):
        (tmp_path / name).write_bytes(lines)
    return [tmp_path / "train", tmp_path / "test"]


def test_words_are_indexed_by_frequency_then_alphabet(tmp_path):
    files = trec_files(
        tmp_path, b"DESC:def What is A a ?\nHUM:ind Who is who ?\n", b"LOC:city Where is A ?\nNUM:date \n\n"
    )
    arrays, words = indexed_sentences("trec6", files, False)
    assert words == ["<unk>", "<pad>", "?", "a", "is", "who", "what"]
    tokens, ends, labels = arrays["train"]
    assert tokens.tolist() == [6, 4, 3, 3, 2, 5, 4, 5, 2] and ends.tolist() == [5, 9] and labels.tolist() == [0, 3]
    tokens, ends, labels = arrays["test"]
    assert tokens.tolist() == [UNKNOWN, 4, 3, 2, UNKNOWN] and ends.tolist() == [4, 5], (
        "a sentence of no words is one unknown word"
    )
    assert labels.tolist() == [5, 4]


def test_sentences_are_cut_padded_and_limited_to_the_vocabulary():
    tokens, ends = np.array([5, 3, 2, 4, 9, 8], np.int32), np.array([3, 4, 6])
    assert padded(tokens, ends, 2, 10).tolist() == [[5, 3], [4, PAD], [9, 8]]
    assert padded(tokens, ends, 4, 5).tolist() == [
        [UNKNOWN, 3, 2, PAD],
        [4, PAD, PAD, PAD],
        [UNKNOWN, UNKNOWN, PAD, PAD],
    ]


@pytest.mark.parametrize("data, encoding, words", [
    ("DESC:def caf\xe9 na\xefve ?\n".encode("latin-1"), "latin-1", ["caf\xe9", "na\xefve", "?"]),
    ("DESC:def caf\xe9 ?\n".encode(), "latin-1", ["caf\xe3\xa9", "?"]),
])  # fmt: skip
def test_other_encodings_do_not_stop_a_reader(tmp_path, data, encoding, words):
    files = trec_files(tmp_path, data, data)
    assert next(iter(text.trec(files, False, "train")))[0] == words


def test_bytes_of_another_encoding_become_the_replacement_character(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_bytes(b"(3 (2 caf\xe9) (4 good))\r\n\n(0 (2 bad))\n")
    files = [tmp_path / "train.txt", tmp_path / "test.txt"]
    assert list(text.sst(files, True, "train")) == [(["caf\ufffd", "good"], 3), (["bad"], 0)]


def test_trees_are_read_from_their_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "trees.zip", "w") as archive:
        archive.writestr("trees/train.txt", "(4 (3 (2 A) (3 (2 fine) (2 film))) (2 .))\n")
        archive.writestr("trees/test.txt", "(1 (2 Dull) (2 -LRB-))\n")
    assert list(text.sst([tmp_path / "trees.zip"], False, "train")) == [(["a", "fine", "film", "."], 4)]
    assert list(text.sst([tmp_path / "trees.zip"], False, "test")) == [(["dull", "-lrb-"], 1)]


def test_what_is_no_treebank_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "trees.zip", "w") as archive:
        archive.writestr("trees/train.txt", "a plain sentence\n")
    with pytest.raises(FileError, match="trees.zip: train: not a tree.*'a plain sentence'"):
        list(text.sst([tmp_path / "trees.zip"], False, "train"))
    with pytest.raises(FileError, match="trees.zip: holds no test.txt"):
        list(text.sst([tmp_path / "trees.zip"], False, "test"))


def test_fine_classes_are_pairs(tmp_path):
    files = trec_files(tmp_path, b"ENTY:other a\nHUM:desc b\nLOC:other c\n", b"LOC:other d\n")
    assert text.trec_fine_classes(files) == ["ENTY:other", "HUM:desc", "LOC:other"]
    assert list(text.trec(files, False, "test", fine=True)) == [(["d"], 2)]


def test_reviews_come_in_the_order_of_their_numbers(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        reviews = {
            "train/pos/10_9": "ten",
            "train/pos/2_7": "two<br /> great",
            "train/neg/1_1": "bad",
            "train/unsup/0_0": "no",
            "test/neg/0_2": "x",
        }
        for name, words in reviews.items():
            info = tarfile.TarInfo(f"aclImdb/{name}.txt")
            info.size = len(words)
            archive.addfile(info, io.BytesIO(words.encode()))
    assert list(text.imdb([tmp_path / "a.tar.gz"], False, "train")) == [
        (["bad"], 0),
        (["two<br", "/>", "great"], 1),
        (["ten"], 1),
    ]


CFG = Words(dataset="mine", tokens=5, length=4, dim=3, vectors="v.txt")
WORDS = ["<unk>", "<pad>", "the", "cat", "sat", "mat"]


def test_vectors_of_the_users_file_are_those_of_its_first_lines(tmp_path):
    (tmp_path / "v.txt").write_text("the 1 2 3\ncat 4 5 6\na 0 0 1\nb 0 1 0\nc 1 0 0\nsat 7 8 9\n")
    found = fit_words(CFG, WORDS, tmp_path)
    assert found.words == WORDS[:5]
    assert found.vectors.tolist() == [[0] * 3, [0] * 3, [1, 2, 3], [4, 5, 6], [0] * 3], (
        "sat is line 6 of a file of which 5 are read"
    )
    np.savez(tmp_path / "v.npz", words=np.array(["sat", "cat"]), vectors=np.eye(2, 3, dtype=np.float32))
    assert fit_words(CFG.changed(vectors="v.npz"), WORDS, tmp_path).vectors.tolist() == [[0] * 3] * 3 + [
        [0, 1, 0],
        [1, 0, 0],
    ]
    with pytest.raises(FileError, match="vectors of 3 numbers; the row's dim is 4"):
        fit_words(CFG.changed(dim=4), WORDS, tmp_path)
    with pytest.raises(FileError, match="none.txt: no such file of word vectors.*glove.6B"):
        fit_words(CFG.changed(vectors="none.txt"), WORDS, tmp_path)
    with pytest.raises(FileError, match="found 7; the dataset mine has 6 words"):
        fit_words(CFG.changed(tokens=7), WORDS, tmp_path)
    (tmp_path / "bad.txt").write_text("the 1 2\nnot numbers here\n")
    with pytest.raises(FileError, match="not lines of a word and its numbers"):
        fit_words(CFG.changed(vectors="bad.txt"), WORDS, tmp_path)


def test_random_vectors_are_the_same_each_time_and_special_tokens_are_zero():
    first, second = (fit_words(CFG.changed(vectors="random", dim=50), WORDS, None) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors) and (first.vectors[:2] == 0).all()
    assert first.vectors[2:].std().item() == pytest.approx(0.4, rel=0.2)


def test_decoding_gives_the_nearest_words(tmp_path):
    words = WordVectors(WORDS, torch.randn(6, 3), 4)
    tokens = torch.tensor([[2, 3, 4, 1], [5, 0, 2, 2]])
    x = Sentences(tokens, words.vectors)[torch.tensor([0, 1])]
    assert x.shape == (2, 1, 4, 3)
    assert words.decode(x + 1e-4) == [["the", "cat", "sat", "<pad>"], ["mat", "<unk>", "the", "the"]]
    words.save(tmp_path / "w.safetensors")
    again = WordVectors.load(tmp_path / "w.safetensors")
    assert again.words == WORDS and torch.equal(again.vectors, words.vectors) and again.length == 4


def test_own_corpus_goes_from_source_to_vectors(tmp_path):
    prepare("topics", Dataset(source="topics"), tmp_path / "topics", tmp_path / "downloads")
    cfg = load_params().preprocessing["topics"]
    fit_words(cfg, read_json(tmp_path / "topics/words.json"), None).save(tmp_path / "w.safetensors")
    real = load_real(tmp_path / "topics", tmp_path / "w.safetensors", torch.device("cpu"))
    assert real.shape == (1, 12, 16) and len(real.train_x) == 800 and len(real.test_x) == 400 and real.num_classes == 4
    assert min(real.manifest["class_counts"]) >= 150
    chosen = real.train_x[torch.tensor([3, 5])]
    assert torch.equal(chosen, torch.stack([real.train_x[torch.tensor(i)] for i in (3, 5)]))
    assert torch.equal(torch.cat(list(real.test_x.split(150))), real.test_x[torch.arange(400)])
    sentence = [w for w in real.preprocess.decode(chosen)[0] if w != "<pad>"]
    topic = real.manifest["class_names"][real.train_y[3]]
    assert sum(w in text.TOPICS[topic].split() for w in sentence) >= 2


REAL = [
    ("trec6", [5452, 500], [1162, 1250, 86, 1223, 896, 835], 8679, 37),
    ("trec50", [5452, 500], None, 8679, 37),
    ("sst5", [8544, 2210], [1092, 2218, 1624, 2322, 1288], 16581, 52),
]


@pytest.mark.parametrize("name, counts, classes, words, longest", REAL)
def test_real_files_have_the_published_counts(name, counts, classes, words, longest, prepared, archives):
    manifest = json.loads((prepared(name, archives) / "manifest.json").read_text())
    assert [manifest["num_train"], manifest["num_test"]] == counts
    assert classes is None or manifest["class_counts"] == classes
    assert len(manifest["class_names"]) == manifest["num_classes"] == len(manifest["class_counts"])
    assert manifest["words"] == words and manifest["longest"] == longest


def test_real_reviews(prepared, archives):
    folder = prepared("imdb", archives)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["class_counts"] == [12498, 12498] and manifest["num_test"] == 24996 and manifest["repacked"]
    words = json.loads((folder / "words.json").read_text())
    assert words[2:6] == ["the", "a", "and", "of"]
