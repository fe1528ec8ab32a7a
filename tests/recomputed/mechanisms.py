"""What the chapter on mechanisms says, from hooks on plain modules and the readout by hand."""

from copy import copy
from itertools import groupby, product

import numpy as np
import torch
from recomputed import basics as plain
from recomputed.steering import BASE, TUNED, unit

from calib import load_questions, open_model
from calib.mechanisms import fit_tuned_lens

COMPONENTS = ("attention_7", "MLP_7", "attention_8", "MLP_8")


class Walk:
    """A model's residual streams from layer 6 to 8, by component: ``steps [5, questions, 128]``."""

    def __init__(self, lab, name):
        module, _, letters = lab.models[name]
        rows = module.lm_head.weight * module.model.norm.weight
        self.vocabulary = rows.detach().double().numpy()
        self.rows = self.vocabulary[letters]
        apart = np.linalg.svd(self.rows - self.rows.mean(axis=0))[2][:3]  # what tells letters apart
        mean = self.rows.mean(axis=0)
        self.common = unit(mean - apart.T @ (apart @ mean))
        self.epsilon = module.config.rms_norm_eps
        self.vectors = module.model.layers[7].mlp.down_proj.weight.detach().double().numpy().T
        writes, self.neurons = written(name, lab.prompts)
        self.steps = np.cumsum([lab.stream[name][6].astype(float), *writes], axis=0)
        np.testing.assert_allclose(self.steps[[2, 4]], lab.stream[name][7:], atol=1e-4)

    def length(self, streams):
        return np.sqrt(np.mean(streams**2, axis=-1, keepdims=True) + self.epsilon)

    def read(self, streams, length=None):
        """Probabilities of the letters, at the streams' own length or at another."""
        length = self.length(streams) if length is None else length
        return plain.softmax(streams @ self.rows.T / length)


def written(name, prompts):
    """At the last token: what attention and MLP of layers 7 and 8 write, and layer 8's neurons."""
    module, tokenizer = plain.load(name)  # one of its own, for the hooks to stay on
    seven, eight = module.model.layers[6:]
    parts = seven.self_attn, seven.mlp, eight.self_attn, eight.mlp, eight.mlp.down_proj
    seen = {part: [] for part in parts}

    def keep(part, inputs, output):
        found = inputs if part is eight.mlp.down_proj else output
        seen[part].append((found[0] if isinstance(found, tuple) else found)[:, -1])

    for part in seen:
        part.register_forward_hook(keep)
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for _, rows in groupby(by_length, key=lambda i: len(ids[i])):
        for some in torch.tensor(list(rows)).split(256):
            with torch.no_grad():
                module.model(torch.tensor([ids[i] for i in some]))
    back = np.argsort(by_length)
    *writes, neurons = (torch.cat(some).double().numpy()[back] for some in seen.values())
    return writes, neurons


def asked_by_the_chapter(lab):
    """The laboratory with the chapter's 2,000 questions only, wherever they stand among its own."""
    place = {prompt: i for i, prompt in enumerate(lab.prompts)}
    rows = [place[plain.prompt_of(row)] for row in load_questions("almanac", limit=2000)]
    few = copy(lab)
    few.n, few.prompts = len(rows), [lab.prompts[i] for i in rows]
    few.labels, few.reliability = lab.labels[rows], lab.reliability[rows]
    few.base = lab.base[:, rows]
    few.stream = {name: stream[:, rows] for name, stream in lab.stream.items()}
    return few


def expected_mechanisms(lab, cal):
    lab = asked_by_the_chapter(lab)
    base, means = Walk(lab, BASE), Walk(cal, BASE).neurons.mean(axis=0)
    values = components(lab, {"base": base, "tuned": Walk(lab, TUNED)})
    values |= crossed(lab, base) | removed(lab, base) | replaced(lab, base)
    return values | one_by_one(lab, base, means) | together(lab, base, means) | lenses(lab, cal)


def scores(lab, ways, metrics=(plain.confidence, plain.ece)):
    values = {f"mechanisms_{key}_truth": lab.follows(p) for key, p in ways.items()}
    for (key, p), metric in product(ways.items(), metrics):
        values[f"mechanisms_{key}_{metric.__name__}"] = lab.interval(metric, p)
    return values


def crossed(lab, base):
    """What is read at one layer, divided by the length at the other."""
    six, eight = base.steps[0], base.steps[4]
    ways = {"start": (six, six), "write": (eight, six), "norm": (six, eight), "end": (eight, eight)}
    ways = {key: base.read(x, base.length(y)) for key, (x, y) in ways.items()}
    first = lab.change(plain.confidence, ways["norm"], ways["start"])
    return scores(lab, ways) | {"mechanisms_norm_first": first}


def components(lab, walks):
    """Each step's change of confidence: the reads at the old length, then the length."""
    values = {}
    for name, walk in walks.items():
        for component, old, new in zip(COMPONENTS, walk.steps, walk.steps[1:], strict=False):
            wrote, key = walk.read(new, walk.length(old)), f"mechanisms_{name}_{component}"
            values[f"{key}_write"] = lab.change(plain.confidence, wrote, walk.read(old))
            values[f"{key}_norm"] = lab.change(plain.confidence, walk.read(new), wrote)
    return values


def null_space(vocabulary):
    """The last right-singular vectors, as many as sum up to 1 % of all singular values."""
    _, sizes, vectors = np.linalg.svd(vocabulary - vocabulary.mean(axis=0), full_matrices=False)
    first = next(i for i in range(len(sizes)) if sizes[i:].sum() <= 0.01 * sizes.sum())
    return vectors[first:]


def removed(lab, base):
    """Shares of the stream in subspaces, and confidence without them."""
    stream, intact = base.steps[4], base.read(base.steps[4])
    spaces = {"null": null_space(base.vocabulary), "common": base.common[None]}
    k, changes = len(spaces["null"]), []
    values = {"mechanisms_null_dimensions": k, "mechanisms_null_random": k / 128}
    for key, basis in spaces.items():
        for layer, x in ((6, base.steps[0]), (8, stream)):
            share = np.sum((x @ basis.T) ** 2, axis=1) / np.sum(x**2, axis=1)
            values[f"mechanisms_{key}_share_{layer}"] = lab.of(lambda i, s=share: s[i].mean())
        left, key = stream - stream @ basis.T @ basis, f"mechanisms_without_{key}_confidence"
        values[key] = lab.change(plain.confidence, base.read(left), intact)
        frozen = base.read(left, base.length(stream))
        values[f"{key}_frozen"] = lab.change(plain.confidence, frozen, intact)
    for seed in range(100):
        basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(128, k)))[0]
        without = base.read(stream - stream @ basis @ basis.T)
        changes.append(np.mean(without.max(axis=1) - intact.max(axis=1)))
    values["mechanisms_without_random_confidence"] = np.quantile(changes, [0.5, 0.025, 0.975])
    return values


def replaced(lab, base):
    """Other vectors in place of what block 8 adds."""
    before, added = base.steps[2], base.steps[4] - base.steps[2]
    along, sizes = np.outer(added @ base.common, base.common), abs(added @ base.common)
    instead = {"before": 0, "along": along, "mean": along.mean(axis=0), "rest": added - along}
    values = scores(lab, {key: base.read(before + x) for key, x in instead.items()})
    vectors = [np.random.default_rng(seed).normal(size=128) for seed in range(100)]
    crowd = [base.read(before + np.outer(sizes, unit(v))) for v in vectors]
    for metric in (plain.confidence, plain.ece):
        middle = np.quantile([metric(p, lab.labels) for p in crowd], [0.5, 0.025, 0.975])
        values[f"mechanisms_crowd_{metric.__name__}"] = middle
    share = np.sum(along**2, axis=1) / np.sum(added**2, axis=1)
    return values | {"mechanisms_added_common": lab.of(lambda i: share[i].mean())}


def one_by_one(lab, base, means):
    """The largest effects of neurons held at their means or at zero: in all, by the norm."""
    stream, values = base.steps[4], {}
    intact, length = base.read(stream), base.length(stream)
    for way, constants in (("held", means), ("silent", 0 * means)):
        pairs = {"largest": [], "norm": []}
        for neuron, vector in enumerate(base.vectors):
            changed = stream + np.outer(constants[neuron] - base.neurons[:, neuron], vector)
            pairs["largest"].append((base.read(changed), intact))
            pairs["norm"].append((base.read(changed), base.read(changed, length)))
        for key, found in pairs.items():
            sizes = [abs(np.mean(p.max(axis=1) - q.max(axis=1))) for p, q in found]
            largest = found[np.argmax(sizes)]
            values[f"mechanisms_{key}_{way}"] = lab.change(plain.confidence, *largest)
    basis, size = null_space(base.vocabulary), np.linalg.norm(base.vectors, axis=1)
    rho = np.linalg.norm(base.vectors @ basis.T, axis=1) / size
    values["mechanisms_rho"] = rho.mean(), *np.quantile(rho, [0.025, 0.975])
    return values | {"mechanisms_rho_random": np.sqrt(len(basis) / 128)}


def together(lab, base, means):
    """Neurons set to zero together."""
    stream, intact = base.steps[4], base.read(base.steps[4])

    def silent(group, length=None):
        return base.read(stream - base.neurons[:, group] @ base.vectors[group], length)

    lengths = np.outer(*(np.linalg.norm(x, axis=1) for x in (base.vectors, base.vocabulary)))
    logit_var = np.argsort(np.var(base.vectors @ base.vocabulary.T / lengths, axis=1))
    by_common, rng = np.argsort(-means * (base.vectors @ base.common)), np.random.default_rng(0)
    groups = {"logit_var": logit_var[:10], "silent": logit_var}
    by_size = np.argsort(-abs(means) * np.linalg.norm(base.vectors, axis=1))
    groups |= {"common_10": by_common[:10], "common_50": by_common[:50], "size_50": by_size[:50]}
    values = {
        f"mechanisms_{key}_confidence_change": lab.change(plain.confidence, silent(group), intact)
        for key, group in groups.items()
    }
    total, direct = (silent(by_common[:50], s) for s in (None, base.length(stream)))
    values["mechanisms_common_50_norm"] = lab.change(plain.confidence, total, direct)
    # The chapter draws 10, 50, 100 and 200, twenty times.
    fifties = [[rng.permutation(384)[:n] for n in (10, 50, 100, 200)][1] for _ in range(20)]
    changes = [np.mean(silent(some).max(axis=1) - intact.max(axis=1)) for some in fifties]
    return values | {"mechanisms_random_50": np.quantile(changes, [0.5, 0, 1])}


def lenses(lab, cal):
    # The library's: how it is fitted is tested elsewhere, what is read through it is checked here.
    lens, ways = fit_tuned_lens(open_model(BASE), cal.questions), {}
    for layer in (4, 6):
        ways[f"logit_lens_{layer}"] = lab.base[layer]
        stream = torch.tensor(lab.stream[BASE][layer])
        translated = stream + stream @ lens.matrices[layer].T + lens.shifts[layer]
        ways[f"tuned_lens_{layer}"] = plain.softmax(lab.letters_of(translated, BASE))
    said, logits = cal.base[8], np.log(cal.base[6])
    fitted = plain.best_temperature(lambda t: -np.mean(said * np.log(plain.rescaled(logits, t))))
    ways["temperature_6"] = plain.rescaled(np.log(lab.base[6]), fitted)
    return scores(lab, ways, (plain.accuracy, plain.ece))
