"""Numbers, intervals and phases in words."""

from __future__ import annotations

import math

from calib.analysis.phases import Evolution


def number_text(value: float, digits: int = 3) -> str:
    """A number as it is printed: with a true minus, and a dash where there is none.

    >>> number_text(-0.0501), number_text(-0.0001), number_text(float("nan"))
    ('−0.050', '0.000', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:z.{digits}f}".replace("-", "−")


def interval_text(value: float, low: float, high: float, digits: int = 3) -> str:
    """A value and its interval as the book writes them.

    >>> interval_text(-0.0021, -0.015, 0.0094)
    '−0.002 [−0.015, 0.009]'
    """
    value, low, high = (number_text(x, digits) for x in (value, low, high))
    return f"{value} [{low}, {high}]"


def options_text(n_options) -> str:
    """How many options the questions have.

    >>> options_text([4, 4]), options_text([13, 2, 4])
    ('4', '2 to 13')
    """
    least, most = min(n_options), max(n_options)
    return f"{least}" if least == most else f"{least} to {most}"


def finding(evolution: Evolution, name: str) -> str:
    """One sentence on the phases: onset, decision and correction, or that there is none.

    Parameters
    ----------
    evolution : Evolution
        Of tolerance 0.02, the "2 points" of the sentence.
    name : str
        What the model is called.

    Examples
    --------
    >>> from calib import evolve, load_questions, open_model, read_layers
    >>> reading = read_layers(open_model("almanac"), load_questions("almanac", limit=200))
    >>> finding(evolve(reading, n_resamples=100), "almanac").partition(";")[0]
    'The accuracy of almanac leaves the baseline at layer 5 and is settled from layer 6 on'
    """
    if evolution.onset is None:
        return _without_onset(evolution, name)
    last = evolution.table.index[-1]
    correction = evolution.correction
    sentence = f"The accuracy of {name} {_onset_and_decision(evolution, last)}"
    if correction:
        change = interval_text(*correction.change_of_accuracy)
        return (
            f"{sentence}; then comes a correction phase: {_fall(correction)}, "
            f"while accuracy changes by {change}."
        )
    if evolution.decision == last:
        return f"{sentence}, so no layer is left for a correction: no correction phase was found."
    return (
        f"{sentence}; after that ECE does not fall by more than chance: "
        "no correction phase was found."
    )


def _without_onset(evolution: Evolution, name: str) -> str:
    sentence = (
        f"At the last layer the accuracy of {name} is not reliably above the baseline: no onset "
        f"was found, so the decision marked at layer {evolution.decision} means little, "
    )
    if evolution.correction:
        return f"{sentence}and so does it that {_fall(evolution.correction)}."
    return f"{sentence}and no correction phase was found either."


def _onset_and_decision(evolution: Evolution, last: int) -> str:
    onset, decision = evolution.onset, evolution.decision
    if onset > decision:
        return (
            f"is within 2 points of its last value from layer {decision} on, and above the "
            f"baseline for good from layer {onset} on"
        )
    if onset == last:
        return f"leaves the baseline at layer {last}, the last, and is settled only there"
    if decision == last:
        return f"leaves the baseline at layer {onset} and is settled only at layer {last}, the last"
    there = "there" if decision == onset else f"layer {decision}"
    return f"leaves the baseline at layer {onset} and is settled from {there} on"


def _fall(correction) -> str:
    fall = interval_text(*correction.fall_of_ece)
    return f"from layer {correction.start} to layer {correction.end}, the last, ECE falls by {fall}"
