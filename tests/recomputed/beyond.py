"""What the chapter beyond ECE says, from the definitions and scikit-learn's trees."""

import numpy as np
import pandas as pd
from recomputed import basics as plain
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression
from sklearn.tree import DecisionTreeRegressor


def said(p, confidence):
    """The same answers with other confidences, the rest shared in proportion; a question at a time
    towards equal shares where another option would pass the answer."""
    q = np.empty_like(p)
    for i, (row, c) in enumerate(zip(p, confidence, strict=True)):
        answer = row.argmax()
        others = np.delete(row, answer)
        share, even = others / others.sum(), np.full(len(others), 1 / len(others))
        c = max(c, 1 / len(row) + 1e-6)
        for blend in np.linspace(0, 1, 2001):
            rest = (1 - c) * ((1 - blend) * share + blend * even)
            if rest.max() < c:
                break
        q[i] = np.insert(rest, answer, c)
    return q


def chances(p, posterior):
    return posterior[np.arange(len(p)), p.argmax(axis=1)]


def hidden(p, posterior):
    """Variance of the chance of being right in each hundredth of confidence, by its questions."""
    bins = np.minimum(np.ceil(p.max(axis=1) * 100 - 1e-9), 100)
    groups = pd.Series(chances(p, posterior)).groupby(bins)
    counts = groups.size()[groups.size() > 1]
    return float((counts * groups.var()[counts.index]).sum() / counts.sum())


def bound(p, labels, features, seed, n_bins=10):
    """The lower bound by trees, on one random halving: its sums written out."""
    rng, top = np.random.default_rng(seed), p.max(axis=1)
    right = (p.argmax(axis=1) == labels).astype(float)
    total = counted = 0.0
    for members in np.array_split(np.argsort(top, kind="stable"), n_bins):
        members = rng.permutation(members)
        teach, count = members[::2], members[1::2]
        tree = DecisionTreeRegressor(min_samples_leaf=20).fit(features[teach], right[teach])
        region, a_bin = tree.apply(features[count]), right[count].mean()
        for r in np.unique(region):
            inside = right[count][region == r]
            n, a = len(inside), inside.mean()
            if n > 1:
                total += n * ((a - a_bin) ** 2 - a * (1 - a) / (n - 1))
        n = len(count)
        total += n * a_bin * (1 - a_bin) / (n - 1)
        counted += n
    return total / counted


def local_errors(p, labels, stream, gamma=0.05, n_components=5):
    centred = stream.astype(float) - stream.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    x = u[:, :n_components] * s[:n_components] / (s[0] / np.sqrt(len(u) - 1))
    top, errors = p.max(axis=1), np.empty(len(p))
    gap = top - (p.argmax(axis=1) == labels)
    for b in range(10):
        inside = np.flatnonzero((top > b / 10) & (top <= (b + 1) / 10))
        for i in inside:
            k = np.exp(-np.abs(x[inside] - x[i]).mean(axis=1) / gamma)
            errors[i] = abs(k @ gap[inside]) / k.sum()
    return errors


def gaps(p, labels):
    """Confidence less right answers, summed in each bin of ten, over all questions."""
    top, right = p.max(axis=1), p.argmax(axis=1) == labels
    bins = np.ceil(top * 10 - 1e-9)
    return [(top - right)[bins == b].sum() / len(p) for b in range(1, 11)]


def over(p, labels):
    return sum(max(gap, 0) for gap in gaps(p, labels))


def under(p, labels):
    return sum(max(-gap, 0) for gap in gaps(p, labels))


def wrong(p, labels):
    return np.mean(p.max(axis=1) * (p.argmax(axis=1) != labels))


def right(p, labels):
    return np.mean((1 - p.max(axis=1)) * (p.argmax(axis=1) == labels))


def sparsification(p, labels):
    """Error rates of the most certain less those of the best order; ties count by their mean."""
    wrong = pd.Series((p.argmax(axis=1) != labels).astype(float))
    top = pd.Series(p.max(axis=1))
    order = top.sort_values(ascending=False).index
    by_order = wrong.groupby(top).transform("mean")[order].to_numpy()
    best = np.sort(wrong.to_numpy())
    n = np.arange(1, len(wrong) + 1)
    return np.mean((by_order.cumsum() - best.cumsum()) / n)


def brier(p, labels):
    return np.mean(((p - np.eye(4)[labels]) ** 2).sum(axis=1))


def nll(p, labels):
    with np.errstate(divide="ignore"):
        return plain.nll(p, labels)


def all_ways(lab, cal, base, constant):
    """Seventeen ways of saying a confidence, as in the chapter."""
    tuned = lab.tuned[-1]

    def tempered(name, layer):
        there, here = (np.log(some.p[name][layer]) for some in (cal, lab))
        t = plain.best_temperature(lambda t: plain.nll(plain.rescaled(there, t), cal.labels))
        return plain.rescaled(here, t)

    steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    steps.fit(cal.tuned[-1].max(axis=1), cal.tuned[-1].argmax(axis=1) == cal.labels)
    ways = {
        "base": base,
        "constant": constant,
        "cold": plain.rescaled(np.log(base), 2),
        "hot": plain.rescaled(np.log(base), 0.5),
        "tuned": tuned,
        "tempered": tempered("almanac-tuned", -1),
        "of the next": said(base, [base[i - 1].max() for i in range(lab.n)]),
        "posterior": lab.posterior,
        "isotonic": said(tuned, steps.predict(tuned.max(axis=1))),
    }
    for name in ("almanac", "almanac-tuned"):
        for layer in (6, 7):
            ways[name, layer] = lab.p[name][layer]
            ways[name, layer, "tempered"] = tempered(name, layer)
    return ways


def expected_beyond(lab, cal):
    base, labels, posterior = lab.base[-1], lab.labels, lab.posterior
    share = plain.accuracy(cal.base[-1], cal.labels)
    constant = said(base, np.full(lab.n, share))
    ways = all_ways(lab, cal, base, constant)
    values = {"beyond_ways": len(ways)}
    for name, p in {"base": base, "constant": constant}.items():
        values[f"beyond_{name}_ece"] = lab.interval(plain.ece, p)
        values[f"beyond_{name}_nll"] = lab.interval(plain.nll, p)
        values[f"beyond_{name}_hidden"] = lab.of(lambda i, p=p: hidden(p[i], posterior[i]))
    for layer in (6, 8):
        p = lab.base[layer]
        values[f"beyond_base_{layer}_known"] = lab.of(lambda i, p=p: hidden(p[i], posterior[i]))
    stream, last = lab.stream["almanac"][6], base.max(axis=1)[:, None]
    for kind, features in {"stream": stream, "last": last}.items():
        halvings = [bound(lab.base[6], labels, features, seed) for seed in range(5)]
        values[f"beyond_base_6_{kind}"] = np.mean(halvings)
    sides = {"over": over, "under": under, "wrong": wrong, "right": right}
    for name in ("base", "tuned", "tempered"):
        for side, measure in sides.items():
            values[f"beyond_{name}_{side}"] = lab.interval(measure, ways[name])
    chance = said(base, chances(base, posterior))
    for name, p in {"base": base, "constant": constant, "chance": chance}.items():
        errors = local_errors(p, labels, lab.stream["almanac"][8])
        values[f"beyond_lce_{name}"], values[f"beyond_mlce_{name}"] = errors.mean(), errors.max()
        wider = local_errors(p, labels, lab.stream["almanac"][8], gamma=0.2)
        values[f"beyond_lce_{name}_middle"] = wider.mean()
    return values | agreements(ways, labels, posterior, lab)


def agreements(ways, labels, posterior, lab):
    measures = {"ECE": plain.ece, "NLL": nll, "Brier": brier, "AUSE": sparsification}

    def ranked(i, measure, ways=ways):
        some = [p[i] for p in ways.values()]
        away = [np.mean((p.max(axis=1) - chances(p, posterior[i])) ** 2) for p in some]
        return rank_correlation([measure(p, labels[i]) for p in some], away)

    values = {
        f"beyond_agree_{name}": lab.of(lambda i, measure=measure: ranked(i, measure), times=60)
        for name, measure in measures.items()
    }
    finite = {name: p for name, p in ways.items() if name != "isotonic"}
    values["beyond_agree_NLL_finite"] = lab.of(lambda i: ranked(i, nll, finite), times=60)
    level, order = ([m(p, labels) for p in ways.values()] for m in (plain.ece, sparsification))
    values["beyond_agree_level_order"] = rank_correlation(level, order)
    return values


def rank_correlation(x, y):
    """Spearman's, an infinite value the last."""
    return np.corrcoef(rankdata(x), rankdata(y))[0, 1]
