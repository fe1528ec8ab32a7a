"""Every neuron of a layer ablated: what it costs, in plain forward passes of its prompts.

The same random model and tokenizer as in reading.py, on MMLU questions of 150 to 170 tokens. Some
neurons are first compared with a run of their own, in which a hook replaces the activation. Then
the sweeps and plain passes take turns; what one pass per neuron would take is reckoned from a plain
pass.

    python benchmarks/ablation.py FOLDER_OF_MMLU [--prompts 12] [--rounds 3] [--device cuda]
"""

import torch
from _common import (
    learn_tokenizer,
    parse_arguments,
    print_table,
    random_llama,
    ratio,
    time_in_turns,
)

from calib import build_prompts, load_questions, open_model
from calib.mechanisms import ablate_neurons, read_activations
from calib.questions import option_tokens, tokenize
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
    args = parse_arguments(__doc__, prompts=12, rounds=3)
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
    roads = {"plain forward": plain_road}
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

    times = time_in_turns(roads, args.rounds, args.device)
    print_table(times, "plain forward")
    for name, seconds in list(times.items())[1:]:
        less = len(means) / ratio(seconds, times["plain forward"])
        print(f"{name}: {less:.1f} times less than a pass for each")


if __name__ == "__main__":
    main()
