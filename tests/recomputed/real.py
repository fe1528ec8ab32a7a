"""The numbers of the chapter on real models, from the files of the atlas and without calib."""

import json
from importlib.resources import files

import numpy as np
from recomputed import basics as plain
from recomputed.laboratory import share
from safetensors.numpy import load
from scipy.optimize import minimize

from calib.questions import category_of

START, END = 24, 28


class Entry:
    """A reading as it lies in the package: probabilities ``[layers + 1, questions, 4]``."""

    def __init__(self, name):
        folder = files("calib") / "reading" / "shipped" / name
        arrays = load((folder / "reading.safetensors").read_bytes())
        self.subjects = np.array(json.loads((folder / "reading.json").read_text())["subjects"])
        self.labels, self.ids = arrays["labels"], arrays["question_ids"]
        self.logits = arrays["logits"].astype(np.float64).swapaxes(0, 1)
        self.p, self.n = plain.softmax(self.logits), len(self.labels)

    def interval(self, metric, p):
        return self.of(lambda rows: metric(p[rows], self.labels[rows]))

    def of(self, statistic, n=None):
        n = n or self.n
        return statistic(np.arange(n)), *plain.resample(statistic, n)

    def accuracies(self):
        return np.array([plain.accuracy(p, self.labels) for p in self.p])

    @property
    def baseline(self):
        return np.bincount(self.labels).max() / self.n

    def onset(self):
        low = np.array([plain.wilson(a, self.n)[0] for a in self.accuracies()])
        below = np.flatnonzero(low <= self.baseline)
        return int(below[-1]) + 1

    def decision(self, tolerance=0.02):
        off = np.abs(self.accuracies() - self.accuracies()[-1]) > tolerance
        return int(np.flatnonzero(off)[-1]) + 1

    def change(self, rows=None):
        """Fall of ECE and change of accuracy over the correction, each with its interval."""
        rows = np.arange(self.n) if rows is None else rows

        def fall(some):
            y = self.labels[rows[some]]
            return np.subtract(*(plain.ece(self.p[k][rows[some]], y) for k in (START, END)))

        def kept(some):
            y = self.labels[rows[some]]
            return np.subtract(*(plain.accuracy(self.p[k][rows[some]], y) for k in (END, START)))

        return self.of(fall, len(rows)), self.of(kept, len(rows))

    def commonest(self, layer, rows=slice(None)):
        """The letter given most often, and its share."""
        counts = np.bincount(self.p[layer][rows].argmax(axis=1), minlength=4)
        return "ABCD"[counts.argmax()], share(counts.max(), counts.sum())


def newton(logits, labels):
    """The best temperature: a root of the slope of the NLL in 1 / T, by Newton's steps."""
    z = logits - logits.max(axis=1, keepdims=True)
    own, a = z[np.arange(len(z)), labels], 0.1
    for _ in range(60):
        p = plain.softmax(a * z)
        mean = (p * z).sum(axis=1)
        step = (mean - own).mean() / ((p * z**2).sum(axis=1) - mean**2).mean()
        a -= np.clip(step, -a / 2, a)
        if abs(step) < 1e-12:
            break
    return 1 / a


def offsets(logits, labels):
    """1 / T and three offsets, the fourth being 0."""

    def loss(x):
        return plain.nll(plain.softmax(x[0] * logits + [*x[1:], 0]), labels)

    return minimize(loss, [0.2, 0, 0, 0], method="BFGS").x


def two_halves(n, seed=0):
    fold = np.random.default_rng(seed).permutation(n) % 2
    return [(fold != f, fold == f) for f in (0, 1)]


def cooled(logits, labels):
    """Probabilities at the temperature of the other half."""
    p = np.empty_like(logits)
    for known, asked in two_halves(len(labels)):
        p[asked] = plain.rescaled(logits[asked], newton(logits[known], labels[known]))
    return p


def lifted(logits, labels):
    p = np.empty_like(logits)
    for known, asked in two_halves(len(labels)):
        a, *b = offsets(logits[known], labels[known])
        p[asked] = plain.softmax(max(a, 0) * logits[asked] + [*b, 0])
    return p


def explained(logits, labels):
    """Falls of NLL as it is and at the best temperatures, and the share that these explain."""
    own = np.arange(len(labels)), labels
    raw = np.subtract(*(-np.log(plain.softmax(z)[own]) for z in logits))
    at_best = np.subtract(*(-np.log(cooled(z, labels)[own]) for z in logits))

    def band(statistic):
        return statistic(np.arange(len(labels))), *plain.resample(
            statistic, len(labels), times=1000
        )

    return {
        "nll_fall": band(lambda i: raw[i].mean()),
        "nll_fall_at_t": band(lambda i: at_best[i].mean()),
        "share": band(lambda i: 1 - at_best[i].mean() / raw[i].mean()),
    }


def expected_real(lab):
    qwen = Entry("qwen2.5-coder-1.5b-instruct/zero-shot")
    five = Entry("qwen2.5-coder-1.5b-instruct/five-shot")
    small = Entry("smollm2-135m-instruct/zero-shot")
    y, z = qwen.labels, qwen.logits
    rng, last = np.random.default_rng(4), qwen.p[-1]
    top = last.max(axis=1), last.argmax(axis=1)
    floor = np.mean(
        [  # how far a forecaster that is right stays from 0
            plain.ece(last, np.where(rng.random(qwen.n) < top[0], top[1], -1)) for _ in range(60)
        ]
    )
    answered, right = qwen.commonest(END), np.bincount(y) / qwen.n
    before, after = (p.argmax(axis=1) for p in qwen.p[[START, END]])
    expected = {
        "onset": qwen.onset(), "decision": qwen.decision(), "start": START, "end": END,
        "floor": floor, "baseline": qwen.baseline, "lifted_onset": 22,
        "letter_28": answered[0], "letter_share_28": answered[1],
        "last_right": right["ABCD".index(answered[0])],
        "changed": share((before != after).sum(), qwen.n),
    }  # fmt: skip
    expected["fall"], expected["accuracy_change"] = qwen.change()
    expected["letter_22"], expected["letter_share_22"] = qwen.commonest(22)
    expected["last_block"] = fall_of(plain.ece, qwen, qwen.p[[END - 1, END]])
    band = fall_of(plain.auroc, qwen, qwen.p[[END, START]])
    expected["auroc_change"] = band
    pairs = qwen.p[[START, END]], np.stack([cooled(z[k], y) for k in (START, END)])
    expected["qwen_ece_share"] = share_of(plain.ece, qwen, *pairs)
    expected["qwen_brier_share"] = share_of(brier, qwen, *pairs)
    for place, layer in {"start": START, "end": END}.items():
        for metric in (plain.ece, plain.mce, plain.auroc):
            name = f"{metric.__name__}_{place}"
            expected[name] = qwen.interval(metric, qwen.p[layer])
        expected[f"cooled_ece_{place}"] = qwen.interval(plain.ece, cooled(z[layer], y))
    categories = np.array([category_of(subject) for subject in qwen.subjects])
    stem = categories == "STEM"
    accuracies = np.array([plain.accuracy(p[stem], y[stem]) for p in qwen.p])
    off = np.abs(accuracies - accuracies[-1]) > 0.02
    expected["decision_STEM"] = int(np.flatnonzero(off)[-1]) + 1
    for layer in (START, END):
        band = qwen.of(lambda i, k=layer: newton(z[k][i], y[i]))
        expected[f"temperature_{layer}"] = band
    for key, entry in {"qwen": qwen, "five": five}.items():
        found = explained(entry.logits[[START, END]], entry.labels)
        expected |= {f"{key}_{name}": value for name, value in found.items()}
    with_logits = np.log(lab.base[[6, 8]])
    found = explained(with_logits, lab.labels)
    expected |= {f"lab_{name}": value for name, value in found.items()}
    for layer in (21, 22):
        expected[f"plain_{layer}"] = share(round(accuracy_at(qwen, layer) * qwen.n), qwen.n)
        expected[f"lifted_{layer}"] = qwen.interval(plain.accuracy, lifted(z[layer], y))
    above = np.array([plain.accuracy(lifted(z[k], y), y) for k in range(21, 29)])
    assert plain.wilson(above[0], qwen.n)[0] < qwen.baseline < plain.wilson(above[1], qwen.n)[0]
    expected["lifted_decision"] = 22 + int(np.flatnonzero(np.abs(above - above[-1]) > 0.02)[-1])
    expected |= of_five(five, qwen)
    last = small.p[-1]
    expected |= {
        "small_accuracy": small.interval(plain.accuracy, last),
        "small_baseline": small.baseline,
        "small_least_ece": min(plain.ece(p, small.labels) for p in small.p),
        "small_most_ece": max(plain.ece(p, small.labels) for p in small.p),
        "small_decision": small.decision(),
        "small_start": start_of(small),
        "small_lifted": best_lifted(small),
    }
    expected |= of_exercises(qwen)
    return {f"real_{name}": value for name, value in expected.items()}


def brier(p, labels):
    return ((p - np.eye(4)[labels]) ** 2).sum(axis=1).mean()


def fall_of(metric, entry, pair):
    """A metric at the first of two layers minus at the second, paired."""
    y = entry.labels
    return entry.of(lambda i: metric(pair[0][i], y[i]) - metric(pair[1][i], y[i]))


def share_of(metric, entry, raw, at_best):
    """The share of a metric's fall that is not left at the best temperatures."""
    y = entry.labels

    def statistic(i):
        falls = [metric(a[i], y[i]) - metric(b[i], y[i]) for a, b in (raw, at_best)]
        return 1 - falls[1] / falls[0]

    return entry.of(statistic)


def start_of(entry):
    """The layer of largest ECE from the decision on."""
    first = entry.decision()
    return first + int(np.argmax([plain.ece(p, entry.labels) for p in entry.p[first:]]))


def best_lifted(entry):
    right = [plain.accuracy(lifted(z, entry.labels), entry.labels) for z in entry.logits]
    return share(round(max(right) * entry.n), entry.n)


def accuracy_at(entry, layer):
    return plain.accuracy(entry.p[layer], entry.labels)


def of_five(five, qwen):
    fall, kept = five.change()
    place = {q: i for i, q in reversed([*enumerate(qwen.ids.tolist())])}
    rows = np.array([place[q] for q in five.ids.tolist()])
    before, after, y = qwen.p[-1][rows], five.p[-1], five.labels

    def gain(metric):
        return five.of(lambda i: metric(after[i], y[i]) - metric(before[i], y[i]))

    return {
        "five_onset": five.onset(), "five_decision": five.decision(),
        "five_wider": five.decision(0.03), "five_n": five.n, "five_fall": fall,
        "five_kept": kept, "five_letter_share": five.commonest(END)[1],
        "zero_letter_share": qwen.commonest(END, rows)[1],
        "five_last": fall_of(plain.accuracy, five, five.p[[END, END - 1]]),
        "five_accuracy": gain(plain.accuracy), "five_ece": gain(plain.ece),
        **{
            f"five_accuracy_{layer}": five.interval(plain.accuracy, five.p[layer])
            for layer in (27, 28)
        },
    }  # fmt: skip


def of_exercises(qwen):
    y, z = qwen.labels, qwen.logits
    right = np.bincount(y) / qwen.n
    letter = int(np.bincount(qwen.p[20].argmax(axis=1)).argmax())

    found = {"letter": "ABCD"[letter], "letter_right": right[letter]}
    rng = np.random.default_rng(0)
    for size in (200, 500, 1000, 4000):
        rows = rng.choice(qwen.n, size, replace=False)
        found[f"few_{size}"] = explained(z[[START, END]][:, rows], y[rows])["share"]
    return found
