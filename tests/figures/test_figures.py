"""What the figures draw, read off the axes."""

import re
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from calib import Reading, evolve, figures
from calib.analysis import compare
from calib.metrics import ece, reliability_table, wilson


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture(scope="module")
def reading():
    """Three layers: chance, overconfident, corrected; 70 % are right from layer 1 on."""
    rng = np.random.default_rng(0)
    n = 2000
    labels = rng.integers(4, size=n)
    right = rng.random(n) < 0.7
    p = np.full((n, 3, 4), 0.25)
    answer = np.where(right, labels, (labels + 1) % 4)
    p[:, 0] = [0.4, 0.2, 0.2, 0.2]
    for layer, confidence in ((1, 0.95), (2, 0.7)):
        p[:, layer] = (1 - confidence) / 3
        p[np.arange(n), layer, answer] = confidence
    return Reading(np.log(p), labels, np.full(n, "astronomy"))


def test_a_reliability_diagram_shows_every_bin_that_holds_questions(ax, reading):
    p = np.array([[0.55, 0.45], [0.58, 0.42], [0.95, 0.05], [0.9, 0.1]])
    table = reliability_table(p, np.array([0, 1, 0, 0]))
    figures.plot_reliability(table, ax)
    (discs,) = ax.collections[1:]
    np.testing.assert_allclose(discs.get_offsets(), [[0.565, 0.5], [0.9, 1], [0.95, 1]])
    areas = discs.get_sizes() - 20
    np.testing.assert_allclose(areas / areas.sum(), [0.5, 0.25, 0.25])
    whiskers = ax.collections[0].get_segments()
    np.testing.assert_allclose(whiskers[0][:, 1], wilson(0.5, 2))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("confidence", "accuracy")


def test_questions_of_differing_numbers_of_options_are_drawn_at_their_confidence(ax):
    """Even answers: with two options at 1/2, with four at 1/4, here right as often as they say."""
    logits = np.zeros((6, 1, 4))
    logits[:2, :, 2:] = -np.inf
    labels, n_options = np.array([0, 1, 0, 1, 2, 3]), [2, 2, 4, 4, 4, 4]
    mixed = Reading(logits, labels, np.full(6, "s"), n_options=n_options)
    figures.plot_reliability(reliability_table(mixed.probabilities[0], mixed.labels), ax)
    (discs,) = ax.collections[1:]
    np.testing.assert_allclose(discs.get_offsets(), [[0.25, 0.25], [0.5, 0.5]])
    player = figures.to_player(figures.animate_reliability(mixed), "two discs on the diagonal")
    assert player.count("two discs on the diagonal") == 1


def test_a_metric_is_drawn_with_its_interval_and_its_name(ax, reading):
    evolution = evolve(reading, n_resamples=100)
    figures.plot_metric({"base": evolution, "mine": evolution}, "ece", ax)
    for line in ax.lines:
        np.testing.assert_array_equal(line.get_ydata(), evolution.table["ece"])
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.min() == evolution.table["ece_low"].min()
    assert edges.max() == evolution.table["ece_high"].max()
    assert [text.get_text() for text in ax.texts] == ["base", "mine"]
    assert [line.get_color() for line in ax.lines] == ["#0072B2", figures.COLORS["control"]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "ECE")


def test_names_at_the_same_height_are_spread(ax):
    for name, height in (("a", 0.5), ("b", 0.5), ("c", 0.51), ("d", 0.9)):
        figures.plot_band([0, 1], [0, height], [0, height], [0, height], ax, label=name)
    ax.set_ylim(0, 1)
    figures.spread_labels(ax)
    heights = {text.get_text(): text.xy[1] for text in ax.texts}
    assert heights["a"] == 0.5
    assert heights["d"] == 0.9
    assert all(b - a >= 0.07 - 1e-9 for a, b in pairwise(sorted(heights.values())))


def test_phases_are_marked_where_the_evolution_has_them(ax, reading):
    evolution = evolve(reading, n_resamples=100)
    figures.plot_phases(evolution, ax)
    places = {text.get_text(): text.xy[0] for text in ax.texts}
    assert places["onset"] == evolution.onset == 1
    assert places["decision"] == evolution.decision == 1
    assert places["correction"] == 1.5
    assert {"accuracy", "confidence", "baseline"} <= set(places)


def test_no_correction_is_not_marked(ax, reading):
    flat = Reading(reading.logits[:, [0, 2, 2]], reading.labels, reading.subjects)
    figures.plot_phases(evolve(flat, n_resamples=100), ax)
    assert "correction" not in [text.get_text() for text in ax.texts]


def test_the_player_has_a_frame_a_layer_a_description_and_no_network(reading):
    animation = figures.animate_reliability(reading)
    animation._draw_frame(1)
    title = animation._fig.axes[0].get_title()
    error = ece(reading.probabilities[1], reading.labels)
    assert title == f"Layer 1 of 2: ECE {error:.3f}"
    page = figures.to_player(animation, 'discs "on" the line')
    assert len(set(re.findall(r"frames\[(\d)\] = \"data:image/png", page))) == 3
    assert re.findall(r"<img [^>]*>", page)[0].startswith(
        '<img alt="discs &quot;on&quot; the line" id='
    )
    outside = re.findall(r'(?:src|href)="(https?://[^"]*)"', page)
    assert all("font-awesome" in url for url in outside)  # the book's build takes these out
    assert plt.get_fignums() == []


def test_a_map_shows_each_value_at_its_layer_and_strength_and_crosses_out_the_harmful():
    values = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    crossed = np.array([[False, False, True], [True, False, False]])
    figure, ax = plt.subplots()
    figures.plot_map([6, 7], [-1, 0, 1], values, ax, metric="ece", crossed=crossed)
    np.testing.assert_array_equal(ax.collections[0].get_array(), values)
    assert ax.collections[1].get_offsets().tolist() == [[1, 6], [-1, 7]]
    assert ax.get_ylabel() == "layer"
    assert figure.axes[1].get_ylabel() == "ECE"
    plt.close(figure)


def test_changes_stand_from_top_to_bottom_with_their_intervals():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=50)
    ways = {}
    for name in ("first", "second", "third"):
        p = rng.uniform(0.1, 0.9, size=50)
        ways[name] = np.stack([p, 1 - p], axis=1)
    comparison = compare(ways, labels, "first", min_count=1, n_resamples=50)
    figure, ax = plt.subplots()
    figures.plot_changes(comparison, "nll", ["third", "second"], ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["third", "second"]
    assert ax.get_yticks().tolist() == [1, 0]
    for place, name in ((1, "third"), (0, "second")):
        value, low, high = comparison.change(name, "nll")
        (line,) = (
            segment
            for lines in ax.collections
            for segment in lines.get_segments()
            if segment[0, 1] == place
        )
        assert line[:, 0].tolist() == [low, high]
        assert [value] in [list(dot.get_xdata()) for dot in ax.lines if dot.get_marker() == "o"]
    plt.close(figure)


def test_an_attribution_shows_each_route_with_its_interval():
    columns = {
        "write": [0.04, -0.01], "write_low": [0.03, -0.02], "write_high": [0.06, 0.01],
        "norm": [-0.12, 0.0], "norm_low": [-0.14, -0.01], "norm_high": [-0.11, 0.02],
    }  # fmt: skip
    effects = pd.DataFrame(columns, index=["MLP 8", "all"])
    ax = figures.plot_attribution(effects, "ece", plt.figure().add_subplot())
    bars = {bar.get_label(): [b.get_width() for b in bar] for bar in ax.containers if len(bar) == 2}
    assert bars == {"write": [0.04, -0.01], "norm": [-0.12, 0.0]}
    drawn = [segment for lines in ax.collections for segment in lines.get_segments()]
    ends = [tuple(np.round(segment[:, 0], 12)) for segment in drawn]
    assert ends == [(0.03, 0.06), (-0.02, 0.01), (-0.14, -0.11), (-0.01, 0.02)]
    assert ax.get_xlabel() == "change of ECE"
    plt.close("all")
