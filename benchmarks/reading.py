"""Reading every layer of real MMLU questions: calib beside what one would use instead.

The model is a random Llama of 24 layers and 152 million parameters, and its tokenizer is learnt
from the questions, so nothing is downloaded. All roads read the same batches. Each must give
calib's option probabilities at every layer before any is timed; then they take turns, in an order
that is reversed every other round.

    python benchmarks/reading.py FOLDER_OF_MMLU [--questions 48] [--rounds 5] [--device cuda]

The folder has the layout of cais/mmlu. TransformerLens and tuned-lens are measured where they are
installed: pip install -c constraints.txt transformer_lens==4.3.0 tuned-lens==0.2.0
"""

import copy

import torch
from _common import learn_tokenizer, parse_arguments, print_table, random_llama, time_in_turns

from calib import build_prompts, load_questions, open_model
from calib.questions import option_tokens
from calib.reading._batches import plan_batches
from calib.reading._forward import pad_right, read_streams

ONCE = ("nnsight, one trace a layer",)  # too slow for more than one round


# Roads: functions from the inputs, the answer positions and the letters' tokens to logits
# [layers + 1, batch, letters].


def plain_forward(module):
    def road(inputs, last, tokens):
        module(**inputs, use_cache=False, logits_to_keep=1)

    return road


def calib_road(model):
    def road(inputs, last, tokens):
        lengths = (last + 1).tolist()
        prompts = [row[:n] for row, n in zip(inputs["input_ids"].tolist(), lengths, strict=True)]
        return read_streams(model, prompts, tokens)["logits"].transpose(0, 1)

    return road


def all_states(module, inputs):
    """transformers' hidden states; its last one is after the final norm, so by a hook."""
    seen = []
    hook = module.model.layers[-1].register_forward_hook(lambda _, __, out: seen.append(out))
    output = module(**inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    hook.remove()
    return *output.hidden_states[:-1], seen[0]


def hidden_states(module, everywhere):
    """transformers' own hidden states, and a lens over the full vocabulary."""

    def road(inputs, last, tokens):
        rows, logits = torch.arange(len(last)), []
        for state in all_states(module, inputs):
            if everywhere:
                logits.append(module.lm_head(module.model.norm(state))[rows, last][:, tokens])
            else:
                logits.append(module.lm_head(module.model.norm(state[rows, last]))[:, tokens])
        return torch.stack(logits)

    return road


def trace_a_layer(model):
    def road(inputs, last, tokens):
        llama, rows, logits = model.traced, torch.arange(len(last)), []
        for layer in (None, *llama.model.layers):
            with llama.trace(**inputs, use_cache=False, logits_to_keep=1):
                state = llama.model.layers[0].input if layer is None else layer.output
                found = llama.lm_head(llama.model.norm(state[rows, last]))[:, tokens].save()
            logits.append(found)
        return torch.stack(logits)

    return road


def transformer_lens(module, tokenizer):
    from transformer_lens.model_bridge import TransformerBridge

    # It rebuilds the module it is given, so it gets a copy.
    bridge = TransformerBridge.boot_transformers(
        "llama", hf_model=copy.deepcopy(module), tokenizer=tokenizer, device=module.device
    )
    names = ["blocks.0.hook_resid_pre"] + [f"blocks.{i}.hook_resid_post" for i in range(24)]

    def road(inputs, last, tokens):
        rows = torch.arange(len(last))
        _, cache = bridge.run_with_cache(inputs["input_ids"], names_filter=names)
        stream = torch.stack([cache[name][rows, last] for name in names])
        return module.lm_head(module.model.norm(stream))[..., tokens]

    return road


def tuned_lens(module):
    from tuned_lens import model_surgery
    from tuned_lens.nn.lenses import LogitLens

    # Beside TransformerLens 4 it asks for a class that is gone there.
    model_surgery._transformer_lens_available = False
    lens = LogitLens.from_model(module)

    def road(inputs, last, tokens):
        states, rows = all_states(module, inputs), torch.arange(len(last))
        return torch.stack([lens(s[rows, last], i)[:, tokens] for i, s in enumerate(states)])

    return road


def roads_for(module, tokenizer):
    model = open_model((module, tokenizer))
    roads = {
        "plain forward": plain_forward(module),
        "calib": calib_road(model),
        "hidden states, lens at the last token": hidden_states(module, everywhere=False),
        "hidden states, lens everywhere": hidden_states(module, everywhere=True),
        "nnsight, one trace a layer": trace_a_layer(model),
    }
    for name, make in {
        "TransformerLens": lambda: transformer_lens(module, tokenizer),
        "tuned-lens (its logit lens)": lambda: tuned_lens(module),
    }.items():
        try:
            roads[name] = make()
        except ImportError as error:
            print(f"{name} is not measured: {error}")
    return model, roads


@torch.no_grad()
def main():
    args = parse_arguments(__doc__, questions=48, rounds=5)
    everything = load_questions(args.folder)
    tokenizer = learn_tokenizer(everything)
    some = load_questions(args.folder, limit=args.questions)
    prompts = tokenizer(build_prompts(some))["input_ids"]
    tokens = option_tokens(tokenizer, 4)
    module = random_llama(args.device)
    parameters = sum(p.numel() for p in module.parameters()) / 1e6
    model, roads = roads_for(module, tokenizer)
    plan = plan_batches(prompts, some["subject"], 2048, model.context, share=False)
    batches = [pad_right([prompts[i] for i in batch.rows], args.device) for batch in plan]
    print(
        f"{len(some)} questions, {sum(map(len, prompts))} tokens in {len(batches)} batches; "
        f"{parameters:.0f} M parameters, 24 layers; {args.device}, "
        f"{torch.get_num_threads()} threads"
    )
    for inputs, last in batches[-1:]:
        ours = roads["calib"](inputs, last, tokens).softmax(-1)
        for name in list(roads)[1:]:
            theirs = roads[name](inputs, last, tokens).softmax(-1)
            difference = (theirs - ours).abs().max().item()
            assert difference < 1e-5, f"{name} differs from calib by {difference:.1e}"

    def through(road):
        return lambda: [road(inputs, last, tokens) for inputs, last in batches]

    whole = {name: through(road) for name, road in roads.items()}
    print_table(time_in_turns(whole, args.rounds, args.device, ONCE), "plain forward")


if __name__ == "__main__":
    main()
