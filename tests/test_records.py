"""The JSON files that stages write for each other: what is no such file is answered by one sentence."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.files import FileError, write_json
from lib.records import (
    Evaluation,
    Experts,
    Finished,
    History,
    Manifest,
    SuiteResults,
    read_metrics,
    read_record,
    sealed,
    write_metrics,
    write_record,
)

SHA, MADE = "0" * 64, {"device": "CPU", "commit": "abc", "torch": "2", "date": "today"}
MANIFEST = {
    "name": "two", "source": "folder", "shape": [1, 8, 8], "num_classes": 2, "class_names": ["a", "b"],
    "num_train": 8, "num_test": 2, "class_counts": [4, 4], "mean": [0.5], "std": [0.25], "archives": [],
    "repacked": False, "sha256": {"train_x.npy": SHA, "train_y.npy": SHA},
}  # fmt: skip
EXPERT = {"file": "expert0000.safetensors", "sha256": SHA, "train": [50.0], "test": [40.0], **MADE}
EXPERTS = {
    "identity": "i", "net": "mlp", "shape": [1, 8, 8], "num_classes": 2, "epochs": [0, 1],
    "experts": [EXPERT, {**EXPERT, "file": "expert0001.safetensors"}],
}  # fmt: skip
RUN = {"history": [{"step": 5, "accuracy": 50.0}], "losses": [[5, 0.25]], "wall_s": 1.5}
SEED = {"runs": [RUN], "files": {"seed0.safetensors": SHA}, **MADE}
HISTORY = {"cell": "c", "identity": "i", "seeds": {"0": SEED}}
KINDS = {"distilled": {"accuracy": [[50.0, 60.0]], "krr": [1.0]}, "real_subset": {"accuracy": [[40.0, 41.0]]}}
EVALUATION = {"cell": "c", "seeds": [0], "nets": {"mlp": KINDS}, **MADE}
ROW = {
    "cell": "c", "suite": "s", "method": "dm", "dataset": "two", "ipc": 1, "network": "mlp", "accuracy_mean": 50.0,
    "accuracy_std": 1.0, "real_subset_mean": 40.0, "seeds": [0], "judged": "above",
}  # fmt: skip
RESULTS = {
    "suite": "s", "rows": [ROW], "continual": [], "membership": [], "scores": [], "sentences": {}, "curves": {},
    "figures": [{"file": "c.png"}], "provenance": [],
}  # fmt: skip
RIGHT = {Manifest: MANIFEST, Experts: EXPERTS, History: HISTORY, Evaluation: EVALUATION, SuiteResults: RESULTS}
ABSENT = object()
WRONG = [  # kind, where, what stands there, words of the answer
    (Manifest, "num_classes", 3, "class_names has 2 entries for 3 classes"),
    (Manifest, "class_counts", [4], "class_counts has 1 entries"),
    (Manifest, "std", [0.0], "std.0: Input should be greater than 0"),
    (Manifest, "shape", [8, 8], "shape"),
    (Manifest, "shape", ABSENT, "has shape, mean and std"),
    (Manifest, "num_train", 8.5, "num_train: Input should be a valid integer"),
    (Manifest, "num_test", 0, "num_test: Input should be greater than or equal to 1"),
    (Manifest, "sha256", {"../train_x.npy": SHA}, "sha256"),
    (Manifest, "sha256", {"train_x.npy": "abc"}, "sha256"),
    (Manifest, "archives", ["/etc/passwd"], "archives.0"),
    (Manifest, "repacked", "no", "repacked: Input should be a valid boolean"),
    (Manifest, "extra", 1, "extra: Extra inputs are not permitted"),
    (Experts, "epochs", [1, 0], r"epochs \[1, 0\] do not rise"),
    (Experts, "epochs", [0, 0], "do not rise"),
    (Experts, "epochs", [], "epochs"),
    (Experts, "experts", [], "experts"),
    (Experts, "experts.1.file", "expert0000.safetensors", "not expert0000.safetensors, ... in order"),
    (Experts, "experts.1.file", "../../expert0001.safetensors", "experts.1.file"),
    (Experts, "experts.0.sha256", ABSENT, "experts.0.sha256: Field required"),
    (Experts, "net", ABSENT, "net: Field required"),
    (Experts, "net", None, "net: Input should be a valid string"),
    (History, "seeds.0.runs", [], "seeds.0.runs"),
    (History, "seeds.0.files", {}, "seeds.0.files"),
    (History, "seeds.0.files", {"../seed0.safetensors": SHA}, "seeds.0.files"),
    (History, "seeds", {"x": SEED}, "seeds.x"),
    (History, "seeds.0.runs.0.wall_s", -1.0, "greater than or equal to 0"),
    (History, "seeds.0.runs.0.history.0.step", -5, "greater than or equal to 0"),
    (History, "identity", ABSENT, "identity: Field required"),
    (Evaluation, "nets", {}, "nets"),
    (Evaluation, "nets.mlp.distilled", ABSENT, "nets.mlp.distilled: Field required"),
    (Evaluation, "nets.mlp.distilled.accuracy", [], "nets.mlp.distilled.accuracy"),
    (Evaluation, "nets.mlp.distilled.accuracy", [["50"]], "Input should be a valid number"),
    (Evaluation, "seeds", [0, 1], "accuracies of 1 of 2 seeds"),
    (Evaluation, "seeds", [-1], "greater than or equal to 0"),
    (SuiteResults, "figures.0.file", "../../../etc/passwd", "figures.0.file: String should match pattern"),
    (SuiteResults, "figures.0.file", "/etc/passwd", "figures.0.file"),
    (SuiteResults, "figures.0.file", ".hidden", "figures.0.file"),
    (SuiteResults, "rows.0.network", ABSENT, "rows.0.network: Field required"),
    (SuiteResults, "rows.0.accuracy_mean", None, "rows.0.accuracy_mean"),
    (SuiteResults, "rows", {}, "rows: Input should be a valid list"),
]


@pytest.mark.parametrize("kind", RIGHT)
def test_what_is_written_is_read(tmp_path, kind):
    write_record(path := tmp_path / "r.json", RIGHT[kind])
    assert read_record(path, kind) == RIGHT[kind]
    write_json(path, RIGHT[kind])  # as earlier versions wrote it
    assert read_record(path, kind) == RIGHT[kind]


@pytest.mark.parametrize("kind, where, value, words", WRONG)
def test_what_is_wrong_is_answered_by_one_sentence(tmp_path, kind, where, value, words):
    record = copy.deepcopy(RIGHT[kind])
    *way, last = (int(part) if part.isdigit() and kind is not History else part for part in where.split("."))
    node = record
    for part in way:
        node = node[int(part) if isinstance(node, list) else part]
    if value is ABSENT:
        del node[last]
    else:
        node[last] = value
    write_record(path := tmp_path / "r.json", record)
    with pytest.raises(FileError, match=words) as told:
        read_record(path, kind)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "7", "{", "NaN", '{"cell": NaN}', "[" * 100000, "\ud800", "é"])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("latin-1" if text == "é" else "utf-8", "surrogatepass"))
    for kind in (*RIGHT, Finished):
        with pytest.raises(FileError, match="not valid JSON|not what it should hold"):
            read_record(path, kind)
    with pytest.raises(FileError, match="not valid JSON|not what it should hold"):
        read_metrics(path, Evaluation)


def test_a_metrics_file_holds_one_record(tmp_path):
    write_metrics(path := tmp_path / "m.json", {"accuracy": {"mlp": 55.0}}, EVALUATION)
    assert read_metrics(path, Evaluation) == EVALUATION and json.loads(path.read_text())["accuracy"] == {"mlp": 55.0}
    for measured in ([], [EVALUATION, EVALUATION], EVALUATION, None):
        write_json(path, {"measured": measured})
        with pytest.raises(FileError, match="one record under measured"):
            read_metrics(path, Evaluation)


@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(list(RIGHT)), st.data())
def test_a_changed_file_is_refused_or_says_the_same(tmp_path_factory, kind, data):
    whole = json.dumps(sealed(RIGHT[kind]), indent=1).encode()
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(changed) - 1))
        length, more = data.draw(st.integers(0, 4)), data.draw(st.binary(max_size=4))
        changed[start : start + length] = more
    path = tmp_path_factory.getbasetemp() / "changed.json"
    path.write_bytes(changed)
    try:
        found = read_record(path, kind)
    except FileError:
        return
    assert json.dumps(found, sort_keys=True) == json.dumps(RIGHT[kind], sort_keys=True)
