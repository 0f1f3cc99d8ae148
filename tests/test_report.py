"""The report: arithmetic, verdicts, honest treatment of unverified figures, a page that is safe and self-contained."""

import base64
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lib.config.load import load_params
from lib.config.recipes import recipes
from lib.config.settings import Settings
from lib.data.text import WordVectors
from lib.progress import duration
from lib.report.applications import continual_rows, membership_rows
from lib.report.charts import chart
from lib.report.compare import make_row, paired, provenance_lines, verdict
from lib.report.figures import gallery, plot_continual, plot_ipc, save_gallery, save_preview
from lib.report.page import counts, overview, write_page
from lib.report.published import figure_of, published_figures
from lib.report.suite import application_figures, grid_figures, label_figure, learning_curves

from . import readme

MADE = {"device": "CPU", "commit": "abc", "torch": "2", "date": "2026-01-02"}
HISTORY = {
    "seeds": {
        "0": {"runs": [{"wall_s": 10.0, "history": []}], **MADE},
        "1": {"runs": [{"wall_s": 5.5, "history": []}], **MADE, "commit": "def"},
    }
}


ATTACK = {"auc": 0.6, "auc_se": 0.01, "balanced_accuracy": 0.55, "tpr_at_0.1": 0.002, "tpr_at_1": 0.02}
MEMBERSHIP = {
    "cell": "m",
    "rows": [
        {
            "kind": kind,
            "updates": updates,
            "accuracy": [90.0, 92.0],
            "attacks": {
                "threshold": [ATTACK, ATTACK | {"auc": 0.7, "auc_se": 0.03}],
                "control_threshold": [ATTACK | {"auc": 0.9}],
            },
        }
        for kind in ("distilled", "real")
        for updates in (10, 20)
    ],
}
CONTINUAL = {
    "cell": "c",
    "num_classes": 10,
    "kinds": {
        "distilled": {"curves": [[[90.0, 60.0]], [[80.0, 50.0]]], "forgetting": [[20.0], [30.0]]},
        "random": {"curves": [[[50.0, 40.0]], [[50.0, 40.0]]], "forgetting": [[5.0], [5.0]]},
    },
}


def measured(net="conv3", distilled=((46.0, 47.0), (48.0, 47.0))):
    kinds = {
        "distilled": {"accuracy": distilled, "krr": [40.0, 42.0]},
        "real_subset": {"accuracy": [[14.0, 16.0]], "krr": [12.0]},
    }
    return {"seeds": [0, 1], "nets": {net: kinds}}


def published_to_a_stage(suite):
    """The published figures as the report of a suite reads them in its recipe."""
    recipe = json.loads(json.dumps(recipes(load_params())["report"][suite]))
    return Settings.of(recipe).published.plain()


def row(key="frepo-frepo-cifar10-ipc1", net="conv3", **kwargs):
    cell = load_params().cells[key]
    return make_row(key, cell, net, measured(net, **kwargs), HISTORY, published_figures(), 4096)


def results(folder, suite="s", rows=(), **more):
    """A suite as `write_page` takes it."""
    empty = {"continual": [], "membership": [], "scores": [], "sentences": {}, "curves": {}, "figures": []}
    return {"suite": suite, "rows": list(rows), "provenance": [], "folder": folder, **empty, **more}


def test_row_has_the_promised_columns_and_right_arithmetic():
    r = row()
    promised = """cell suite method dataset ipc network protocol accuracy_mean accuracy_std n_networks n_seeds
        real_subset_mean published_mean published_std published_source verdict steps wall_s device commit""".split()
    assert set(promised) <= set(r)
    assert (r["accuracy_mean"], r["n_networks"], r["n_seeds"], r["wall_s"]) == (47.0, 2, 2, 15.5)
    assert (r["device"], r["commit"]) == ("CPU", "abc, def"), "each seed's own"
    assert r["accuracy_std"] == pytest.approx(0.5**0.5, abs=0.01) and r["accuracy_seeds"] == [46.5, 47.5]
    assert r["real_subset_mean"] == 15.0 and r["published_mean"] == 46.8 and r["best_checkpoint_mean"] is None


@pytest.mark.parametrize("accuracy, word", [(47.0, "reached (+0.2)"), (40.0, "below (-6.8)"), (60.0, "above (+13.2)")])
def test_verdicts_follow_the_difference_and_its_spread(accuracy, word):
    assert row(distilled=((accuracy,) * 2,) * 2)["verdict"].startswith(word)


def test_a_spread_of_our_own_reaches_nothing():
    assert row(distilled=((30.0, 40.0), (40.0, 50.0)))["verdict"].startswith("below (-6.8)")


def test_a_reduced_budget_is_never_called_reached():
    r = row() | {"budget": "reduced"}
    assert verdict(r).startswith("reduced budget, +0.2 from the published full one")


def test_unverified_figures_are_never_published_ones():
    r = row("frepo-frepo-mnist-ipc1")
    assert (
        r["published_mean"] is None and r["unverified_mean"] == 93.0 and r["verdict"].startswith("no published figure")
    )
    flat = [f for sets in published_figures()["frepo"].values() for f in sets.values()]
    assert {f["status"] for f in flat} == {"published", "unverified"} and all(
        "source" in f for f in flat if f["status"] == "published"
    )


def test_figures_belong_to_the_networks_and_norms_they_were_measured_on():
    key = "frepo-frepo-cifar10-ipc10"
    for net, figure in (
        ("conv3", 65.5),
        ("conv3-batch", None),
        ("conv3-w64", None),
        ("conv2", None),
        ("alexnet", None),
    ):
        assert row(key, net)["published_mean"] == figure
    for key, net, figure, recalled in (
        ("matching-dc-mnist-ipc1", "convnet3-instance", 91.7, None),
        ("matching-dc-mnist-ipc1", "mlp_dc", None, None),
        ("matching-dc-mnist-ipc1-mlp", "mlp_dc", None, 70.5),
        ("matching-dc-mnist-ipc1-mlp", "lenet_dc", None, None),
        ("matching-dc-mnist-ipc1-resnet18", "resnet18_dc-instance", None, 89.4),
        ("matching-dsa-cifar10-ipc50-batch", "convnet3-batch", None, 59.9),
        ("matching-dm-cifar10-ipc50-batch", "convnet3-batch", None, 65.2),
        ("reduced-dc-mnist-ipc1", "convnet3-w32-instance", None, None),
        ("mtt-mtt-tiny_imagenet-ipc1", "convnet4-instance", 8.8, None),
        ("mtt-mtt-in1k_imagefruit_aliased-ipc1", "convnet5-instance", 26.6, None),
    ):
        found = row(key, net)
        assert (found["published_mean"], found["unverified_mean"]) == (figure, recalled), (key, net)


def test_a_stage_finds_the_same_figures_in_its_recipe():
    params, table = load_params(), published_figures()
    for suite in ("fast", "frepo", "matching", "mtt"):
        read = published_to_a_stage(suite)
        for key, cell in params.cells.items():
            if cell.suite == suite:
                net = cell.evaluate.nets[0]
                assert figure_of(read, key, cell, net) == figure_of(table, key, cell, net)
    cell = params.cells["fast-frepo-mnist-ipc1"]
    assert figure_of(published_to_a_stage("fast"), "fast-frepo-mnist-ipc1", cell, "conv3")["mean"] == 93.0


def test_a_second_printed_value_is_shown_and_not_compared_with():
    found = row("frepo-frepo-cifar10-ipc10", "conv3", distilled=((63.5,),))
    assert found["published_second"]["mean"] == 63.5 and "AT-BPTT" in found["published_second"]["source"]
    assert found["verdict"].startswith("below (-2.0)") and row("frepo-frepo-mnist-ipc1")["published_second"] is None


def test_gallery_shows_the_images_class_by_class(tmp_path):
    pixels = torch.arange(12.0).view(12, 1, 1, 1).expand(12, 1, 2, 2) / 11
    for classes, columns in ((2, 6), (6, 10), (12, 10)):  # six of each fill a row; five twos a row of ten
        save_gallery(tmp_path / "g.png", pixels, classes)
        image = Image.open(tmp_path / "g.png").convert("RGB")
        width, height = image.size[0] / columns, image.size[1] / 2
        shown = [
            image.getpixel((int(width * (i % columns + 0.5)), int(height * (i // columns + 0.5))))[0] for i in range(12)
        ]
        assert shown == [round(255 * i / 11) for i in range(12)]


def test_page_is_self_contained_and_escapes_names(tmp_path):
    evil = "<script>alert(1)</script>"
    suite = tmp_path / "evil"
    suite.mkdir()
    plot_ipc(suite / "ipc.svg", {evil: [(1, 10.0, 1.0), (10, 50.0, 1.0)]})
    figures = [{"file": "ipc.svg", "caption": evil}]
    memories, attacked = (
        [r | {"cell": evil} for r in continual_rows(CONTINUAL)],
        [r | {"cell": evil} for r in membership_rows(MEMBERSHIP)],
    )
    rows = [row() | {"cell": evil, "verdict": evil}, row() | {"cell": "b", "baseline": evil}]
    curves = {evil: {"0": [{"step": s, "accuracy": 10.0 * s, "cpu_s": 60.0 * s, "wall_s": 60.0 * s} for s in (1, 2)]}}
    content = results(suite, evil, rows, continual=memories, membership=attacked, figures=figures, curves=curves)
    content["provenance"] = [evil]
    write_page(tmp_path, [content], paired(rows))
    page = (tmp_path / "index.html").read_text()
    assert page.count("<script") == 1 and page.count("&lt;script&gt;") >= 20, "ours alone"
    assert "Continual learning" in page and "Membership inference" in page and "Paired comparisons" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "@import" not in page and "url(" not in page
    assert "<script>" not in (suite / "ipc.svg").read_text()
    assert "prefers-color-scheme: dark" in page and "@media print" in page and 'name="viewport"' in page


def test_markup_in_names_stays_text_in_the_readme_of_reports(tmp_path):
    evil = "a|b`c\n## <b>d"
    content = results(tmp_path, "s", [row() | {"verdict": evil, "network": evil}])
    content["provenance"] = [evil]
    write_page(tmp_path, [content], [])
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{row()['cell']}`")]
    assert line.count("|") - line.count("\\|") == 10 and line.count("a\\|b'c ## &lt;b>d") == 2
    assert "- a\\|b'c ## &lt;b>d" in lines


def test_links_of_the_page_lead_to_its_suites_with_rows(tmp_path):
    write_page(
        tmp_path, [results(tmp_path, "b", [row()]), results(tmp_path, "a", [row()]), results(tmp_path, "none")], []
    )
    page = (tmp_path / "index.html").read_text()
    links = set(re.findall(r'href="#(.*?)"', page))
    assert links >= {"a", "b", "rows", "cell-frepo-frepo-cifar10-ipc1"} and "none" not in links
    assert all(f'id="{link}"' in page for link in links)


def test_a_single_network_has_no_deviation(tmp_path):
    several, single = row(), row() | {"cell": "single", "n_networks": 1, "n_seeds": 1}
    pages = []
    for rows in ([several], [single]):
        write_page(tmp_path, [results(tmp_path, rows=rows)], [])
        cells = re.findall(r'<td class="n" data-sort="[\d.]+">(.*?)</td>', (tmp_path / "index.html").read_text(), re.S)
        lines = (tmp_path / "README.md").read_text().splitlines()
        (line,) = [each for each in lines if each.startswith(f"| `{rows[0]['cell']}`")]
        assert line.count("|") == 10, "as many columns as the table's head"
        pages.append([cell.count("±") for cell in [*cells[:2], line.split("|")[3]]])
    assert pages == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (172800, "2.0 days")],
)
def test_times_are_short_to_read(seconds, shown):
    assert duration(seconds) == shown


def test_accuracy_during_distillation_is_drawn_and_written_where_it_was_watched(tmp_path):
    points = [{"step": s, "accuracy": a, "wall_s": 2.0 * s, "cpu_s": 3.0 * s} for s, a in ((5, 10.0), (10, 50.25))]
    rows = [row() | {"cell": name} for name in ("often", "once")]
    curves = {"often": {"0": points, "2": points}, "once": {"0": points[1:]}}
    write_page(tmp_path, [results(tmp_path, rows=rows, curves=curves)], [])
    page = (tmp_path / "index.html").read_text()
    assert page.count("<title>often, seed 0</title>") == 1 and "<title>once, seed" not in page
    assert "<title>often, seed 2: 50.2 % after 30 s</title>" in page, "against processor time too"
    assert page.count("<title>46.8 published</title>") == 1, "beside the published figure"
    learning_curves(tmp_path, curves)
    assert (tmp_path / "steps.csv").read_text().splitlines()[:3] == [
        "cell,seed,step,accuracy,wall_s,cpu_s", "often,0,5,10.0,10.0,15.0", "often,0,10,50.25,20.0,30.0"
    ]  # fmt: skip


def test_a_chart_places_values_where_its_axes_say():
    dots = [{"x": x, "y": x, "kind": "dc", "title": "t", "href": "#a"} for x in (0, 100)]
    drawn = chart("c", "x", "y", percent=True, dots=dots, marks=[{"x": 50.0, "title": "m"}])
    (first, last), (mark,), equal = drawn["dots"], drawn["marks"], drawn["equal"]
    assert [(dot["cx"], dot["cy"]) for dot in (first, last)] == equal, "equal values lie on the line"
    assert mark["cx"] == pytest.approx((first["cx"] + last["cx"]) / 2) and first["cy"] > last["cy"]
    assert {text: at for at, text in drawn["x"].ticks()}["0"] == first["cx"]
    lines = [{"points": [(1.0, 5.0), (10.0, 6.0), (100.0, 7.0)], "kind": "dc", "title": "t", "href": "#a"}]
    drawn = chart("c", "x", "y", log=True, lines=lines)
    xs = [float(pair.split(",")[0]) for pair in drawn["lines"][0]["path"].split()]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11), "equal ratios are equal lengths"
    assert chart("c", "x", "y", marks=[{"x": 1, "title": "m"}]) is None


def test_published_figures_are_counted_once_by_their_best_row():
    def figure(cell, mean, network="conv3", status="published"):
        return {"cell": cell, "method": "frepo", "dataset": "cifar10", "ipc": 1, "network": network, "mean": mean,
                "source": row()["published_source"], "status": status}  # fmt: skip

    published = [figure("a", 46.8), figure("b", 46.8), figure("c", 60.0), figure("d", 50.0, status="unverified")]
    reached, below = row() | {"cell": "a"}, row(distilled=((40.0,),)) | {"cell": "b"}
    found = counts([below, reached], published)
    assert (found["all"], found["reached"], found["below"], found["not run yet"]) == (2, 1, 0, 1)
    drawn = overview([below, reached], published)
    assert [mark["title"] for mark in drawn["marks"]] == ["c on conv3: 60.0, not run yet"]
    assert [dot["hollow"] for dot in drawn["dots"]] == [False, False]


def test_a_gallery_comes_back_as_its_own_pixels_with_a_name_for_each_class(tmp_path):
    pixels = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    save_gallery(tmp_path / "g.png", pixels, 10)
    stored = {"x": pixels, "y": torch.eye(10).repeat_interleave(2, 0)}
    cfg = SimpleNamespace(class_steps=1, seeds=[3])
    figure = {"file": "g.png", "cell": row()["cell"], **gallery(stored, list("abcdefghij"), cfg)}
    content = results(tmp_path, rows=[row()], figures=[figure])
    write_page(tmp_path, [content], [])
    tiles = content["figures"][0]["tiles"]
    assert [tile["name"] for tile in tiles] == list("abcdefghij")
    picture = Image.open(io.BytesIO(base64.b64decode(tiles[7]["uri"].split(",")[1])))
    expected = (pixels[14:16, 0] * 255).round().to(torch.uint8)
    assert np.array_equal(np.asarray(picture.convert("L")), np.concatenate(list(expected.numpy()), 1))
    assert figure["width"] % picture.width == 0 and figure["width"] // picture.width == figure["height"] // 8
    assert gallery(stored, None, cfg)["names"][3] == "class 3"
    schedule = stored | {"lr": torch.ones(1, 2)}
    assert gallery(schedule, None, cfg)["names"] == ["minibatch 1", "minibatch 2"]
    five = {"x": pixels[:5], "y": torch.rand(5, 10)}
    assert gallery(five, None, cfg)["names"][:2] == ["image 1", "image 2"]
    turned = {"x": pixels, "y": torch.eye(10).flip(0).repeat_interleave(2, 0)}
    assert gallery(turned, list("abcdefghij"), SimpleNamespace(class_steps=5, seeds=[0]))["names"][0] == "j"


def test_where_results_come_from_is_one_line_a_device():
    made = [
        ("CPU", "2.11", "b", "2026-01-02"),
        ("CPU", "2.11", "a", "2026-01-03"),
        ("CPU", "2.11", "b", "2026-01-02"),
        ("H200", "2.11", "c", None),
    ]
    computed = [{"device": d, "torch": t, "commit": c} | ({"date": at} if at else {}) for d, t, c, at in made]
    assert provenance_lines(computed) == [
        "Computed on CPU, torch 2.11, commits b (2026-01-02), a (2026-01-03)",
        "Computed on H200, torch 2.11, commit c (no date)",
    ]


def test_plots_are_the_same_bytes_for_the_same_data(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot_continual(tmp_path / name, {"memory": [np.array([1, 2]), np.array([10.0, 50.0]), np.array([1.0, 2.0])]})
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_cells_that_were_not_run_are_not_listed(project, monkeypatch, tmp_path):
    from stages.report import stage

    monkeypatch.chdir(tmp_path)
    params = load_params(project / "params.yaml")
    stage(Settings.of(recipes(params)["report"]["frepo"]), params.runtime)
    assert json.loads((tmp_path / "reports/frepo/results.json").read_text())["rows"] == []


def test_budget_column_of_the_reduced_suite():
    cells = load_params().cells.values()
    assert {c.budget for c in cells if c.suite == "reduced"} == {"reduced"}
    assert next(iter(cells)).budget == "full"


def of_seeds(cell, seeds, accuracies, **more):
    return {
        "cell": cell,
        "network": "conv3",
        "baseline": None,
        "seeds": seeds,
        "accuracy_seeds": accuracies,
        "protocol": "p",
        "steps": 5,
        "budget": "full",
        "ipc": 1,
    } | more


def test_a_pair_is_compared_over_the_seeds_that_both_have():
    ours, base = [50.0, 53.0, 51.0, 54.0, 52.0], [49.0, 51.5, 50.5, 52.0, 99.0]
    rows = [of_seeds("a", [0, 1, 2, 3, 4], ours, baseline="b"), of_seeds("b", [0, 1, 2, 3, 7], base)]
    (pair,) = paired(rows)
    assert pair["seeds"] == [0, 1, 2, 3] and pair["differences"] == [1.0, 1.5, 0.5, 2.0] and pair["mean"] == 1.25
    deviation = (sum((d - 1.25) ** 2 for d in pair["differences"]) / 3) ** 0.5
    half = 3.182446 * deviation / 2  # Student's t of 3 degrees of freedom
    assert (pair["low"], pair["high"]) == pytest.approx((1.25 - half, 1.25 + half), abs=0.01)
    assert 0 < pair["p"] < 0.05 and pair["verdict"] == "better by 1.2 points"


def test_a_difference_below_the_noise_is_called_that():
    rows = [
        of_seeds("a", [0, 1, 2, 3], [50.0, 53.0, 51.0, 54.0], baseline="b"),
        of_seeds("b", [0, 1, 2, 3], [51.0, 52.0, 52.0, 53.5]),
    ]
    (pair,) = paired(rows)
    assert (
        pair["low"] < 0 < pair["high"] and pair["verdict"] == "no significant difference: below the noise of the seeds"
    )


def test_one_seed_is_no_test_and_unequal_settings_are_named():
    rows = [
        of_seeds("a", [0], [50.0], baseline="b", steps=9),
        of_seeds("b", [0], [51.0]),
        of_seeds("c", [5], [1.0], baseline="b"),
        of_seeds("d", [0], [1.0], baseline="z"),
    ]
    first, second = paired(rows)
    assert first["verdict"] == "-1.0 points; 1 seed(s) in common: no test; not alike in steps" and first["p"] is None
    assert second["verdict"] == "no seed in common" and second["mean"] is None


def test_continual_rows_average_over_orders_networks_and_steps():
    distilled, random = continual_rows(CONTINUAL)
    assert distilled["classes_seen"] == [5, 10] and distilled["mean"] == [85.0, 55.0] and distilled["std"] == [5.0, 5.0]
    assert (distilled["average_accuracy"], distilled["forgetting"], distilled["final_orders"]) == (
        70.0,
        25.0,
        [60.0, 50.0],
    )
    assert (random["memory"], random["orders"], random["networks"]) == ("random", 2, 1)


def test_membership_rows_name_the_strongest_attack_but_never_the_control():
    found = membership_rows(MEMBERSHIP)[0]
    assert found["best"] == "threshold" and found["control"] == 0.9 and found["accuracy_mean"] == 91.0
    assert found["attacks"]["threshold"] == {
        "auc": 0.65,
        "balanced_accuracy": 0.55,
        "tpr_at_0.1": 0.002,
        "tpr_at_1": 0.02,
        "auc_half_interval": 0.0392,
        "networks": 2,
    }


def test_figures_of_a_suite_are_written_and_described(tmp_path):
    key = "frepo-frepo-cifar10-ipc10"
    cell = load_params().cells[key]
    rows = [make_row(key, cell, net, measured(net), HISTORY, published_figures()) for net in ("conv3", "alexnet")] + [
        row()
    ]
    grid = grid_figures(tmp_path, rows)
    applied = application_figures(tmp_path, continual_rows(CONTINUAL), membership_rows(MEMBERSHIP))
    assert [f["file"] for f in grid + applied] == [
        "ipc.svg",
        "networks.svg",
        "c.continual.svg",
        "m.membership.svg",
    ]
    heat = (tmp_path / "networks.svg").read_text()
    assert heat.count(">47.0<") == 2 and "alexnet" in heat and key in heat and "cifar10-ipc1<" not in heat
    assert (
        "random real images" in (tmp_path / "c.continual.svg").read_text()
        and "on the chunk itself" in (tmp_path / "m.membership.svg").read_text()
    )
    assert grid_figures(tmp_path, []) == [] == application_figures(tmp_path, [], [])


def test_a_set_of_a_chunk_or_of_class_steps_has_no_plain_figure():
    for key in ("reduced-frepo-mnist-ipc1-steps5", "reduced-frepo-mnist-ipc10-chunk10000"):
        found = row(key, "conv3-w32")
        assert found["published_mean"] is None and found["unverified_mean"] is None
    assert row("reduced-frepo-mnist-ipc1")["unverified_mean"] == 93.0


def test_figures_of_dataset_distillation_belong_to_cells():
    found = row("dd-dd-mnist-ipc1-fixed", "lenet_dd", distilled=((93.8,), (93.0,)))
    assert (
        found["published_mean"] == 94.0
        and found["published_std"] is None
        and found["verdict"].startswith("below (-0.6)")
    )
    assert row("dd-dd-mnist-ipc1-fixed", "conv3")["published_mean"] is None
    assert row("dd-dd-mnist-ipc10-fixed", "lenet_dd")["unverified_mean"] == 96.6
    cell, figures = load_params().cells["tdd-sldd-imdb-ipc1-fixed"], measured("textconv", ((70.0,),))
    figures["nets"]["textconv"]["distilled"]["at_half"] = [[78.0]]
    found = make_row("tdd-sldd-imdb-ipc1-fixed", cell, "textconv", figures, HISTORY, published_figures())
    assert found["accuracy_mean"] == 70.0 and found["verdict"].startswith("reached (-0.3)"), (
        "compared by the threshold of the published figure"
    )
    assert row("tdd-sldd-trec6-ipc1-fixed-twitter", "textlstm")["verdict"].startswith("no published figure"), (
        "other vectors, another row"
    )


def test_learned_labels_are_drawn_and_others_not(tmp_path):
    learned = torch.tensor([[2.5, -0.4], [0.3, 0.9]])
    (figure,) = label_figure(tmp_path, "k", learned)
    assert ">-0.4<" in (tmp_path / figure["file"]).read_text().replace("\u2212", "-")
    assert label_figure(tmp_path, "k", torch.eye(5)) == [] == label_figure(tmp_path, "k", torch.randn(100, 10))


def test_sentences_and_baselines_are_on_the_page_and_escaped(tmp_path):
    cell, figures = load_params().cells["dd-dd-mnist-ipc1-fixed"], measured("lenet_dd")
    figures["nets"]["lenet_dd"] |= {
        "baselines": {"average_real": [[28.0, 32.0]]},
        "perturbed": {"0.01": [[80.0, 91.04], [77.06, 90.0]]},
    }
    found = make_row("dd-dd-mnist-ipc1-fixed", cell, "lenet_dd", figures, HISTORY, published_figures())
    sentences = {"cell": [{"words": "great <br />movie <script>", "label": [2.58]}]}
    write_page(tmp_path, [results(tmp_path, "tdd", [found], sentences=sentences)], [])
    page = (tmp_path / "index.html").read_text()
    assert "great &lt;br /&gt;movie &lt;script&gt;" in page and page.count("<script>") == 1 and "2.58" in page
    assert "average real" in page and "30.0 ± 2.0" in page
    assert "by 0.01" in page and "80.0 to 91.0, 77.1 to 90.0" in page


def test_preview_of_sentences_is_words_and_of_minibatches_a_row_each(tmp_path):
    words = WordVectors(["<unk>", "<pad>", "good", "bad"], torch.eye(4), 2)
    part = {
        "x": torch.eye(4)[torch.tensor([[2, 3], [3, 3]])].unsqueeze(1),
        "y": torch.tensor([[1.5], [-0.5]]),
        "lr": torch.ones(1, 1),
    }
    path = save_preview(tmp_path / "seed0.safetensors", [part], SimpleNamespace(preprocess=words, num_classes=2))
    assert json.loads(path.read_text()) == [
        {"words": "good bad", "label": [1.5]},
        {"words": "bad bad", "label": [-0.5]},
    ]
    part = {"x": torch.rand(20, 1, 8, 8), "y": torch.eye(10).repeat(2, 1), "lr": torch.ones(1, 2)}
    plain = SimpleNamespace(preprocess=SimpleNamespace(invert=lambda x: x), num_classes=10)
    with Image.open(save_preview(tmp_path / "seed1.safetensors", [part], plain)) as sheet:
        assert sheet.width > 4 * sheet.height, "two rows of ten"


def test_large_pictures_stay_in_a_file_of_their_own_that_is_loaded_when_it_is_seen(tmp_path):
    (folder := tmp_path / "s").mkdir()
    pixels = torch.rand(10, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    save_gallery(folder / "g.png", pixels, 10)
    stored, cfg = {"x": pixels, "y": torch.eye(10)}, SimpleNamespace(class_steps=1, seeds=[0])
    figure = {"file": "g.png", "cell": row()["cell"], **gallery(stored, None, cfg)}
    write_page(tmp_path, [results(folder, rows=[row()], figures=[figure])], [])
    page = (tmp_path / "index.html").read_text()
    assert '<img src="s/g.png" loading="lazy"' in page and len(page) < 60_000


def test_readmes_table_is_that_of_the_reports():
    text = (readme.ROOT / "README.md").read_text()
    assert text.split(readme.START)[1].split(readme.END)[0] == readme.table()
    assert len(text.splitlines()) <= 150
