"""g-layers: the start, the part held out, what training finds, and the seed."""

import numpy as np
import pytest
import torch

from calib import metrics
from calib.metrics import softmax
from calib.recalibration import GLayers, Temperature
from calib.recalibration.g_layers import make_network, split


def problem(n=1000, seed=0, scale=2.5, prefer=0.0):
    """Overconfident logits that prefer the first option for nothing."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits)])
    return scale * logits + [prefer, 0, 0, 0], labels


@pytest.mark.parametrize("hidden", [(), (5,), (8, 3)])
def test_the_network_starts_at_zero(hidden):
    network = make_network(4, hidden, seed=0)
    seen = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(seen), torch.zeros(7, 4, dtype=torch.float64))
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    widths = [4, *hidden, 4]
    assert shapes == list(zip(widths[1:], widths[:-1], strict=True))


@pytest.mark.parametrize("hidden", [(), (32,)])
def test_where_nothing_helps_the_logits_stay_as_they_are(hidden):
    """On labels that only get worse: what is held out is always right, what is trained on wrong."""
    logits = np.zeros((50, 4))
    logits[:, 0] = 3
    labels = np.ones(50, dtype=int)
    _, held_out = split(50, 0.2, seed=0)
    labels[held_out] = 0
    method = GLayers(hidden).fit(logits, labels)
    assert method.losses.argmin() == 0
    assert len(method.losses) == 1 + method.patience
    np.testing.assert_array_equal(method(logits), softmax(logits))


def test_the_first_loss_is_the_logits_own():
    logits, labels = problem()
    _, held_out = split(1000, 0.2, seed=0)
    method = GLayers(max_epochs=3).fit(logits, labels)
    assert len(method.losses) == 4
    own = metrics.nll(softmax(logits[held_out]), labels[held_out])
    assert method.losses[0] == pytest.approx(own, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [3, 20, 200])
def test_it_is_never_worse_on_what_is_held_out(n, seed):
    logits, labels = problem(n, seed)
    labels[:2] = logits[0].argmax(), logits[1].argmin()
    method = GLayers(seed=seed, max_epochs=100).fit(logits, labels)
    _, held_out = split(n, 0.2, seed)
    found = metrics.nll(method(logits[held_out]), labels[held_out])
    assert found == pytest.approx(method.losses.min(), rel=1e-12)
    assert found <= metrics.nll(softmax(logits[held_out]), labels[held_out]) + 1e-12


def test_it_finds_a_temperature():
    """As good as the one that the labels were drawn at, on new questions."""
    method = GLayers().fit(*problem(2000))
    logits, labels = problem(4000, seed=1)
    best, found = metrics.nll(softmax(logits / 2.5), labels), metrics.nll(method(logits), labels)
    assert metrics.nll(softmax(logits), labels) > best + 0.2
    assert best < found < best + 0.03


def test_it_finds_what_no_temperature_can():
    fit = problem(2000, prefer=3.0)
    logits, labels = problem(2000, seed=1, prefer=3.0)
    p, cooled = GLayers().fit(*fit)(logits), Temperature().fit(*fit)(logits)
    assert metrics.nll(p, labels) < metrics.nll(cooled, labels) - 0.03
    assert metrics.accuracy(p, labels) > metrics.accuracy(cooled, labels) + 0.05


def test_a_linear_g_by_hand():
    """Two options, always (4, 0), right three times of four in both parts: odds of 3 at the end."""
    logits, labels = np.array([[4.0, 0.0]] * 40), np.zeros(40, dtype=int)
    for part in split(40, 0.2, seed=0):
        labels[part[::4]] = 1
    method = GLayers((), weight_decay=0).fit(logits, labels)
    np.testing.assert_allclose(method([[4.0, 0.0]]), [[0.75, 0.25]], atol=1e-3)


def test_a_shift_of_a_questions_logits_changes_nothing():
    logits, labels = problem()
    shift = np.random.default_rng(1).normal(scale=30, size=(1000, 1))
    method = GLayers(max_epochs=50).fit(logits, labels)
    np.testing.assert_allclose(method(logits + shift), method(logits), rtol=0, atol=1e-12)
    shifted = GLayers(max_epochs=50).fit(logits + shift, labels)
    np.testing.assert_allclose(shifted(logits), method(logits), rtol=0, atol=1e-9)


def test_logits_that_say_nothing_do():
    """g is then the options' frequencies, and no division by their spread of 0."""
    labels = np.array([0, 0, 0, 1] * 50)
    p = GLayers(weight_decay=0).fit(np.zeros((200, 4)), labels)(np.zeros((1, 4)))
    np.testing.assert_allclose(p, [[0.75, 0.25, 0, 0]], atol=0.08)


def test_the_seed_is_all_that_is_random():
    logits, labels = problem()
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = GLayers(max_epochs=20).fit(logits, labels)(logits)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    np.testing.assert_array_equal(GLayers(max_epochs=20).fit(logits, labels)(logits), first)
    assert (GLayers(max_epochs=20, seed=1).fit(logits, labels)(logits) != first).any()


@pytest.mark.parametrize(
    ("n", "held_out", "size"), [(10, 0.2, 2), (2, 0.2, 1), (2, 0.9, 1), (9, 0.01, 1), (7, 0.5, 4)]
)
def test_both_parts_have_questions(n, held_out, size):
    train, held = split(n, held_out, seed=3)
    assert len(held) == size
    assert sorted([*train, *held]) == list(range(n))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"hidden": (0,)}, ValueError, "hidden is 0; it must be an integer of at least 1"),
        ({"hidden": (2.5,)}, TypeError, "hidden is 2.5"),
        ({"hidden": 16}, TypeError, r"hidden is 16; it must be a tuple of widths, as \(16,\)"),
        ({"hidden": "16"}, TypeError, "hidden is '16'"),
        ({"patience": 0}, ValueError, "patience is 0"),
        ({"max_epochs": 0}, ValueError, "max_epochs is 0"),
        ({"learning_rate": 0}, ValueError, "learning_rate is 0; it must be above 0"),
        ({"weight_decay": -1}, ValueError, "weight_decay is -1; it must be a finite number"),
        ({"held_out": 0}, ValueError, "held_out is 0; it must lie between 0 and 1"),
        ({"held_out": 1}, ValueError, "held_out is 1; it must lie between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        GLayers(**settings)
