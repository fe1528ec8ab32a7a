"""What the chapter on training and sampling says: samples drawn by another generator, the losses'
minima by another optimiser. The table of training runs is shipped, as their weights are not: what
its bins tell is added up again, the rest is taken as it stands."""

import json
from importlib.resources import files

import numpy as np
import torch
from recomputed import basics as plain
from scipy.optimize import minimize_scalar

SHIPPED = files("calib.laboratory") / "retraining.json"
HEADER = "The following are questions (with answers) about {}.\n\n"


def wanted(r, gamma=3):
    """The confidence of least expected focal loss, where the others are alike."""

    def expected(v):
        others = (1 - v) / 3
        return -r * (1 - v) ** gamma * np.log(v) - (1 - r) * (1 - others) ** gamma * np.log(others)

    return minimize_scalar(expected, bounds=(0.25, 0.999), method="bounded").x


def from_the_table():
    values = {}
    for run in json.loads(SHIPPED.read_text())["runs"]:
        key = f"training_{run['regime']}_{run['loss']}_{run['seed']}"
        bins = run["reliability"]
        count, c, a = (np.array(bins[name]) for name in ("count", "confidence", "accuracy"))
        values[f"{key}_ece"] = (count * abs(c - a)).sum() / count.sum()
        values[f"{key}_gap"] = (count * (c - a)).sum() / count.sum()
        values[f"{key}_accuracy"] = (count * a).sum() / count.sum()
        for name in ("auroc", "truth", "ece_scaled"):
            values[f"{key}_{name}"] = run[name]
        if "ece_recovered" in run:
            values[f"{key}_recovered"] = run["ece_recovered"]
    return values


class Facts:
    """Each fact of the test split once, asked openly and with its options."""

    def __init__(self, lab, questions):
        found = {row["question"]: i for i, row in reversed(list(enumerate(questions)))}
        self.rows = [questions[i] for i in sorted(found.values())]
        self.reliability = np.array([max(row["posterior"]) for row in self.rows])
        self.n, self.models = len(self.rows), lab.models

    def words(self, name):
        """Probabilities of all words, and the token of each right answer."""
        module, tokenizer, _ = self.models[name]
        prompts = [
            f"{HEADER.format(row['subject'].replace('_', ' '))}{row['question']}\nAnswer:"
            for row in self.rows
        ]
        _, logits = plain.last_states(module, tokenizer, prompts)
        right = [" " + row["choices"][row["answer"]] for row in self.rows]
        tokens = np.array([ids[0] for ids in tokenizer(right)["input_ids"]])
        return logits.double().softmax(-1).numpy(), tokens

    def letters(self, name):
        module, tokenizer, tokens = self.models[name]
        _, logits = plain.last_states(module, tokenizer, list(map(plain.prompt_of, self.rows)))
        right = np.array([row["answer"] for row in self.rows])
        p = torch.softmax(logits[:, tokens].double(), -1).numpy()
        return p.max(axis=1), p.argmax(axis=1) == right


def drawn(p, n, seed):
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(len(row), n, p=row / row.sum()) for row in p])


def most_frequent(samples):
    counts = [np.unique(row, return_counts=True) for row in samples]
    answer = np.array([kinds[count.argmax()] for kinds, count in counts])
    entropy = [-(c / c.sum()) @ np.log(c / c.sum()) / np.log(max(len(c), 2)) for _, c in counts]
    return answer, np.array([count.max() for _, count in counts]) / samples.shape[1], entropy


def binned(confidence, right):
    """ECE of pairs, bin by bin."""
    total = 0.0
    for b in range(10):
        inside = (confidence > b / 10) & (confidence <= (b + 1) / 10)
        total += abs((confidence - right)[inside].sum())
    return total / len(right)


def one_of(k, n, right):
    """Share of the choices of k among n that hold one of the right ones, factor by factor."""
    missed = np.ones(len(right))
    for i in range(k):
        missed *= np.maximum(n - right - i, 0) / (n - i)
    return 1 - missed


def dealt(chances, budget):
    """One answer at a time to where it adds most."""
    spent = np.zeros(len(chances), dtype=int)
    for _ in range(budget):
        spent[(chances * (1 - chances) ** spent).argmax()] += 1
    return spent


def expected_training(lab, questions):
    facts = Facts(lab, questions)
    values = from_the_table() | {"training_wants_97": wanted(0.97)}

    def put(key, statistic):
        """Means of 300 resamples of the facts, beside the value itself."""
        values[f"training_{key}"] = lab.of(statistic, n=facts.n)

    for name, model in (("base", "almanac"), ("tuned", "almanac-tuned")):
        p, tokens = facts.words(model)
        samples = drawn(p, 80, seed=11)
        said, tried = samples[:, :40], samples[:, 40:]
        answer, sure, entropy = most_frequent(said)
        spoken, by_letter = answer == tokens, facts.letters(model)
        for kind, c, right in (
            ("agreement", sure, spoken),
            ("entropy", 1 - np.array(entropy), spoken),
            ("letters", *by_letter),
        ):
            key = f"{name}_{kind}"
            put(f"{key}_ece", lambda i, c=c, right=right: binned(c[i], right[i]))
            put(f"{key}_gap", lambda i, c=c, right=right: np.mean(c[i] - right[i]))
            put(
                f"{key}_truth",
                lambda i, c=c: np.corrcoef(c[i], facts.reliability[i])[0, 1],
            )
        put(f"{name}_one_ece", lambda i, c=sure, y=spoken: abs(c[i].mean() - y[i].mean()))
        alike = [(said == said[:, [j]]).sum(axis=1) - 1 for j in range(40)]
        for k in (5, 39):
            curves = {
                "measured": one_of(k, 40, (tried == tokens[:, None]).sum(axis=1)),
                "agreement": 1 - (1 - sure) ** k,
                "answers": np.mean([one_of(k, 39, same) for same in alike], axis=0),
            }
            for key, solved in curves.items():
                put(f"pass_{name}_{key}_{k}", lambda i, solved=solved: solved[i].mean())
        mu = p[np.arange(facts.n), tokens]
        for key, guess in (("true", mu), ("agreement", sure), ("letters", by_letter[0])):
            gained = (1 - mu) ** 2 - (1 - mu) ** dealt(guess, 2 * facts.n)
            put(f"gain_{name}_{key}", lambda i, gained=gained: gained[i].mean())
    return values
