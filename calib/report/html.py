"""The report's page: pictures, tables and words put into ``template.html``.

The page stands alone: its pictures are SVG within it, and it asks for no other file.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from importlib.resources import files

import matplotlib
import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib.figure import Figure

from calib import figures
from calib.analysis.phases import Evolution
from calib.analysis.subjects import by_subject
from calib.analysis.truth import bayes_scores, true_ece, truth_correlation
from calib.metrics import ReliabilityTable, reliability_table
from calib.reading.reading import Reading
from calib.report.text import finding, number_text, options_text

COLUMNS = ("accuracy", "confidence", "gap", "ece", "mce", "nll", "auroc")


@dataclass(frozen=True)
class Picture:
    """An SVG picture: its data URI, and its description in words."""

    uri: str
    alt: str


def render(
    reading: Reading, evolution: Evolution, name: str, *, settings: dict, made_with: dict
) -> str:
    """The page as one string of HTML.

    Parameters
    ----------
    reading : Reading
    evolution : Evolution
        Of this reading, made with ``settings``.
    name : str
        What the model is called.
    settings : dict
        ``n_bins``, ``min_count``, ``tolerance``, ``n_resamples`` and ``seed`` of the measuring.
    made_with : dict of str to str
        What the page says it was made with, line by line.
    """
    return fill(
        "template.html",
        name=name,
        finding=finding(evolution, name),
        n_questions=len(reading),
        n_options=options_text(reading.n_options),
        last=reading.n_layers,
        phases=draw_phases(evolution, name),
        ece=draw_ece(evolution),
        diagrams=draw_reliability(reading, evolution, settings["n_bins"]),
        columns=[figures.NAMES[metric] for metric in COLUMNS],
        layers=rows_by_layer(evolution),
        subjects=by_subject(reading, n_bins=settings["n_bins"], seed=settings["seed"]),
        truth=known_truth(reading, evolution, settings),
        settings=settings,
        made_with=made_with,
    )


def fill(template: str, **values) -> str:
    """A page: one of this folder's templates with values put in; a missing one is an error."""
    folder = files("calib.report")
    page = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters["number"] = number_text
    return page.get_template(template).render(**values)


def rows_by_layer(evolution: Evolution) -> dict[int, list[tuple[str, str]]]:
    """Cells of the table by layer: each a value and its interval, as printed."""
    return {
        layer: [cell(*evolution.interval(metric, layer)) for metric in COLUMNS]
        for layer in evolution.table.index
    }


def cell(value: float, low: float, high: float, digits: int = 3) -> tuple[str, str]:
    """A value and its interval as printed; no interval where there is no value.

    >>> cell(0.5, 0.4, 0.6), cell(float("nan"), float("nan"), float("nan"))
    (('0.500', '[0.400, 0.600]'), ('–', ''))
    """
    if np.isnan(value):
        return number_text(value), ""
    return number_text(value, digits), f"[{number_text(low, digits)}, {number_text(high, digits)}]"


def known_truth(reading: Reading, evolution: Evolution, settings: dict) -> dict | None:
    """What the page says where the posterior is known: Bayes scores, and a row for each layer."""
    if reading.posterior is None:
        return None
    follows = truth_correlation(reading, n_resamples=settings["n_resamples"], seed=settings["seed"])
    rows = {}
    for layer, true in enumerate(true_ece(reading, settings["n_bins"])):
        correlation = (follows.value[layer], follows.low[layer], follows.high[layer])
        measured = number_text(evolution.table["ece"][layer])
        rows[layer] = [(measured, ""), (number_text(true), ""), cell(*correlation)]
    last = evolution.table.iloc[-1]
    return {"bayes": bayes_scores(reading), "model": last, "rows": rows}


# Pictures


def draw_phases(evolution: Evolution, name: str) -> Picture:
    """Accuracy and mean confidence by layer, with the phases."""
    last = evolution.table.iloc[-1]
    alt = (
        f"Accuracy and mean confidence by layer, with their intervals. {finding(evolution, name)} "
        f"At the last layer accuracy is {number_text(last['accuracy'])} and mean confidence "
        f"{number_text(last['confidence'])}; the baseline is "
        f"{number_text(evolution.baseline_accuracy)}."
    )
    return draw_picture(lambda ax: figures.plot_phases(evolution, ax), alt)


def draw_ece(evolution: Evolution) -> Picture:
    """ECE by layer, with the phases."""

    def draw(ax):
        figures.plot_metric({"ECE": evolution}, "ece", ax, colors={"ECE": figures.COLORS["base"]})
        ax.set_ylim(bottom=0)
        figures.mark_phases(evolution, ax)

    error = evolution.table["ece"]
    alt = (
        f"ECE by layer, with its interval: {number_text(error.iloc[0])} at layer 0, "
        f"{number_text(error.iloc[-1])} at the last layer, {error.index[-1]}; it is largest at "
        f"layer {error.idxmax()}, {number_text(error.max())}."
    )
    return draw_picture(draw, alt)


def draw_reliability(reading: Reading, evolution: Evolution, n_bins: int) -> dict[str, Picture]:
    """Reliability diagrams by title: first layer, largest ECE from the decision on, last layer."""
    error = evolution.table["ece"]
    peak, last = int(error.loc[evolution.decision :].idxmax()), reading.n_layers
    roles = {0: ["the embedding"]}
    roles.setdefault(peak, []).append("largest ECE from the decision on")
    roles.setdefault(last, []).append("the last")
    pictures = {}
    for layer, said in roles.items():
        table = reliability_table(reading.probabilities[layer], reading.labels, n_bins)
        alt = f"Reliability diagram of layer {layer}: {describe(table)}"
        title = f"Layer {layer}: {', '.join(said)}. ECE {number_text(error[layer])}"
        pictures[title] = draw_picture(
            lambda ax, table=table: figures.plot_reliability(table, ax), alt, size=(3.6, 3.6)
        )
    return pictures


def describe(table: ReliabilityTable) -> str:
    """A reliability diagram in words.

    >>> p = np.array([[0.82, 0.18], [0.85, 0.15], [0.6, 0.4]])
    >>> describe(reliability_table(p, np.array([0, 0, 1])))
    '2 bins hold questions; accuracy lies below the mean confidence in 1 of them, above it in 1.'
    """
    full = table.count > 0
    gap = table.confidence[full] - table.accuracy[full]
    bins = "1 bin holds" if full.sum() == 1 else f"{full.sum()} bins hold"
    return (
        f"{bins} questions; accuracy lies below the mean confidence in {(gap > 0).sum()} of them, "
        f"above it in {(gap < 0).sum()}."
    )


def draw_picture(draw, alt: str, size=(5.2, 3.4)) -> Picture:
    """What ``draw`` puts on an axes, without a trace in pyplot or in the caller's style."""
    svg = io.BytesIO()
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=size)
        draw(figure.subplots())
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Picture("data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode(), alt)
