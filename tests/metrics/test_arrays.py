"""What is handed in as numbers: tensors and tables taken for what they hold, the rest refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from calib import metrics
from calib.metrics.inputs import check
from calib.recalibration import Curve, HistogramBinning, Temperature, focal_posterior, spread

P = np.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]])  # exact in any floating-point type
LABELS = np.array([0, 1, 0])
MASKED = np.ma.masked_array(P, mask=P == 0.25)

# Everything that takes probabilities, logits or confidences, called on one argument.
TAKERS = {
    "ece": lambda p: metrics.ece(p, LABELS),
    "bootstrap": lambda p: metrics.bootstrap(p, LABELS, n_resamples=2),
    "softmax": metrics.softmax,
    "kernel": lambda p: metrics.kernel(p, P, 0.2),
    "local_calibration_error": lambda p: metrics.local_calibration_error(
        P, LABELS, p, n_components=1
    ),
    "temperature": lambda p: Temperature(2.0)(p),
    "matching": lambda p: Temperature.matching(p, 0.9),
    "binning": lambda p: HistogramBinning(2).fit(p, [0, 1, 0]),
    "target": lambda p: Temperature().fit(np.log(P), p),
    "curve": Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0])),
    "focal_posterior": lambda p: focal_posterior(p, 1),
    "spread": lambda p: spread(p, [0.9] * 3),
}
every_taker = pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (P.astype(object), TypeError, "are object; they must be real numbers"),
        (P > 0.5, TypeError, "are bool; they must be real numbers"),
        (P.astype(complex), TypeError, "are complex128; they must be real numbers"),
        (np.full((3, 2), "2020-01-01", "M8[D]"), TypeError, r"are datetime64\[D\]; they must be"),
        ([[0.5, 0.5], [1.0], [0.5, 0.5]], ValueError, "^no array can be made of .*equally long"),
        (torch.empty(3, 2, device="meta"), TypeError, "^no array can be made of"),
        ([torch.ones(2, requires_grad=True)] * 3, TypeError, r"^no array .*torch\.stack"),
        (pd.DataFrame(P, dtype=object), TypeError, "are object; they must be real numbers"),
        (MASKED, ValueError, "^masked entries in .*; all must be there: leave out what is masked"),
    ],
)
@every_taker
def test_what_are_no_real_numbers_is_refused(take, values, error, message):
    with pytest.raises(error, match=message):
        take(values)


@pytest.mark.parametrize("value", [None, "0.5", {"A": 1.0}, {0.5}, len])
def test_what_is_no_array_at_all_is_refused(value):
    for take in (lambda p: metrics.ece(p, LABELS), metrics.softmax, Temperature(2.0)):
        with pytest.raises(TypeError, match="they must be real numbers"):
            take(value)
    with pytest.raises(ValueError, match=r"labels have shape \(\)"):
        metrics.ece(P, value)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (LABELS.astype(object), TypeError, "labels are object; they must be the integer index"),
        (torch.tensor([True, False, True]), TypeError, "labels are bool"),
        (torch.tensor([0.0, 1.0, 0.0]), TypeError, "labels are float32"),
        ([[0], [1, 0], [0]], ValueError, "no array can be made of labels"),
        (np.ma.masked_equal(LABELS, 1), ValueError, "masked entries in labels"),
    ],
)
def test_what_are_no_labels_is_refused(labels, error, message):
    with pytest.raises(error, match=message):
        metrics.ece(P, labels)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_a_tensor_is_taken_for_the_numbers_it_holds(dtype):
    """Of any type, and with a gradient to come: |.75 - 1| + .5 + .875, over three questions."""
    p = torch.tensor(P, dtype=dtype, requires_grad=True)
    assert metrics.ece(p, torch.tensor(LABELS)) == (0.25 + 0.5 + 0.875) / 3
    np.testing.assert_array_equal(check(p, LABELS)[0], P)
    np.testing.assert_array_equal(metrics.softmax(p), metrics.softmax(P))
    np.testing.assert_array_equal(Temperature(2.0)(p), Temperature(2.0)(P))
    assert p.requires_grad and p.dtype == dtype  # as it was


def test_a_softmax_in_a_coarse_type_is_still_refused():
    p = torch.tensor([[1.0, 0.3, 0.1]]).softmax(dim=-1).bfloat16()
    with pytest.raises(ValueError, match=r"must sum to 1 within 0\.0001.*in float32 or finer"):
        metrics.ece(p, [0])


@pytest.mark.parametrize(
    ("p", "labels"),
    [
        (pd.DataFrame(P), pd.Series(LABELS)),
        (P, pd.Series(LABELS, dtype="Int64")),
        (pd.DataFrame(P, dtype="Float64"), LABELS),  # which pandas alone would make objects of
        (np.ma.masked_array(P, mask=False), np.ma.masked_array(LABELS, mask=False)),
        (list(torch.tensor(P)), list(torch.tensor(LABELS))),
        (P.astype(np.longdouble), LABELS.astype(np.uint64)),
    ],
)
def test_tables_lists_and_masks_of_nothing_are_arrays(p, labels):
    assert metrics.ece(p, labels) == metrics.ece(P, LABELS)
