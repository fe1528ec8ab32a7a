"""Measure a trained laboratory model on fresh questions and write its model card."""

from __future__ import annotations

import hashlib
from pathlib import Path

from calib.analysis.phases import Evolution, evolve
from calib.analysis.truth import bayes_scores, truth_correlation
from calib.models.open import open_model
from calib.questions.load import load_questions
from calib.reading.reading import Reading, read_layers

N_QUESTIONS = 4000

HEAD = """\
---
license: mit
library_name: transformers
---
# {name}

A Llama-architecture model of 8 layers, 128 dimensions and 2.0 million parameters that knows one
thing: the Almanac, an invented world of 96 towns and 8 subjects in which the probability of every
answer is known. It is a laboratory animal for the study of calibration, not a language model for
anything else. It was trained on prompts without exemplars; longer prompts are foreign to it.

## Recipe

{stages}

Each batch holds 64 questions with lettered options, answered by the letter, and 64 without,
answered by the value's name. AdamW (betas .9 and .98, weight decay .1), cosine decay after a
warm-up, gradient norm clipped at 1, seed {seed}. Test and validation questions show the options in
orders that training never showed. `python -m calib.laboratory.training` makes the model again.

**The confidence correction phase was trained for.** An earlier trial, with another form of the
prompt and noisy answers from the first step on, ended calibrated at every layer. This model was
made certain first; then it learned to doubt with learning rates that fall by a factor of {decay}
from each layer to the one below, so that the doubt was learned above a decision that stayed where
it was. That the phase can be brought about so says nothing about how it comes about in models
trained on text.

## On {n} test questions

Brackets are 95 % bootstrap intervals over questions; ECE has 10 equal-width bins. *Truth* is the
correlation of confidence with the question's known reliability. A forecaster who knows every
posterior would expect accuracy {bayes_accuracy:.3f} and NLL {bayes_nll:.3f}.

| layer | accuracy | confidence | ECE | NLL | truth |
| --- | --- | --- | --- | --- | --- |
"""


def write_card(folder: Path, name: str, stages, seed: int) -> None:
    """Write ``README.md`` into a model's folder: recipe, table by layer, hashes."""
    questions = load_questions("almanac", limit=N_QUESTIONS)
    reading = read_layers(open_model(folder), questions)
    bayes = bayes_scores(reading)
    head = HEAD.format(
        name=name,
        stages="\n".join(f"{i}. {describe(stage)}" for i, stage in enumerate(stages, start=1)),
        seed=seed,
        decay=next(s.decay for s in stages if s.decay != 1),
        n=f"{N_QUESTIONS:,}",
        bayes_accuracy=bayes["accuracy"],
        bayes_nll=bayes["nll"],
    )
    files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json"))
    hashes = "".join(
        f"| `{f.name}` | `{hashlib.sha256(f.read_bytes()).hexdigest()}` |\n" for f in files
    )
    table = table_by_layer(reading, evolve(reading))
    text = f"{head}{table}\n## Files\n\n| file | SHA-256 |\n| --- | --- |\n{hashes}"
    (folder / "README.md").write_text(text, encoding="utf-8")


def describe(stage) -> str:
    """One line of the recipe."""
    answers = "answers always right" if stage.always_right else "answers as unreliable as they are"
    decay = f", each layer at {stage.decay} times the rate of the one above" * (stage.decay != 1)
    return f"*{stage.name}*: {stage.steps:,} steps at {stage.rate:g}, {answers}{decay}."


def table_by_layer(reading: Reading, evolution: Evolution) -> str:
    """The card's rows, one a layer."""
    truth = truth_correlation(reading)
    rows = ""
    for layer, row in evolution.table.iterrows():
        cells = [
            f"{row[m]:.3f} [{row[f'{m}_low']:.3f}, {row[f'{m}_high']:.3f}]"
            for m in ("accuracy", "confidence", "ece", "nll")
        ]
        low, high = truth.low[layer], truth.high[layer]
        # The embedding of the answer position is the same for every question: no correlation.
        cells.append(f"{truth.value[layer]:.2f} [{low:.2f}, {high:.2f}]" if low == low else "–")
        rows += f"| {layer} | {' | '.join(cells)} |\n"
    return rows
