"""Losses: literal values, torch's own, gradients, and the minimiser of focal loss found again."""

from functools import partial
from math import inf, nan

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from support.properties import given, st
from torch.nn.functional import cross_entropy

from calib import metrics
from calib.losses import (
    brier_loss,
    focal_calibration_loss,
    focal_loss,
    focal_loss_sd,
    principled_gamma,
)
from calib.recalibration import focal_posterior

LOSSES = {
    "brier": brier_loss,
    "focal": partial(focal_loss, gamma=2),
    "focal, root": partial(focal_loss, gamma=0.5),
    "flsd-53": focal_loss_sd,
    "focal calibration": partial(focal_calibration_loss, gamma=1, weight=2),
    "focal calibration, not squared": partial(
        focal_calibration_loss, gamma=1, weight=2, squared=False
    ),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def of(probability):
    """Logits and label of one sample whose label has a probability, of three classes."""
    rest = (1 - probability) / 2
    logits = torch.tensor([[rest, probability, rest]], dtype=torch.float64).log()
    return logits, torch.tensor([1])


def sample(n=40, classes=5, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=draw, dtype=dtype)
    return logits, torch.randint(classes, (n,), generator=draw)


# Literal values


@pytest.mark.parametrize(
    "probability, value",
    [(0.1, 1.359653), (0.19, 0.579061), (0.2, 0.824032), (0.49, 0.094627), (0.5, 0.086643)],
)
def test_flsd_53_at_known_probabilities(probability, value):
    logits = torch.tensor([[probability, 1 - probability]], dtype=torch.float64).log()
    assert focal_loss_sd(logits, torch.tensor([0])).item() == pytest.approx(value, abs=5e-6)


def test_flsd_53_jumps_at_the_threshold():
    below, above = (focal_loss_sd(*of(0.2 + step)).item() for step in (-1e-9, 1e-9))
    assert below == pytest.approx(0.8**5 * -np.log(0.2), abs=1e-6)
    assert above == pytest.approx(0.8**3 * -np.log(0.2), abs=1e-6)
    assert focal_loss_sd(*of(0.3), threshold=0.4, gamma_below=1).item() == pytest.approx(
        0.7 * -np.log(0.3)
    )


def test_focal_loss_by_hand():
    """Three quarters' odds are 3 to 1: (1/4)² log 4/3."""
    assert focal_loss(*of(0.75), gamma=2).item() == pytest.approx(np.log(4 / 3) / 16, abs=1e-12)


def test_brier_loss_by_hand():
    """Probabilities .1, .8, .1: .01 + .04 + .01."""
    assert brier_loss(*of(0.8)).item() == pytest.approx(0.06, abs=1e-12)


def test_focal_calibration_loss_by_hand():
    focal = 0.2 * -np.log(0.8)
    loss = focal_calibration_loss(*of(0.8), gamma=1, weight=3)
    assert loss.item() == pytest.approx(focal + 3 * 0.06, abs=1e-12)
    root = focal_calibration_loss(*of(0.8), gamma=1, weight=3, squared=False)
    assert root.item() == pytest.approx(focal + 3 * np.sqrt(0.06), abs=1e-12)


def test_the_root_is_taken_of_each_sample():
    logits, labels = (torch.cat(both) for both in zip(of(0.8), of(0.5), strict=True))
    loss = focal_calibration_loss(logits, labels, gamma=0, weight=1, squared=False)
    expected = np.mean([np.sqrt(0.06) - np.log(0.8), np.sqrt(0.375) - np.log(0.5)])
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("probability, gamma", [(0.2, 4.851), (0.25, 3.070), (0.5, 0.0)])
def test_principled_gammas(probability, gamma):
    assert principled_gamma(probability) == pytest.approx(gamma, abs=5e-4)


# Against torch and the metrics


def test_gamma_0_is_cross_entropy():
    logits, labels = sample()
    for dtype in (torch.float64, torch.float32):
        torch.testing.assert_close(
            focal_loss(logits.to(dtype), labels, gamma=0), cross_entropy(logits.to(dtype), labels)
        )
    loss = focal_loss_sd(logits, labels, gamma_below=0, gamma_above=0)
    torch.testing.assert_close(loss, cross_entropy(logits, labels))


def test_brier_loss_is_the_brier_metric():
    logits, labels = sample()
    expected = metrics.brier(logits.softmax(-1).numpy(), labels.numpy())
    assert brier_loss(logits, labels).item() == pytest.approx(expected, abs=1e-12)


def test_without_weight_focal_calibration_is_focal():
    logits, labels = sample()
    loss = focal_calibration_loss(logits, labels, gamma=3, weight=0)
    torch.testing.assert_close(loss, focal_loss(logits, labels, gamma=3), rtol=0, atol=0)


@every_loss
def test_any_leading_shape_is_a_mean_over_labels(loss):
    logits, labels = sample(n=12)
    one_by_one = torch.stack([loss(row, label) for row, label in zip(logits, labels, strict=True)])
    torch.testing.assert_close(loss(logits, labels), one_by_one.mean())
    torch.testing.assert_close(
        loss(logits.reshape(2, 6, -1), labels.reshape(2, 6)), loss(logits, labels)
    )


# Gradients


@every_loss
def test_gradients(loss):
    logits, labels = sample(n=6)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


def test_no_gradient_flows_through_the_choice_of_gamma():
    """Each label's gradient is that of focal loss with the γ it was given."""
    logits, labels = sample(n=30)
    p = logits.softmax(-1).gather(-1, labels[:, None])[:, 0]
    assert 5 < (p < 0.2).sum() < 25
    leaf = logits.clone().requires_grad_()
    focal_loss_sd(leaf, labels).backward()
    for gamma, chosen in ((5, p < 0.2), (3, p >= 0.2)):
        own = logits[chosen].requires_grad_()
        (focal_loss(own, labels[chosen], gamma) * chosen.sum() / 30).backward()
        torch.testing.assert_close(leaf.grad[chosen], own.grad)


def slope(loss, probability):
    """Of the loss in the label's logit."""
    logits, label = of(probability)
    loss(logits.requires_grad_(), label).backward()
    return logits.grad[0, 1].item()


@given(st.floats(0.02, 0.48))
def test_at_the_principled_gamma_focal_pushes_as_cross_entropy_does(probability):
    focal = partial(focal_loss, gamma=principled_gamma(probability))
    assert slope(focal, probability) == pytest.approx(slope(cross_entropy, probability), rel=1e-6)
    # and less, where the label is more probable
    assert slope(focal, 0.5) > slope(cross_entropy, 0.5)


@every_loss
@pytest.mark.parametrize("gap", [20.0, 90.0, 1e4])
def test_large_logits_in_single_precision(loss, gap):
    """Sure and right, sure and wrong: finite, of the right size, and with finite gradients."""
    logits = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, 0.0]], requires_grad=True)
    for row, label in zip(logits, torch.tensor([0, 0]), strict=True):
        value = loss(row, label)
        assert torch.isfinite(value)
        value.backward()
    assert torch.isfinite(logits.grad).all()
    assert loss(logits[0], torch.tensor(0)) < 1e-3
    assert loss(logits[1], torch.tensor(0)) > 1.9


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_where_no_other_class_has_a_chance_nothing_is_lost(loss, dtype):
    logits = torch.tensor([[3.0, -inf, -inf]], dtype=dtype, requires_grad=True)
    value = loss(logits, torch.tensor([0]))
    value.backward()
    assert value.item() == 0
    assert logits.grad.tolist() == [[0, 0, 0]]


def test_masked_classes_leave_cross_entropy():
    logits, labels = sample()
    logits[:, 4], labels = -inf, labels.clamp(max=3)
    torch.testing.assert_close(focal_loss(logits, labels, 0), cross_entropy(logits, labels))
    one = torch.tensor([[1.0, -inf]])
    assert focal_loss(one, torch.tensor([0]), gamma=0).item() == 0


def test_a_wrong_answer_costs_its_log_odds_however_sure():
    logits = torch.tensor([[0.0, 1e4]])
    assert focal_loss(logits, torch.tensor([0]), gamma=3).item() == 1e4


def test_a_right_answer_keeps_its_small_loss():
    """p is 1 in single precision, yet 1 - p = exp(-30): with γ = 1 the loss is exp(-60)."""
    loss = focal_loss(torch.tensor([[30.0, 0.0]]), torch.tensor([0]), gamma=1)
    assert loss.item() == pytest.approx(np.exp(-60), rel=1e-5)


# What minimises them


def minimiser(loss, posterior):
    """Probabilities of least expected loss, found numerically."""
    posterior = torch.tensor(posterior)
    labels = torch.arange(len(posterior))

    def risk(z):
        logits = torch.tensor(z, requires_grad=True)
        losses = torch.stack([loss(logits, label) for label in labels])
        value = (posterior * losses).sum()
        value.backward()
        return value.item(), logits.grad.numpy()

    found = minimize(risk, np.zeros(len(posterior)), jac=True, tol=1e-14)
    return torch.tensor(found.x).softmax(-1).numpy()


POSTERIORS = [[0.85, 0.15], [0.7, 0.2, 0.1], [0.97, 0.01, 0.01, 0.01], [0.3, 0.3, 0.4]]


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_the_posterior_is_recovered_from_the_minimiser(posterior, gamma):
    found = minimiser(partial(focal_loss, gamma=gamma), posterior)
    np.testing.assert_allclose(focal_posterior(found, gamma), posterior, atol=1e-5)
    if gamma:
        assert found.max() < max(posterior) - 0.001
        assert found.argmax() == np.argmax(posterior)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_brier_loss_is_proper(posterior):
    np.testing.assert_allclose(minimiser(brier_loss, posterior), posterior, atol=1e-5)


def test_adding_the_squared_distance_brings_focal_loss_nearer_the_posterior():
    posterior = [0.85, 0.15]
    top = [
        minimiser(partial(focal_calibration_loss, gamma=3, weight=w), posterior)[0]
        for w in (0, 1, 10)
    ]
    assert 0.6 < top[0] < top[1] < top[2] < 0.85


def test_the_distance_itself_is_not_proper():
    """Its minimiser is surer than the posterior; the square is what makes Brier's loss proper."""
    plain = partial(focal_calibration_loss, gamma=0, weight=100, squared=False)
    assert minimiser(plain, [0.7, 0.3])[0] > 0.8


def test_focal_posterior_by_hand():
    """γ = 1, v = (.7, .3): v / (1 - v - v log v) is .7 / .549673 and .3 / 1.061192."""
    odds = (0.7 / 0.549673) / (0.3 / 1.061192)
    found = focal_posterior([[0.7, 0.3], [0.5, 0.5]], gamma=1)
    np.testing.assert_allclose(found, [[odds / (1 + odds), 1 / (1 + odds)], [0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_focal_posterior_at_the_ends(gamma):
    np.testing.assert_array_equal(focal_posterior([1.0, 0.0, 0.0], gamma), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(focal_posterior([0.5, 0.5, 0.0], gamma), [0.5, 0.5, 0.0])


def test_focal_posterior_of_any_leading_shape():
    p = sample()[0].softmax(-1).numpy().reshape(2, 20, 5)
    q = focal_posterior(p, gamma=2)
    assert (q.shape, q.dtype) == ((2, 20, 5), np.float64)
    np.testing.assert_allclose(q[1, 3], focal_posterior(p[1, 3], gamma=2), rtol=1e-12)
    np.testing.assert_array_equal(q.argmax(-1), p.argmax(-1))
    np.testing.assert_allclose(focal_posterior(p, gamma=0), p, rtol=1e-12)


# Bad input


@every_loss
@pytest.mark.parametrize(
    "logits, labels, error, message",
    [
        ([[0.0, 1.0]], torch.tensor([0]), TypeError, "logits are list; they must be torch tensors"),
        (np.zeros((2, 3)), torch.tensor([0, 1]), TypeError, "logits are ndarray; they must be"),
        (torch.zeros(2, 3), [0, 1], TypeError, "labels are list; they must be torch tensors"),
        (torch.zeros(2, 3), np.array([0, 1]), TypeError, "labels are ndarray"),
        (torch.tensor([[0, nan]]), torch.tensor([0]), ValueError, "largest logit of a row is nan"),
        (torch.tensor([[0, inf]]), torch.tensor([0]), ValueError, "largest logit of a row is inf"),
        (torch.tensor([[-inf] * 2]), torch.tensor([0]), ValueError, "is -inf; it must be finite"),
        (torch.zeros(2, 3).long(), torch.tensor([0, 1]), TypeError, r"logits are torch.int64"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), TypeError, r"labels are torch.float32"),
        (torch.zeros(2, 3), torch.tensor([0]), ValueError, r"logits have shape \[2, 3\], labels"),
        (torch.zeros(0, 3), torch.zeros(0).long(), ValueError, r"one label or more"),
        (torch.zeros(2, 1), torch.tensor([0, 0]), ValueError, r"logits have 1 classes"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, r"labels run from 0 to 3; with 3"),
        (torch.zeros(2, 3), torch.tensor([-100, 1]), ValueError, r"labels run from -100 to 1"),
    ],
)
def test_bad_logits_and_labels(loss, logits, labels, error, message):
    with pytest.raises(error, match=message):
        loss(logits, labels)


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_bad_parameters(value):
    logits, labels = sample(n=3)
    for name, loss in (
        ("gamma", focal_loss),
        ("gamma_below", focal_loss_sd),
        ("gamma_above", focal_loss_sd),
        ("gamma", partial(focal_calibration_loss, weight=1)),
        ("weight", partial(focal_calibration_loss, gamma=1)),
    ):
        with pytest.raises(ValueError, match=rf"{name} is {value}; it must be a finite number"):
            loss(logits, labels, **{name: value})
    with pytest.raises(TypeError, match="gamma is '1'; it must be a number"):
        focal_loss(logits, labels, gamma="1")
    with pytest.raises(ValueError, match=rf"threshold is {value}; it is a probability"):
        focal_loss_sd(logits, labels, threshold=value)
    with pytest.raises(ValueError, match=rf"gamma is {value}"):
        focal_posterior([0.5, 0.5], value)


@pytest.mark.parametrize("probability", [0.0, -0.1, 0.51, float("nan")])
def test_no_gamma_for_a_probability_out_of_range(probability):
    with pytest.raises(ValueError, match=rf"probability is {probability}; it must be above 0"):
        principled_gamma(probability)


def test_no_posterior_of_what_are_no_probabilities():
    with pytest.raises(ValueError, match=r"sums to 1\.1"):
        focal_posterior([[0.5, 0.5], [0.9, 0.2]], gamma=1)
    with pytest.raises(ValueError, match=r"probabilities have 1 options"):
        focal_posterior(0.5, gamma=1)
