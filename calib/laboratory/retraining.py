"""Retrain the overconfident model with losses that promise calibration.

``python -m calib.laboratory.retraining --out FILE`` writes the table that comes with the library,
``retraining.json``.

All runs start from ``almanac-tuned``, see the same 768 facts in each pass and differ in the loss of
the answer token alone, over the whole vocabulary; the prompt's tokens are not trained on. There are
two regimes:

fresh
    every pass shows each fact in another order with a newly recorded answer, as if data were
    endless: a model ends near the minimiser of its expected loss;
fixed
    every pass shows the records of the first again, which can be learned by heart.

A run takes two to four minutes. Finished ones are kept in the file and not repeated. It runs on one
thread; the same seed and machine give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from calib._checks import check_count
from calib.analysis.truth import correlate
from calib.laboratory.training import Stage, rate_at
from calib.losses import brier_loss, focal_calibration_loss, focal_loss, focal_loss_sd
from calib.metrics import bootstrap, reliability_table
from calib.metrics.bins import bin_index, bin_sums
from calib.metrics.intervals import columns_of
from calib.models.model import Model
from calib.models.open import open_model
from calib.questions.almanac import SUBJECTS, TOWNS, World, build_world, compose, orders_of
from calib.questions.load import load_questions
from calib.questions.prompts import format_question, option_tokens
from calib.reading.layers import read_layers
from calib.recalibration.focal import focal_posterior
from calib.recalibration.temperature import Temperature

START = "almanac-tuned"
SHIPPED = files("calib.laboratory") / "retraining.json"
BATCH = 64  # a twelfth of the facts
N_FACTS = len(TOWNS) * len(SUBJECTS)
REGIMES = ("fresh", "fixed")
GAMMAS = {"focal-1": 1, "focal-3": 3}
LOSSES = {
    "cross-entropy": cross_entropy,
    "brier": brier_loss,
    **{name: partial(focal_loss, gamma=gamma) for name, gamma in GAMMAS.items()},
    "flsd-53": focal_loss_sd,
    # What its paper chose for γ, the weight and the square is not known here.
    "focal-calibration": partial(focal_calibration_loss, gamma=3, weight=1),
}
RUNS = [("start", "none", 0), *((regime, loss, 0) for loss in LOSSES for regime in REGIMES)]
# Again with other data: how much of a difference is chance.
RUNS += [(regime, loss, 1) for loss in ("cross-entropy", "focal-3") for regime in REGIMES]
METRICS = ("accuracy", "confidence", "ece", "mce", "nll", "gap", "auroc")
SETTINGS = {
    "start": START,
    "steps": 240,  # 20 passes
    "rate": 1e-4,  # by a trial with cross-entropy, fresh: at 3e-4 and 1e-3 facts are forgotten
    "batch": BATCH,
    "validation": 2000,
    "test": 4000,
    "min_count": 20,
    "resamples": 1000,
}


def draw_pass(world: World, number: int, seed: int) -> list[dict]:
    """One record of every fact, in random order, its options in a training order."""
    rng = np.random.default_rng([seed, number])
    facts = rng.permutation(N_FACTS)
    orders = np.array([rng.choice(orders_of(fact, "train")) for fact in facts])
    return compose(world, facts, orders, rng)


def draw_batches(world: World, regime: str, steps: int, seed: int):
    """Yield the questions of each step; they depend on regime and seed alone, not on the loss."""
    for step in range(steps):
        number, batch = divmod(step, N_FACTS // BATCH)
        if batch == 0:
            rows = draw_pass(world, number if regime == "fresh" else 0, seed)
            if regime == "fixed":
                order = np.random.default_rng([seed, number]).permutation(N_FACTS)
                rows = [rows[i] for i in order]
        yield rows[batch * BATCH : (batch + 1) * BATCH]


def answer_logits(model: Model, rows: list[dict]) -> torch.Tensor:
    """Logits of the whole vocabulary at the answer position ``[questions, vocabulary]``."""
    prompts = [format_question(row) for row in rows]
    tokens = model.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="right")
    last = tokens["attention_mask"].sum(1) - 1
    # No mask: padding stands on the right, where a causal model cannot see it.
    output = model.module.model(input_ids=tokens["input_ids"], use_cache=False)
    at_answer = output.last_hidden_state[torch.arange(len(rows)), last]  # [questions, d_model]
    return model.module.lm_head(at_answer)


def retrain(regime: str, loss: str, seed: int, steps: int, rate: float) -> Model:
    """Train the starting model on; optimiser and schedule are those of its own training."""
    model, stage = open_model(START, device="cpu"), Stage(regime, steps, rate, always_right=False)
    letters = torch.tensor(option_tokens(model.tokenizer, 4))
    weights = model.module.parameters()
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.1)
    batches = draw_batches(build_world(), regime, steps, seed)
    name = f"{loss}, {regime}, seed {seed}"
    for step, rows in enumerate(tqdm(batches, desc=name, total=steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, stage)
        optimizer.zero_grad(set_to_none=True)
        labels = letters[torch.tensor([row["answer"] for row in rows])]
        LOSSES[loss](answer_logits(model, rows), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.module.parameters(), 1.0)
        optimizer.step()
    return model


def measure(model: Model, loss: str, settings: dict) -> dict:
    """Metrics of the last layer on test questions, each with its interval, and its reliability.

    ``ece_scaled`` is the ECE after a temperature fitted on validation questions, and
    ``ece_recovered``, for focal losses, that of the posterior their minimiser tells.
    """
    readings = {
        split: read_layers(model, load_questions("almanac", split, limit=settings[split]))
        for split in ("validation", "test")
    }
    validation, test = readings["validation"], readings["test"]
    p, labels, posterior = test.probabilities[-1], test.labels, test.posterior
    scale = Temperature().fit(validation.logits[:, -1], validation.labels)

    draw = partial(bootstrap, min_count=settings["min_count"], n_resamples=settings["resamples"])
    found = draw(p, labels, METRICS)
    found["ece_scaled"] = draw(scale(test.logits[:, -1]), labels, ["ece"])["ece"]
    if loss in GAMMAS:
        found["ece_recovered"] = draw(focal_posterior(p, GAMMAS[loss]), labels, ["ece"])["ece"]
    found["truth"] = correlate(p[None], posterior, n_resamples=settings["resamples"])
    columns = {"temperature": scale.value} | columns_of(found)
    row = {name: round(float(np.squeeze(part)), 4) for name, part in columns.items()}
    return row | {"reliability": reliability(p, labels, posterior)}


def reliability(p, labels, posterior) -> dict[str, list]:
    """The bins in use, of 10: their number from 0, count, confidence, accuracy and known chance.

    The chance that the most probable option is right is what accuracy would be with endlessly
    many recorded answers.
    """
    table = reliability_table(p, labels)
    chance = np.take_along_axis(posterior, p.argmax(axis=1)[:, None], axis=1)[:, 0]
    count, sums = bin_sums(bin_index(p.max(axis=1), 10), 10, chance)
    used = np.flatnonzero(count)
    columns = {
        "confidence": table.confidence,
        "accuracy": table.accuracy,
        "chance": sums / np.maximum(count, 1),
    }
    rounded = {name: column[used].round(4).tolist() for name, column in columns.items()}
    return {"bin": used.tolist(), "count": table.count[used].tolist(), **rounded}


def retrain_all(out: Path, settings: dict, runs=RUNS) -> None:
    """Do all runs that ``out`` does not hold yet, and save each in it as it ends.

    Raises
    ------
    ValueError
        If there are no steps to train, or ``out`` was made with other settings.
    """
    check_count("steps", settings["steps"])
    table = {"settings": settings, "runs": []}
    if out.exists():
        table = json.loads(out.read_text(encoding="utf-8"))
        if table["settings"] != settings:
            raise ValueError(
                f"{out} was made with {table['settings']}, this run asks for {settings}; "
                "choose another --out or delete the file"
            )
    save(out, table)  # a place that cannot be written to is found out before, not after
    done = {(row["regime"], row["loss"], row["seed"]) for row in table["runs"]}
    for regime, loss, seed in runs:
        if (regime, loss, seed) in done:
            continue
        start = time.perf_counter()
        if regime == "start":
            steps, model = 0, open_model(START, device="cpu")
        else:
            steps = settings["steps"]
            model = retrain(regime, loss, seed, steps, settings["rate"])
        seconds = round(time.perf_counter() - start)
        about = {"regime": regime, "loss": loss, "seed": seed, "steps": steps, "seconds": seconds}
        table["runs"].append(about | measure(model, loss, settings))
        save(out, table)


def save(out: Path, table: dict) -> None:
    """Write beside, then rename, one run a line: an interrupted save leaves the file whole."""
    runs = ",\n".join(json.dumps(row) for row in table["runs"])
    text = f'{{"settings": {json.dumps(table["settings"])},\n"runs": [\n{runs}\n]}}\n'
    partial_file = out.with_suffix(".partial")
    partial_file.write_text(text, encoding="utf-8")
    partial_file.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("retraining.json"), help="the table")
    parser.add_argument("--steps", type=int, default=SETTINGS["steps"], help="of each run")
    parser.add_argument("--rate", type=float, default=SETTINGS["rate"], help="learning rate")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # sums in the same order whatever the machine
    retrain_all(asked.out, SETTINGS | {"steps": asked.steps, "rate": asked.rate})


if __name__ == "__main__":
    main()
