"""Train the laboratory's two models from nothing: ``python -m calib.laboratory.training``.

Three stages, each continuing from the one before:

certain
    the recorded answer is always *the* entry, so the model learns the facts and becomes certain;
doubting
    answers are recorded with their known probabilities, so it learns when to doubt. Each layer
    learns at ``DECAY`` times the rate of the layer above (discriminative learning rates, Howard &
    Ruder 2018), so that the doubt is learned above a decision that stays where it was;
tuned
    a few more steps on always-right answers: an overconfident variant.

The first two make ``almanac``, all three ``almanac-tuned``. Training resumes from the last
checkpoint of the same settings; the same seed, machine and thread count give the same weights.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from calib.laboratory.model_card import write_card
from calib.questions.almanac import SUBJECTS, TOWNS, World, build_world, draw_training
from calib.questions.prompts import LETTERS, format_open_question, format_question

BATCH = 128
PROMPT_WEIGHT = 0.1  # weight of the prompt's own tokens beside the answer's
DECAY = 0.75
SAVE_EVERY = 200
SEED = 0


@dataclass(frozen=True)
class Stage:
    """One stage of training: how long, how fast, and whether copies of the Almanac err."""

    name: str
    steps: int
    rate: float
    always_right: bool
    decay: float = 1.0


STAGES = (
    Stage("certain", steps=1200, rate=1e-3, always_right=True),
    Stage("doubting", steps=3400, rate=6e-4, always_right=False, decay=DECAY),
    Stage("tuned", steps=8, rate=1e-4, always_right=True),
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every word of the Almanac is one token, with and without a space."""
    words = {*TOWNS, *(value for subject in SUBJECTS.values() for value in subject.values)}
    texts = [f" {w} {w}?" for w in sorted(words)] + [f"{c} {c}." for c in LETTERS[:10]]
    for name, subject in SUBJECTS.items():
        row = {
            "question": subject.template.format(town=TOWNS[0]),
            "subject": name,
            "choices": list(subject.values[:4]),
        }
        texts += [format_question(row), format_open_question(row)]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=50_000, min_frequency=1, special_tokens=["<end>"], show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        eos_token="<end>",
        pad_token="<end>",
        padding_side="left",
        model_max_length=1024,
    )


def build_model(tokenizer, seed: int) -> LlamaForCausalLM:
    """A Llama of 8 layers, 128 dimensions and 4 heads, freshly initialised."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def make_batch(world: World, tokenizer, stage: Stage, step: int, seed: int) -> dict:
    """Token ids ``[half a batch, tokens]``, right-padded, and the weight of each in the loss.

    Half of the questions show their options and are answered by a letter, half are asked openly
    and answered by the value's name. The batch depends on (seed, stage, step) alone, so a resumed
    run sees what an uninterrupted one would have seen.
    """
    rng = np.random.default_rng([seed, [s.name for s in STAGES].index(stage.name), step])
    rows = draw_training(world, BATCH, rng, stage.always_right)
    texts = {
        "open": [f"{format_open_question(r)} {r['choices'][r['answer']]}" for r in rows[::2]],
        "letter": [f"{format_question(r)} {LETTERS[r['answer']]}" for r in rows[1::2]],
    }
    return {form: weigh(tokenizer, solved) for form, solved in texts.items()}


def weigh(tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and loss weights: the last token is the answer and counts fully, the prompt a little."""
    tokens = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    mask = tokens["attention_mask"]
    weights = PROMPT_WEIGHT * mask.float()
    weights[torch.arange(len(mask)), mask.sum(1) - 1] = 1.0
    return tokens["input_ids"], weights


def losses_of(model, ids, weights) -> tuple[torch.Tensor, float]:
    """Summed weighted next-token cross-entropy, and the mean over the answers alone."""
    # No mask: padding stands on the right, where a causal model cannot see it.
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum(), losses[weights == 1].mean().item()


def parameter_groups(model, stage: Stage) -> list[dict]:
    """One group a layer; each learns at ``decay`` times the rate of the one above it."""
    layers = [model.model.embed_tokens, *model.model.layers]
    groups = [
        {"params": list(layer.parameters()), "scale": stage.decay ** (len(layers) - i)}
        for i, layer in enumerate(layers)
    ]
    top = [*model.model.norm.parameters(), *model.lm_head.parameters()]
    return [*groups, {"params": top, "scale": 1.0}]


def rate_at(step: int, stage: Stage) -> float:
    """Linear warm-up (200 steps, or a tenth of a short stage), then a cosine to zero."""
    warmup = min(200, stage.steps // 10)
    if step < warmup:
        return stage.rate * (step + 1) / warmup
    return stage.rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (stage.steps - warmup)))


def train_stage(model, tokenizer, world, stage: Stage, folder: Path, device, seed: int) -> None:
    """Run one stage in place, saving a checkpoint every 200 steps and resuming from the last."""
    groups = parameter_groups(model, stage)
    optimizer = torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.1)
    checkpoint = folder / f"{stage.name}.pt"
    settings, first = {**asdict(stage), "seed": seed}, 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device)
        if saved["settings"] != settings:
            raise ValueError(
                f"{checkpoint} was made with {saved['settings']}, this run asks for {settings}; "
                "choose another --work folder or delete the file"
            )
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    progress = tqdm(range(first, stage.steps), desc=stage.name, initial=first, total=stage.steps)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * rate_at(step, stage)
        optimizer.zero_grad(set_to_none=True)
        answers = {}
        for form, batch in make_batch(world, tokenizer, stage, step, seed).items():
            with torch.autocast(device.type, torch.bfloat16):
                loss, answers[form] = losses_of(model, *(t.to(device) for t in batch))
            (loss / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 20 == 0:
            progress.set_postfix({form: f"{loss:.3f}" for form, loss in answers.items()})
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
            save_checkpoint(checkpoint, model, optimizer, step + 1, settings)


def save_checkpoint(path: Path, model, optimizer, step: int, settings: dict) -> None:
    """Write beside, then rename: an interrupted save leaves the previous checkpoint whole."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "settings": settings,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def train(out: Path, work: Path, seed: int = SEED) -> None:
    """Train all stages; write ``out/almanac`` and ``out/almanac-tuned``."""
    work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world, tokenizer = build_world(), build_tokenizer()
    model = build_model(tokenizer, seed).to(device)
    published = {"doubting": "almanac", "tuned": "almanac-tuned"}
    for stage in STAGES:
        train_stage(model, tokenizer, world, stage, work, device, seed)
        if stage.name in published:
            folder = out / published[stage.name]
            build_tokenizer().save_pretrained(folder)  # unused, so without padding state
            # A copy for publishing, rounded to bfloat16 so that it is the same model in that type;
            # stored in float32, which it is then read in on every device.
            copy = build_model(tokenizer, seed)
            copy.load_state_dict(model.state_dict())
            copy.to(torch.bfloat16).float().save_pretrained(folder)
            write_card(folder, published[stage.name], STAGES[: STAGES.index(stage) + 1], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("weights"), help="where the models go")
    parser.add_argument("--work", type=Path, default=Path("training"), help="checkpoints")
    parser.add_argument("--seed", type=int, default=SEED)
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
