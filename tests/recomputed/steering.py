"""What the steering chapters say, from the definitions: directions, strengths and their effects."""

from functools import partial

import numpy as np
from recomputed import basics as plain
from recomputed.laboratory import Few, Laboratory
from sklearn.linear_model import RidgeCV

from calib import open_model
from calib.steering import gradient_direction

STRENGTHS = np.linspace(-2, 2, 21)
TUNED, BASE = "almanac-tuned", "almanac"


def unit(vector):
    return vector / np.linalg.norm(vector)


class Steering:
    """The calibration split, and the directions fitted on it by their definitions."""

    def __init__(self):
        self.lab = lab = Laboratory(2000, "validation")
        self.scale = {
            layer: np.median(np.linalg.norm(lab.stream[TUNED][layer], axis=1)) for layer in (4, 8)
        }
        self.change = {name: s[8] - s[6] for name, s in lab.stream.items()}
        self.temperature = self.fitted_temperature(np.log(lab.tuned[-1]))
        # The library's: how it is fitted is tested elsewhere, what it does is checked here.
        model = open_model(TUNED)
        self.gradient = gradient_direction(model, lab.questions, 4).vector

    def fitted_temperature(self, logits):
        return plain.best_temperature(
            lambda t: plain.nll(plain.rescaled(logits, t), self.lab.labels)
        )

    def matched(self, confidence):
        """Of the tuned model's temperatures the one with this mean confidence on the split."""
        logits = np.log(self.lab.tuned[-1])
        return plain.best_temperature(
            lambda t: abs(plain.confidence(plain.rescaled(logits, t), None) - confidence)
        )

    def push(self, layer, direction, strength):
        return layer, strength * self.scale[layer] * unit(direction)

    def chosen(self, logits_of, rows=None, strengths=STRENGTHS):
        """The strength of lowest NLL among those that keep accuracy within .005."""
        rows = slice(None) if rows is None else rows
        y, scores = self.lab.labels[rows], {}
        for s in strengths:
            p = plain.softmax(logits_of(s)[rows])
            scores[s] = plain.accuracy(p, y), plain.nll(p, y)
        stays = [s for s in scores if abs(scores[s][0] - scores[0][0]) <= 0.005 + 1e-9]
        return min(stays, key=lambda s: scores[s][1])

    def chosen_at_the_top(self, direction, rows=None):
        top, scale = self.lab.stream[TUNED][8], self.scale[8]
        push = scale * unit(direction)
        return self.chosen(lambda s: self.lab.letters_of(top + s * push), rows)


def expected_direction(lab, steering):
    cal, values = steering.lab, {}
    unsteered = lab.tuned[-1]
    base, own = (steering.change[name].mean(axis=0) for name in (BASE, TUNED))
    random = np.random.default_rng(8).normal(size=128)
    strength = {
        n: steering.chosen_at_the_top(v)
        for n, v in (("base", base), ("own", own), ("random", random))
    }
    pushes = [
        steering.push(8, v, strength[n])
        for n, v in (("base", base), ("own", own), ("random", random))
    ]
    pushes.append(steering.push(4, steering.gradient, 1.4))
    ways = dict(
        zip(
            ("base", "own", "random", "gradient"),
            map(plain.softmax, lab.pushed(pushes)),
            strict=True,
        )
    )
    ways["temperature"] = plain.rescaled(np.log(unsteered), steering.temperature)
    ways["unsteered"] = unsteered
    for name, p in ways.items():
        for metric in (plain.ece, plain.nll):
            values[f"direction_{name}_{metric.__name__}"] = lab.interval(metric, p)
        values[f"direction_{name}_mce"] = lab.interval(partial(plain.mce, min_count=50), p)
    values["direction_base_accuracy_change"] = lab.change(plain.accuracy, ways["base"], unsteered)
    values |= {"direction_base_layer": 8, "direction_base_strength": strength["base"]}

    rows = np.flatnonzero(cal.categories == "STEM")
    stem = steering.change[BASE][rows].mean(axis=0)
    push = steering.push(8, stem, steering.chosen_at_the_top(stem, rows))
    p, others = plain.softmax(lab.pushed([push]))[0], np.flatnonzero(lab.categories != "STEM")
    for metric in (plain.ece, plain.accuracy):
        key = f"direction_travel_STEM_{metric.__name__}"
        values[key] = lab.change(metric, p, unsteered, others)
    return values | dimensions(lab, steering)


def dimensions(lab, steering):
    """How much of the base model's correction lies in how few dimensions."""
    values, y = {}, lab.labels
    change = steering.change[BASE].astype(float)
    shares, basis = np.linalg.eigh(change.T @ change)
    values["direction_share_1"] = shares[-1] / shares.sum()
    start, whole = lab.stream[BASE][6], lab.stream[BASE][8] - lab.stream[BASE][6]
    none, all_of_it = (plain.softmax(lab.letters_of(start + d, BASE)) for d in (0 * whole, whole))
    for k in (1, 2, 4):
        onto = basis[:, -k:] @ basis[:, -k:].T
        part = plain.softmax(lab.letters_of(start + whole @ onto, BASE))

        def kept(rows, part=part):
            before, after, here = (plain.ece(p[rows], y[rows]) for p in (none, all_of_it, part))
            return (before - here) / (before - after)

        values[f"direction_kept_{k}"] = lab.of(kept)
    cal, subjects = steering.lab, np.array(steering.lab.questions["subject"])
    confidence = cal.base[-1].max(axis=1)
    gap = confidence - (cal.base[-1].argmax(axis=1) == cal.labels)
    means, regressions = [], []
    for subject in sorted(set(subjects)):
        rows = np.flatnonzero(subjects == subject)
        means.append(unit(change[rows].mean(axis=0)))
        x = cal.stream[BASE][6][rows].astype(float)
        x = (x - x.mean(axis=0)) / np.median(np.linalg.norm(x, axis=1))
        ridge = RidgeCV(len(rows) * np.logspace(-5, 1, 13)).fit(x, gap[rows])
        regressions.append(unit(ridge.coef_))
    for key, found in (("subject", means), ("regression", regressions)):
        sizes = np.linalg.svd(np.stack(found))[1] ** 2
        values[f"direction_{key}_share_1"] = sizes[0] / sizes.sum()
    return values | {"direction_base_model_furthest": 0}


def expected_temperature(lab, steering):
    cal, values = steering.lab, {}
    unsteered = lab.tuned[-1]
    base = steering.change[BASE].mean(axis=0)
    pushes = {
        "correction": steering.push(8, base, steering.chosen_at_the_top(base)),
        "gradient": steering.push(4, steering.gradient, 1.4),
    }
    steered = dict(zip(pushes, map(plain.softmax, lab.pushed(list(pushes.values()))), strict=True))
    there = dict(zip(pushes, map(plain.softmax, cal.pushed(list(pushes.values()))), strict=True))
    fitted = plain.rescaled(np.log(unsteered), steering.temperature)
    for name, p in {
        "unsteered": unsteered,
        "gradient": steered["gradient"],
        "fitted": fitted,
    }.items():
        values[f"temperature_{name}_auroc"] = lab.interval(plain.auroc, p)
        values[f"temperature_{name}_truth"] = lab.follows(p)
        for metric in (plain.ece, plain.auroc):
            half = metric(p[:2000], lab.labels[:2000])
            values[f"temperature_{name}_{metric.__name__}_half"] = half
    for name, p in steered.items():
        confidence = plain.confidence(there[name], None)
        equal = plain.rescaled(np.log(unsteered), steering.matched(confidence))
        closest = closest_temperature(p, unsteered)
        values[f"temperature_matched_{name}_truth"] = lab.of(
            lambda i, p=p, q=equal: np.subtract(
                *(np.corrcoef(x[i].max(axis=1), lab.reliability[i])[0, 1] for x in (p, q))
            )
        )
        for metric in (plain.ece, plain.auroc, plain.nll):
            key = f"{name}_{metric.__name__}"
            values[f"temperature_matched_{key}"] = lab.change(metric, p, equal)
            values[f"temperature_rest_{key}"] = lab.change(metric, p, closest)
        values[f"temperature_share_{name}"] = 1 - divergence(p, closest) / divergence(p, unsteered)
    return values | a_crowd(lab, steering) | amounts(lab, steering)


def divergence(p, q):
    return np.mean(np.sum(p * np.log(p / q), axis=1))


def closest_temperature(p, q):
    logits = np.log(q)
    t = plain.best_temperature(lambda t: divergence(p, plain.rescaled(logits, t)))
    return plain.rescaled(logits, t)


def a_crowd(lab, steering):
    """The random directions: all hundred at the last layer, ten at layer 4, where it takes long."""
    values, unsteered = {}, lab.tuned[-1][:2000]
    tempered = plain.rescaled(np.log(unsteered), steering.temperature)
    least = plain.nll(tempered, lab.labels[:2000])
    for layer, n_directions in ((4, 10), (8, 100)):
        found = crowd_at(layer, n_directions, lab, steering)
        y = lab.labels[:2000]
        for metric in (plain.ece, plain.auroc):
            scores = [metric(p, y) for p in found]
            # Ten say where the middle is, not how far a hundred spread.
            middle = np.quantile(scores, [0.5, 0.025, 0.975] if layer == 8 else [0.5])
            values[f"temperature_random_{layer}_best_{metric.__name__}"] = middle
    better = sum(plain.nll(p, y) < least for p in found)
    shares = [
        1 - divergence(p, closest_temperature(p, unsteered)) / divergence(p, unsteered)
        for p in found
    ]
    return values | {
        "temperature_random_better": better,
        "temperature_share_random": np.median(shares),
    }


def crowd_at(layer, n_directions, lab, steering):
    """Probabilities ``[directions, 2000, 4]`` of random directions, each with its best strength."""
    vectors = [np.random.default_rng(seed).normal(size=128) for seed in range(n_directions)]
    strengths, rows = np.linspace(-2, 2, 11).round(1), np.arange(500)
    grid = [steering.push(layer, v, s) for v in vectors for s in strengths]
    by_direction = Few(steering.lab, 500).pushed(grid).reshape(n_directions, 11, 500, 4)
    pushes = []
    for vector, logits in zip(vectors, by_direction, strict=True):
        of_strength = dict(zip(strengths, logits, strict=True))
        best = steering.chosen(of_strength.get, rows, strengths)
        pushes.append(steering.push(layer, vector, best))
    return plain.softmax(Few(lab, 2000).pushed(pushes))


def amounts(lab, steering):
    """The base model's correction from layer 7: constant, in one dimension, dealt out."""
    values, cal = {}, steering.lab
    start, change = lab.stream[BASE][7], lab.stream[BASE][8] - lab.stream[BASE][7]
    fitted = (cal.stream[BASE][8] - cal.stream[BASE][7]).astype(float)
    first = np.linalg.eigh(fitted.T @ fitted)[1][:, -1]
    own = np.outer(change @ first, first)
    dealt = own[np.random.default_rng(5).permutation(lab.n)]  # another deal than the chapter's
    added = {
        "nothing": 0 * change,
        "mean": fitted.mean(axis=0),
        "own_amount": own,
        "dealt_out": dealt,
    }
    for name, vectors in added.items():
        p = plain.softmax(lab.letters_of(start + vectors, BASE))
        values[f"temperature_{name}_truth"] = lab.follows(p)
        values[f"temperature_{name}_ece"] = lab.interval(plain.ece, p)
    values["temperature_base"] = steering.fitted_temperature(np.log(cal.base[-1]))
    return values
