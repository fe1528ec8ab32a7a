"""Bootstrap of accuracy, ECE and MCE over every layer, against loops over torchmetrics and netcal.

A model of 32 blocks on MMLU's test split: 33 layers, 14,042 questions, 4 options. The loops are
timed on one layer and few resamples, and extrapolated: each resample costs them the same. They
get one thread, since their arrays are too small to gain from more.

    python benchmarks/metrics.py
"""

from time import perf_counter

import numpy as np
import torch
from netcal.metrics import ECE, MCE
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.classification import multiclass_calibration_error as calibration_error

from calib import metrics

LAYERS, QUESTIONS, OPTIONS = 33, 14_042, 4
RESAMPLES, TIMED = 1000, 50
BINS = 10


def forecasts():
    rng = np.random.default_rng(0)
    sharpness = np.linspace(0.1, 3, LAYERS)[:, None, None]
    p = np.exp(sharpness * rng.normal(size=(LAYERS, QUESTIONS, OPTIONS)))
    return p / p.sum(axis=-1, keepdims=True), rng.integers(OPTIONS, size=QUESTIONS)


def with_calib(p, labels):
    return metrics.accuracy(p, labels), metrics.ece(p, labels, BINS), metrics.mce(p, labels, BINS)


def with_torchmetrics(p, labels):
    p, labels = torch.from_numpy(p), torch.from_numpy(labels)
    errors = (calibration_error(p, labels, OPTIONS, n_bins=BINS, norm=n) for n in ("l1", "max"))
    accuracy = multiclass_accuracy(p, labels, OPTIONS, average="micro")
    return accuracy.item(), *(error.item() for error in errors)


def with_netcal(p, labels):
    accuracy = np.mean(p.argmax(axis=-1) == labels)
    return accuracy, ECE(BINS).measure(p, labels), MCE(BINS).measure(p, labels)


def seconds(function, *arguments, repeats=1):
    """Of the fastest call, after one to warm up."""
    function(*arguments)
    times = []
    for _ in range(repeats):
        start = perf_counter()
        function(*arguments)
        times.append(perf_counter() - start)
    return min(times)


def resample_in_a_loop(measure, p, labels):
    rng = np.random.default_rng(0)
    for _ in range(TIMED):
        drawn = rng.integers(QUESTIONS, size=QUESTIONS)
        measure(p[drawn], labels[drawn])


def main():
    torch.set_num_threads(1)
    p, labels = forecasts()
    last = p[-1]
    loops = {"torchmetrics": with_torchmetrics, "netcal": with_netcal}
    for measure in loops.values():
        np.testing.assert_allclose(measure(last, labels), with_calib(last, labels), atol=1e-6)

    ours = seconds(lambda: metrics.bootstrap(p, labels, n_resamples=RESAMPLES), repeats=3)
    print(f"{RESAMPLES} resamples of {LAYERS} layers x {QUESTIONS} questions x {OPTIONS} options")
    print(f"{'calib':<24}{ours:>10.2f} s")
    for name, measure in loops.items():
        timed = seconds(resample_in_a_loop, measure, last, labels)
        theirs = timed * LAYERS * RESAMPLES / TIMED
        print(f"{name + ', extrapolated':<26}{theirs:>8.0f} s {theirs / ours:>8.0f} x")


if __name__ == "__main__":
    main()
