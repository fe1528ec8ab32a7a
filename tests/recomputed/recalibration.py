"""What the chapter on recalibration says, each method from its definition."""

import numpy as np
import torch
from recomputed import basics as plain
from recomputed.beyond import nll, said
from recomputed.steering import unit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import RidgeCV

from calib.recalibration import FewShot, draw_mixtures

FAVOUR = np.array([np.log(3), 0, 0, 0])


class Split:
    """Logits, answers and labels of some questions, as the methods read them."""

    def __init__(self, p, labels):
        self.p, self.labels = p, labels
        self.logits, self.top = np.log(p), p.max(axis=1)
        self.right = p.argmax(axis=1) == labels

    def some(self, rows):
        return Split(self.p[rows], self.labels[rows])


def temperature(fit):
    return plain.best_temperature(lambda t: plain.nll(plain.rescaled(fit.logits, t), fit.labels))


def tempered(fit, judge):
    return plain.rescaled(judge.logits, temperature(fit))


def histogram(fit, judge, n_bins=5):
    """Each answer says the accuracy of the fifth of the calibration split that it falls in."""
    order = np.argsort(fit.top, kind="stable")
    parts = np.array_split(order, n_bins)
    says = np.full(len(judge.p), fit.right[parts[-1]].mean())
    for part in reversed(parts[:-1]):
        says[judge.top <= fit.top[part].max()] = fit.right[part].mean()
    return said(judge.p, says)


def isotonic(fit, judge):
    steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    return said(judge.p, steps.fit(fit.top, fit.right).predict(judge.top))


def local(fit, judge, there, here, gamma=0.2, n_bins=5, n_components=3):
    """The accuracy of the bin's questions, weighted by their distance in the first components."""
    mean = there.mean(axis=0)
    _, s, axes = np.linalg.svd(there - mean, full_matrices=False)
    unit = s[0] / np.sqrt(len(there) - 1)
    x, z = ((a - mean) @ axes[:n_components].T / unit for a in (there, here))
    order = np.argsort(fit.top, kind="stable")
    parts = np.array_split(order, n_bins)
    edges, says = [fit.top[part].max() for part in parts[:-1]], np.empty(len(judge.p))
    for i, (row, top) in enumerate(zip(z, judge.top, strict=True)):
        part = parts[np.searchsorted(edges, top)]
        k = np.exp(-np.abs(x[part] - row).mean(axis=1) / gamma)
        says[i] = k @ fit.right[part] / k.sum()
    return said(judge.p, says)


def normed(some, name):
    """The final norm's output at the answer position."""
    module, _, _ = some.models[name]
    with torch.no_grad():
        return module.model.norm(torch.tensor(some.stream[name][8])).double().numpy()


def middle(values):
    return np.median(values), *np.quantile(values, [0.1, 0.9], method="nearest")


def expected_recalibration(lab, cal):
    name, labels = "almanac-tuned", lab.labels
    on, off = Split(cal.tuned[-1], cal.labels), Split(lab.tuned[-1], labels)
    there, here = (normed(some, name) for some in (cal, lab))
    ways = {
        "as_it_is": off.p,
        "temperature": tempered(on, off),
        "histogram": histogram(on, off),
        "LoRe": local(on, off, there, here),
    }
    values = {}
    for way, p in ways.items():
        for metric in (plain.ece, plain.nll, plain.auroc):
            key = f"recalibration_tuned_{way}_{metric.__name__}"
            values[key] = lab.interval(metric, p)
    for way in ("temperature", "histogram"):
        change = lab.change(plain.auroc, ways[way], off.p)
        values[f"recalibration_tuned_{way}_auroc_change"] = change
    values |= steered(lab, cal)
    rng, methods = np.random.default_rng(0), {"temperature": tempered, "histogram": histogram}
    for n in (50, 200):
        drawn = [rng.permutation(2000)[:n] for _ in range(10)]
        for key, method in methods.items():
            answers = [method(on.some(rows), off) for rows in drawn]
            for metric in (plain.ece, nll):
                errors = [metric(p, labels) for p in answers]
                values[f"recalibration_{key}_{n}_{metric.__name__}"] = middle(errors)
    return values | shifted(lab, cal) | slices(lab, cal) | letters(lab, cal)


def steered(lab, cal):
    """A regression of the signed gap on the stream of layer 4, at the best of eleven strengths."""
    name, x = "almanac-tuned", cal.stream["almanac-tuned"][4].astype(float)
    scale, on = np.median(np.linalg.norm(x, axis=1)), Split(cal.tuned[-1], cal.labels)
    penalties = np.logspace(-5, 1, 13)
    ridge = RidgeCV(alphas=len(x) * penalties).fit((x - x.mean(axis=0)) / scale, on.top - on.right)
    vector = unit(ridge.coef_) * scale
    strengths = np.linspace(-2, 2, 11)
    logits = cal.pushed([(4, strength * vector) for strength in strengths])
    scores = {s: plain.softmax(z) for s, z in zip(strengths, logits, strict=True)}
    still = plain.accuracy(scores[0], cal.labels)
    near = [
        s for s, p in scores.items() if abs(plain.accuracy(p, cal.labels) - still) <= 0.005 + 1e-9
    ]
    best = min(near, key=lambda s: plain.nll(scores[s], cal.labels))
    p = plain.softmax(lab.pushed([(4, best * vector)]))[0]
    return {
        "recalibration_tuned_direction_ece": lab.interval(plain.ece, p),
        "recalibration_tuned_direction_nll": lab.interval(plain.nll, p),
        "recalibration_tuned_direction_auroc_change": lab.change(plain.auroc, p, lab.p[name][-1]),
    }


def shifted(lab, cal):
    """Fitted on the subjects with most right answers, judged on the others, and back."""
    of, asked = (np.array(some.questions["subject"]) for some in (cal, lab))
    right = cal.base[-1].argmax(axis=1) == cal.labels
    easy = sorted(set(of), key=lambda subject: right[of == subject].mean())[4:]
    on_easy, in_easy = np.isin(of, easy), np.isin(asked, easy)
    values = {}

    def judge(key, metric, method, name, fitted, judged):
        fit = Split(cal.p[name][-1], cal.labels).some(fitted)
        p = method(fit, Split(lab.p[name][-1], lab.labels).some(judged))
        rows = np.flatnonzero(judged)
        found = lab.of(lambda i: metric(p[i], lab.labels[rows[i]]), n=len(rows))
        values[f"recalibration_{key}_{metric.__name__}"] = found

    tuned, base = "almanac-tuned", "almanac"
    judge("easy_tuned_temperature_other", plain.gap, tempered, tuned, on_easy, ~in_easy)
    judge("easy_tuned_temperature_own", plain.gap, tempered, tuned, ~on_easy, ~in_easy)
    judge("hard_tuned_temperature_other", plain.gap, tempered, tuned, ~on_easy, in_easy)
    for shift, fitted, judged in (("easy", on_easy, ~in_easy), ("hard", ~on_easy, in_easy)):
        judge(f"{shift}_base_histogram_other", plain.ece, histogram, base, fitted, judged)
        judge(f"{shift}_tuned_temperature_other", plain.ece, tempered, tuned, fitted, judged)
        judge(f"{shift}_tuned_isotonic_other", plain.ece, isotonic, tuned, fitted, judged)
    judge("easy_base_as_it_is_other", plain.ece, lambda _, q: q.p, base, on_easy, ~in_easy)
    return values


def slices(lab, cal):
    """Mixtures of subjects: the network is the library's, what its curves are worth is not."""
    of, asked = (np.array(some.questions["subject"]) for some in (cal, lab))
    second = sorted(set(of))[::2]
    logits = {}
    for side, some, whose in (("on", cal, of), ("off", lab, asked)):
        base, tuned = np.log(some.base[-1]), np.log(some.tuned[-1])
        every_second = np.isin(whose, second)[:, None]
        logits["base", side], logits["tuned", side] = base, tuned
        logits["patchwork", side] = np.where(every_second, tuned, base)
        logits["reversed", side] = np.where(every_second, base, tuned)
    mixtures, values = draw_mixtures(asked, 220, 200, seed=1), {}
    for name in ("base", "tuned", "patchwork", "reversed"):
        z, x = logits[name, "on"], logits[name, "off"]
        method = FewShot().fit(z, cal.labels, subjects=of)
        fit, pooled, rows = Split(plain.softmax(z), cal.labels), method.given(z), []
        t = temperature(fit)
        for mixture, other in zip(mixtures, np.roll(mixtures, 1, axis=0), strict=True):
            judged, y = x[mixture[20:]], lab.labels[mixture[20:]]
            shown, elsewhere = method.given(x[mixture[:20]]), method.given(x[other[:20]])
            curves = pooled(judged), shown(judged), elsewhere(judged)
            one = plain.nll(plain.rescaled(judged, t), y)
            rows.append([plain.nll(p, y) - one for p in curves])
        pooled, shown, swapped = np.transpose(rows)
        for key, change in (
            ("few-shot", shown),
            ("swapped", swapped),
            ("gain", shown - pooled),
        ):
            values[f"recalibration_few_{name}_{key}"] = lab.of(
                lambda i, change=change: change[i].mean(), n=len(change)
            )
    return values


def turned(row, shift):
    """A question with its options moved on by some letters."""
    return row | {"choices": row["choices"][-shift:] + row["choices"][:-shift]} if shift else row


def answers(lab, rows, name="almanac"):
    """A model's letters for rows of questions: log probabilities ``[rows, 4]``."""
    module, tokenizer, tokens = lab.models[name]
    _, logits = plain.last_states(module, tokenizer, [plain.prompt_of(row) for row in rows])
    return logits[:, tokens].double().log_softmax(-1).numpy()


def letters(lab, cal):
    """A favour for A planted in the base model, and taken out again."""
    n = 500
    rows, y = [lab.questions[i] for i in range(n)], lab.labels[:n]
    z = np.stack([answers(lab, [turned(row, k) for row in rows]) for k in range(4)], axis=1)
    options = (np.arange(4) + np.arange(4)[:, None]) % 4  # [rotations, options]: their letters
    few = [turned(cal.questions[i], k) for i in range(20) for k in range(4)]
    few = answers(lab, few)
    subjects = sorted(set(cal.questions["subject"]))
    empty = [
        {"question": text, "subject": subject, "choices": [text] * 4}
        for subject in subjects
        for text in ("N/A", "[MASK]", "")
    ]
    empty, on = answers(lab, empty), np.log(cal.base[-1])
    ways = {}
    for planted, add in (("as", 0), ("planted", FAVOUR)):
        p = plain.softmax(z + add)  # [questions, rotations, letters]
        priors = {
            "none": np.ones(4),
            "batch": plain.softmax(on + add).mean(axis=0),
            "contextual": plain.softmax(empty + add).mean(axis=0),
            "PriDe": np.exp(np.log(plain.softmax(few + add)).mean(axis=0)),
        }
        for key, prior in priors.items():
            q = p[:, 0] / prior
            ways[key, planted] = q / q.sum(axis=1, keepdims=True)
        by_option = np.take_along_axis(p, options[None], axis=2)
        ways["rotations", planted] = by_option.mean(axis=1)
    values = {
        f"recalibration_letters_base_{key}_{planted}": lab.change(
            plain.nll, p, ways["none", "as"], np.arange(n)
        )
        for (key, planted), p in ways.items()
    }
    tuned = answers(lab, rows, "almanac-tuned")
    values["recalibration_letters_tuned_none_planted"] = lab.change(
        plain.nll, plain.softmax(tuned + FAVOUR), plain.softmax(tuned), np.arange(n)
    )
    p = plain.softmax(z)
    chosen = np.take_along_axis(p, options[None], axis=2).argmax(axis=2)  # [questions, rotations]
    changes = (chosen != chosen[:, :1]).any(axis=1)

    def unevenness(i):
        right_at = (y[i][:, None] + np.arange(4)) % 4
        hit = p[i].argmax(axis=2) == right_at
        return np.std([hit[right_at == letter].mean() for letter in range(4)])

    values["recalibration_base_changes"] = lab.of(lambda i: changes[i].mean(), n=n)
    values["recalibration_base_rstd"] = lab.of(unevenness, n=n)
    return values
