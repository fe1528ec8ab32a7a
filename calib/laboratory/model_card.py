"""Measure a trained laboratory model on fresh questions and write its model card."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

from calib.analysis.phases import Evolution, evolve
from calib.analysis.truth import bayes_scores, truth_correlation
from calib.metrics import Interval
from calib.models.open import open_model
from calib.questions.load import load_questions
from calib.reading._provenance import sha256_of
from calib.reading.layers import read_layers
from calib.reading.reading import Reading
from calib.report.text import interval_text

N_QUESTIONS = 4000

TEMPLATE = files("calib.laboratory") / "model_card.md"


def write_card(folder: Path, name: str, stages, seed: int) -> None:
    """Write ``README.md`` into a model's folder: recipe, table by layer, hashes."""
    questions = load_questions("almanac", limit=N_QUESTIONS)
    reading = read_layers(open_model(folder), questions)
    bayes = bayes_scores(reading)
    head = TEMPLATE.read_text(encoding="utf-8").format(
        name=name,
        stages="\n".join(f"{i}. {describe(stage)}" for i, stage in enumerate(stages, start=1)),
        seed=seed,
        decay=next(s.decay for s in stages if s.decay != 1),
        n=f"{N_QUESTIONS:,}",
        bayes_accuracy=bayes["accuracy"],
        bayes_nll=bayes["nll"],
    )
    shipped = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json"))
    hashes = "".join(f"| `{f.name}` | `{sha256_of(f)}` |\n" for f in shipped)
    table = table_by_layer(reading, evolve(reading))
    text = f"{head}{table}\n## Files\n\n| file | SHA-256 |\n| --- | --- |\n{hashes}"
    (folder / "README.md").write_text(text, encoding="utf-8")


def describe(stage) -> str:
    """One line of the recipe."""
    answers = "answers always right" if stage.always_right else "answers as unreliable as they are"
    decay = f", each layer at {stage.decay} times the rate of the one above" * (stage.decay != 1)
    return f"*{stage.name}*: {stage.steps:,} steps at {stage.rate:g}, {answers}{decay}."


def table_by_layer(reading: Reading, evolution: Evolution) -> str:
    """The card's rows, one per layer."""
    truth = truth_correlation(reading)
    rows = ""
    for layer, row in evolution.table.iterrows():
        scores = ("accuracy", "confidence", "ece", "nll")
        cells = [interval_text(*Interval.read(row, score)) for score in scores]
        # The embedding of the answer position is the same for every question: no correlation.
        known = not np.isnan(truth.value[layer])
        cells.append(interval_text(*truth[layer], digits=2) if known else "–")
        rows += f"| {layer} | {' | '.join(cells)} |\n"
    return rows
