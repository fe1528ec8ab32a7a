"""A page on a reading that lm-evaluation-harness made: one layer, as it is and at a temperature."""

from __future__ import annotations

import re
from pathlib import Path

from calib import figures
from calib.metrics import reliability_table
from calib.reading.harness import UNTOLD, read_harness
from calib.reading.reading import Reading
from calib.report._faults import check_out, input_faults, writing
from calib.report._last_layer import (
    ADAPTIVE,
    ENOUGH,
    METRICS,
    Part,
    categories_of,
    change,
    measure,
    subjects_of,
    temper,
)
from calib.report.html import Picture, cell, describe, draw_picture, fill
from calib.report.text import interval_text, number_text, options_text
from calib.report.write import made_with, min_count

NAMES = figures.NAMES | {ADAPTIVE: "ECE, bins of equal mass"}
COLUMNS = ("accuracy", "confidence", "gap", "ece", "chance", "nll", "auroc", "ece_at_t", "nll_at_t")
HEADINGS = NAMES | {
    "chance": "ECE if perfectly calibrated", "ece_at_t": "ECE at T", "nll_at_t": "NLL at T",
}  # fmt: skip


def write_sample_report(files, out=None, *, seed: int = 0, command: str = "") -> tuple[Path, str]:
    """Measure what lm-evaluation-harness recorded, and write ``index.html`` and ``reading/``.

    Parameters
    ----------
    files : list of str or Path
        As :func:`calib.reading.read_harness` takes them.
    out : str or Path, optional
        The folder to write: new, empty, or that of a former report; ``report-<model>`` if not
        given.
    seed : int
        Of the halves that temperatures are fitted on, of the bootstrap and of all other draws.
    command : str
        The command line, for the page to tell.

    Returns
    -------
    page : Path
    finding : str
        A few sentences.

    Raises
    ------
    InputFault
        If the folder or the files cannot be used.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> asked = {f"gen_args_{i}": {"arg_0": "1 + 1 =", "arg_1": f" {i + 1}"} for i in (0, 1)}
    >>> line = {"doc_id": 0, "doc": {}, "target": "1", "arguments": asked, "acc": 1.0}
    >>> line["filtered_resps"] = [["-3.0", "False"], ["-1.0", "True"]]
    >>> file = folder / "samples_sums_2026-11-28T13-31-00.jsonl"
    >>> _ = file.write_text(json.dumps(line))
    >>> page, said = write_sample_report([file], folder / "report")
    >>> print(page.name, said[:39], sep=": ")
    index.html: On 1 question a model without a name is
    """
    with input_faults():
        reading = read_harness(files)
    name = name_of(reading)
    out = Path(out or "report-" + re.sub(r"[^\w.-]+", "-", name))
    check_out(out)
    page = out / "index.html"
    settings = {"n_bins": 10, "min_count": min_count(len(reading)), "n_resamples": 1000}
    text, said = render_samples(reading, name, settings | {"seed": seed}, command)
    with writing(out):
        page.unlink(missing_ok=True)  # a former one never stands beside a new reading
        reading.save(out / "reading")
        page.write_text(text, encoding="utf-8", errors="backslashreplace")
    return page, said


def name_of(reading: Reading) -> str:
    """What the page calls the model: as the harness did, but a path by its last part.

    >>> import numpy as np
    >>> models = ("org/model", "/home/me/model", "not told")
    >>> told = ({"model": model} for model in models)
    >>> [name_of(Reading(np.zeros((1, 1, 2)), [0], ["law"], provenance=about)) for about in told]
    ['org/model', 'model', 'a model without a name']
    """
    model = reading.provenance["model"]
    if model == UNTOLD:
        return "a model without a name"
    return Path(model).name if model.startswith(("/", ".", "~")) or "\\" in model else model


def render_samples(reading: Reading, name: str, settings: dict, command: str) -> tuple[str, str]:
    """The page as one string of HTML, and its finding."""
    tempered, temperature, refusal = None, None, ""
    try:
        tempered, temperature = temper(reading, settings["seed"])
    except ValueError as error:
        refusal = str(error)
    every = measure(reading, tempered, settings)
    categories, subjects = (
        {of: measure(reading, tempered, settings, mask) for of, mask in masks.items()}
        for masks in (categories_of(reading), subjects_of(reading))
    )
    said = finding_of(every, temperature, name)
    told = made_with(reading, command)
    text = fill(
        "samples.html",
        name=name,
        finding=said,
        n_questions=len(reading),
        n_options=options_text(reading.n_options),
        kinds=reading.provenance["options"],
        diagrams=draw_diagrams(reading, every, tempered, settings["n_bins"]),
        rows=rows_of_metrics(every),
        temperature=temperature and interval_text(*temperature, 2),
        refusal=refusal,
        headings=[HEADINGS[column] for column in COLUMNS],
        categories={of: row_of(part) for of, part in categories.items()},
        subjects={of: row_of(part) for of, part in subjects.items()},
        n_left_out=len(set(reading.subjects.tolist())) - len(subjects),
        enough=ENOUGH,
        settings=settings,
        files=reading.provenance["files"],
        made_with={label: value for label, value in told.items() if label != "files"},
    )
    return text, said


def rows_of_metrics(part: Part) -> dict[str, list[tuple[str, str]]]:
    """Cells by metric: as recorded and by chance, both at the temperature, and the change."""
    rows = {}
    for metric in (*METRICS[:4], ADAPTIVE, *METRICS[4:]):
        before = part.scores[metric]
        row = [cell(*before), chance_cell(part.chance, metric)]
        if part.tempered:
            after = part.tempered[metric]
            row += [cell(*after), chance_cell(part.tempered_chance, metric)]
            row += [cell(*change(before, after))]
        rows[NAMES[metric]] = row
    return rows


def chance_cell(chance: dict[str, float], metric: str) -> tuple[str, str]:
    """What a perfectly calibrated model would show, where that is not nothing; it has no interval.

    >>> chance_cell({"ece": 0.0123}, "ece"), chance_cell({"ece": 0.0123}, "nll")
    (('0.012', ''), ('', ''))
    """
    return (number_text(chance[metric]) if metric in chance else "", "")


def row_of(part: Part) -> tuple[int, list[tuple[str, str]]]:
    """Questions, and cells of :data:`COLUMNS`, of a category or a subject."""
    nothing = cell(*[float("nan")] * 3)
    after = {
        f"{metric}_at_t": cell(*part.tempered[metric]) if part.tempered else nothing
        for metric in ("ece", "nll")
    }
    found = {metric: cell(*interval) for metric, interval in part.scores.items()} | after
    found["chance"] = chance_cell(part.chance, "ece")
    return part.n_questions, [found[column] for column in COLUMNS]


def draw_diagrams(
    reading: Reading, part: Part, tempered: Reading | None, n_bins: int
) -> dict[str, Picture]:
    """Reliability diagrams by title: as recorded, and at the temperature."""
    drawn = {"As recorded": (reading.probabilities[-1], part.scores)}
    if tempered:
        drawn["At the best temperature"] = (tempered.probabilities[-1], part.tempered)
    pictures = {}
    for title, (p, found) in drawn.items():
        table = reliability_table(p, reading.labels, n_bins)
        pictures[f"{title}. ECE {number_text(found['ece'].value)}"] = draw_picture(
            lambda ax, table=table: figures.plot_reliability(table, ax),
            f"Reliability diagram: {describe(table)}",
            size=(3.6, 3.6),
        )
    return pictures


def finding_of(part: Part, temperature: tuple | None, name: str) -> str:
    """What the page says first: whether confidence is right, by how much, and what is left at T."""
    found = {metric: interval_text(*interval) for metric, interval in part.scores.items()}
    gap = part.scores["gap"]
    verdict = "neither reliably over- nor underconfident"
    if gap.low > 0:
        verdict = "overconfident"
    elif gap.high < 0:
        verdict = "underconfident"
    questions = "1 question" if part.n_questions == 1 else f"{part.n_questions:,} questions"
    said = (
        f"On {questions} {name} is {verdict}: its mean confidence is "
        f"{found['confidence']}, its accuracy {found['accuracy']}. ECE is {found['ece']}; as many "
        "questions of a perfectly calibrated model would show "
        f"{number_text(part.chance['ece'])} by chance."
    )
    if temperature is None:
        return said
    fall = change(part.scores["nll"], part.tempered["nll"])
    return (
        f"{said} At the best temperature, {interval_text(*temperature, 2)}, ECE is "
        f"{interval_text(*part.tempered['ece'])}, and NLL changes by {interval_text(*fall)} to "
        f"{number_text(part.tempered['nll'].value)}."
    )
