"""The book's quantities computed a second time, without calib: transformers' own hidden states and
loops that follow the definitions. Slow and plain on purpose."""

from importlib.resources import files

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

HEADER = "The following are multiple choice questions (with answers) about {}.\n\n"


def prompt_of(row):
    options = "".join(f"{letter}. {c}\n" for letter, c in zip("ABCD", row["choices"], strict=True))
    return f"{HEADER.format(row['subject'].replace('_', ' '))}{row['question']}\n{options}Answer:"


def few_shot_prompts(rows, exemplars, shots):
    prompts = []
    for row in rows:
        header = HEADER.format(row["subject"].replace("_", " "))
        solved = [r for r in exemplars if r["subject"] == row["subject"]][:shots]
        blocks = [f"{prompt_of(r).removeprefix(header)} {'ABCD'[r['answer']]}\n\n" for r in solved]
        prompts.append(header + "".join(blocks) + prompt_of(row).removeprefix(header))
    return prompts


def load(name):
    folder = files("calib.laboratory") / name
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return module, AutoTokenizer.from_pretrained(folder)


def last_states(module, tokenizer, prompts):
    """Residual streams at the last token ``[layers + 1, prompts, d_model]``, and the model's own
    last logits ``[prompts, vocabulary]``; prompts of equal length at a time, so without padding."""
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    last = []  # hidden_states end after the final norm: the last layer's own output comes by a hook
    module.model.layers[-1].register_forward_hook(lambda _, __, output: last.append(output))
    stream = torch.empty(len(module.model.layers) + 1, len(ids), module.config.hidden_size)
    logits = torch.empty(len(ids), module.config.vocab_size)
    for length in sorted({len(row) for row in ids}):
        rows = [i for i, row in enumerate(ids) if len(row) == length]
        for some in torch.tensor(rows).split(256):
            last.clear()
            batch = torch.tensor([ids[i] for i in some])
            with torch.no_grad():
                output = module(input_ids=batch, output_hidden_states=True)
            states = [*output.hidden_states[:-1], last[0]]
            stream[:, some] = torch.stack([state[:, -1] for state in states])
            logits[some] = output.logits[:, -1]
    return stream, logits


def full_lens(module, stream):
    """Probabilities over the whole vocabulary ``[layers + 1, prompts, vocabulary]``."""
    with torch.no_grad():
        return module.lm_head(module.model.norm(stream)).softmax(-1)


def accuracy(p, labels):
    return np.mean(p.argmax(axis=1) == labels)


def confidence(p, labels):
    return np.mean(p.max(axis=1))


def gap(p, labels):
    return confidence(p, labels) - accuracy(p, labels)


def nll(p, labels):
    return -np.mean(np.log(p[np.arange(len(p)), labels]))


def bins_of(p, outcome, n_bins=10):
    """Share of questions and |confidence - outcome| of each bin that is not empty."""
    top = p.max(axis=1)
    for b in range(n_bins):
        inside = (top > b / n_bins) & (top <= (b + 1) / n_bins)
        if inside.any():
            yield inside.sum(), abs(top[inside].mean() - outcome[inside].mean())


def ece(p, labels, n_bins=10):
    outcome = p.argmax(axis=1) == labels
    return sum(n * error for n, error in bins_of(p, outcome, n_bins)) / len(p)


def mce(p, labels, min_count=20):
    outcome = p.argmax(axis=1) == labels
    return max(error for n, error in bins_of(p, outcome) if n >= min_count)


def true_ece(p, posterior):
    chance_right = posterior[np.arange(len(p)), p.argmax(axis=1)]
    return sum(n * error for n, error in bins_of(p, chance_right)) / len(p)


def resample(statistic, n, times=300, level=0.95, seed=1):
    """Percentile interval of ``statistic(rows)`` over resampled rows of n questions."""
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(n, size=n)) for _ in range(times)]
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2])


def wilson(share, n):
    """By solving (share - p)^2 = 1.96^2 p (1 - p) / n for p."""
    z2 = 1.96**2
    low, high = sorted(np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2]).real)
    return low, high


def auroc(p, labels):
    return roc_auc_score(p.argmax(axis=1) == labels, p.max(axis=1))


def softmax(logits):
    return torch.as_tensor(np.asarray(logits, dtype=np.float64)).softmax(-1).numpy()


def rescaled(logits, temperature):
    return softmax(np.asarray(logits, dtype=np.float64) / temperature)


def best_temperature(loss):
    found = minimize_scalar(
        lambda t: loss(np.exp(t)), bounds=(-3, 4), method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(found.x))


def pushed_states(module, tokenizer, prompts, pushes):
    """Last residual streams ``[pushes, prompts, d_model]`` when a vector is added to the stream at
    the last token: ``pushes`` are pairs of layer (1 or more) and vector. What comes before the last
    token is run once, its keys and values kept."""
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    states, last = torch.empty(len(pushes), len(ids), module.config.hidden_size), []
    layers = module.model.layers
    seen = layers[-1].register_forward_hook(lambda _, __, output: last.append(output[:, -1]))
    for length in sorted({len(row) for row in ids}):
        rows = [i for i, row in enumerate(ids) if len(row) == length]
        for some in torch.tensor(rows).split(256):
            batch = torch.tensor([ids[i] for i in some])
            with torch.no_grad():
                cache = module(input_ids=batch[:, :-1], use_cache=True).past_key_values
                for k, (layer, vector) in enumerate(pushes):
                    add = torch.tensor(np.asarray(vector), dtype=torch.float32)
                    # The first hook of the layer, so that the last state is seen as pushed.
                    hook = layers[layer - 1].register_forward_hook(
                        lambda _, __, output, add=add: output + add, prepend=True
                    )
                    last.clear()
                    module(input_ids=batch[:, -1:], past_key_values=cache, use_cache=True)
                    hook.remove()
                    cache.crop(-1)
                    states[k, some] = last[0]
    seen.remove()
    return states
