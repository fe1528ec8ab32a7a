"""Every neuron of a layer ablated: what it costs, in plain forward passes of its prompts.

The same random model and tokenizer as in reading.py, on MMLU questions of 150 to 170 tokens. Some
neurons are first compared with a run of their own, in which a hook replaces the activation. Then
the sweeps and plain passes take turns; what one pass a neuron would take is reckoned from a plain
pass.

    python benchmarks/ablation.py FOLDER_OF_MMLU [--prompts 12] [--rounds 3] [--device cuda]
"""

import argparse
import statistics
from time import perf_counter

import torch
from reading import learn_tokenizer, random_llama

from calib import load_questions, open_model
from calib.mechanisms import ablate_neurons, read_activations
from calib.questions.prompts import build_prompts, option_tokens, tokenize
from calib.reading._forward import pad_right


def ablated_run(module, inputs, last, tokens, layer, neuron, constant):
    """Option logits of one run of its own, with an activation replaced by a hook."""
    rows = torch.arange(len(last))

    def hook(_, args):
        args[0][rows, last, neuron] = constant

    down = module.model.layers[layer - 1].mlp.down_proj
    handle = down.register_forward_pre_hook(hook)
    states = module.model(**inputs, use_cache=False).last_hidden_state
    handle.remove()
    return module.lm_head(states[rows, last])[:, tokens]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="MMLU, in the layout of cais/mmlu")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    questions = load_questions(args.folder).select(range(2000))
    tokenizer = learn_tokenizer(questions)
    module = random_llama(args.device)
    model = open_model((module, tokenizer))
    prompts = tokenize(tokenizer, build_prompts(questions))
    rows = [i for i, prompt in enumerate(prompts) if 150 <= len(prompt) <= 170][: args.prompts]
    questions, prompts = questions.select(rows), [prompts[i] for i in rows]
    tokens = option_tokens(tokenizer, 4)
    inputs, last = pad_right(prompts, args.device)

    # To the CPU, as the others: a GPU is done only then.
    plain_road = lambda: module(**inputs, logits_to_keep=1).logits.cpu()  # noqa: E731
    roads = {"plain forward: last logits only": plain_road}
    for name, layer in {"last": model.n_layers, "middle": model.n_layers // 2}.items():
        means = read_activations(model, questions, layer).mean(axis=0)
        found = ablate_neurons(model, questions, layer, means, [[0], [700]])
        for i, neuron in enumerate((0, 700)):
            own = ablated_run(module, inputs, last, tokens, layer, neuron, float(means[neuron]))
            difference = abs(found.total[i] - own.cpu().numpy()).max()
            assert difference < 1e-5, f"neuron {neuron} differs from its own run: {difference:.1e}"
        roads[f"every neuron of the {name} layer"] = lambda layer=layer, means=means: (
            ablate_neurons(model, questions, layer, means)
        )
    print(f"{len(prompts)} prompts, {len(means):,} neurons a layer")

    times = {name: [] for name in roads}
    for _ in range(args.rounds):
        for name, road in roads.items():
            start = perf_counter()
            road()
            times[name].append(perf_counter() - start)
    plain = statistics.median(times["plain forward: last logits only"])
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(
            f"{name:34} {middle:8.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            f" {middle / plain:7.2f} x, {len(means) * plain / middle:7.1f} times less than one each"
        )


if __name__ == "__main__":
    main()
