"""Branches against passes pushed through hooks; steering that is chosen and judged with them."""

from contextlib import contextmanager

import numpy as np
import pandas
import pytest
import scipy.special
import torch
from datasets import Dataset
from support.architectures import CONFIGS, D_MODEL, N_LAYERS, TOKENIZER, random_module

from calib import (
    Reading,
    build_prompts,
    load_questions,
    metrics,
    open_model,
    read_branches,
    read_layers,
    steer,
    sweep,
    try_directions,
)
from calib.questions import option_tokens
from calib.reading._tree_attention import can_branch, read_tree
from calib.steering import Direction, Sweep, interventions

LETTERS = option_tokens(TOKENIZER, 4)
SCALE = 4.0
# Attention that transformers cannot switch, or has in one form alone.
FIXED = {"gemma2": ["eager"], "gptj": ["eager"], "bloom": ["eager"]}
ATTENTION = [(name, form) for name in CONFIGS for form in FIXED.get(name, ["sdpa", "eager"])]
SHARED_ROAD = [name for name in CONFIGS if name != "bloom"]
WINDOWED = ["mistral", "gemma2", "gemma3", "phi3"]


def direction(seed, layer, name=None):
    vector = np.random.default_rng(seed).normal(size=D_MODEL)
    return Direction(vector / np.linalg.norm(vector), layer, SCALE, name or f"{seed} at {layer}")


BRANCHES = [
    (direction(0, 3), -1.5),
    (direction(1, 0), 0.7),
    (direction(2, 1), 2.0),
    (direction(3, 0), -0.4),
    (direction(2, 1), -0.5),
    (direction(1, 0), 0),
    (direction(4, 3), 1.0),
    (direction(5, 2), 1),
]


@pytest.fixture(scope="module")
def questions():
    """Of very different lengths."""
    rows = load_questions("almanac", limit=6).to_list()
    for i, row in enumerate(rows):
        row["question"] += " stone" * (5 * i % 17)
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def few_subjects():
    """Enough of a subject that its exemplars are shared."""
    return load_questions("almanac", subjects=["fair_music", "inn_cookery"], limit=12)


@pytest.fixture
def passes(monkeypatch):
    """How many prompts and branches went through each pass that had branches."""
    made = []

    def watched(model, prompts, tokens, layers, vectors, prefix=None):
        made.append((len(prompts), len(layers), 0 if prefix is None else len(prefix)))
        return read_tree(model, prompts, tokens, layers, vectors, prefix)

    monkeypatch.setattr(interventions, "read_tree", watched)
    return made


@contextmanager
def hooked(module, layer, vector, places=slice(-1, None)):
    """The module with a vector added to its residual stream, and nothing of calib."""
    blocks = next(m for m in module.modules() if type(m) is torch.nn.ModuleList)
    if len(blocks) != N_LAYERS:  # of the part that sees
        blocks = module.model.language_model.layers

    def pushed(hidden):
        hidden = hidden.clone()
        hidden[:, places] += torch.tensor(vector).to(hidden)
        return hidden

    def before(_, args, kwargs):
        if args:
            return (pushed(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": pushed(kwargs["hidden_states"])}

    def after(_, args, output):
        return (pushed(output[0]), *output[1:]) if isinstance(output, tuple) else pushed(output)

    if layer == 0:
        handle = blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = blocks[layer - 1].register_forward_hook(after)
    yield
    handle.remove()


def pushed_passes(module, prompts, branches, places=slice(-1, None)):
    """Option logits ``[branches, questions, options]``: one prompt per pass, without padding."""
    logits = []
    for along, strength in branches:
        with hooked(module, along.layer, strength * SCALE * along.vector, places), torch.no_grad():
            for prompt in prompts:
                own = module(**TOKENIZER(prompt, return_tensors="pt"), use_cache=False).logits
                logits.append(own[0, -1, LETTERS].float())
    return torch.stack(logits).reshape(len(branches), len(prompts), len(LETTERS)).numpy()


def close(a, b, atol=1e-5):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def ids_of(questions, shots=0):
    return [np.array(ids) for ids in TOKENIZER(build_prompts(questions, shots))["input_ids"]]


def opened(name, **changes):
    return open_model((random_module(name, **changes), TOKENIZER))


# The same numbers


@pytest.mark.parametrize(("name", "attention"), ATTENTION)
def test_branches_are_what_pushed_unpadded_passes_say(name, attention, questions, passes):
    module = random_module(name)
    module.set_attn_implementation(attention)
    assert module.config.get_text_config()._attn_implementation == attention
    model = open_model((module, TOKENIZER))
    prompts = ids_of(questions)
    assert len({len(prompt) for prompt in prompts}) == 6
    assert can_branch(model, max(prompts, key=len)) is (name != "bloom")
    logits = read_branches(model, questions, BRANCHES, batch_tokens=250)
    assert passes == ([] if name == "bloom" else [(3, 8, 0), (3, 8, 0)])
    assert (logits.shape, logits.dtype) == ((8, 6, 4), np.float32)
    close(logits, pushed_passes(module, build_prompts(questions), BRANCHES))
    pushed = [i for i, (_, strength) in enumerate(BRANCHES) if strength]
    assert np.abs(logits[pushed] - logits[5]).max(axis=(1, 2)).min() > 1e-2


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shots", [0, 2])
def test_so_are_they_where_every_position_is_pushed(name, shots, few_subjects, passes):
    model, some = opened(name), few_subjects.select([0, 1, 6, 7])
    branches = [(direction(0, 0), 0.5), (direction(1, 2), -0.7), (direction(2, 3), 1.0)]
    logits = read_branches(model, some, branches, everywhere=True, shots=shots)
    assert not passes
    prompts = build_prompts(some, shots)
    close(logits, pushed_passes(model.module, prompts, branches, places=slice(None)))
    assert np.abs(logits[0] - pushed_passes(model.module, prompts, branches[:1])[0]).max() > 1e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_exemplars_are_shared_and_change_no_number(name, few_subjects, passes, monkeypatch):
    model = opened(name)
    branches = [BRANCHES[i] for i in (0, 1, 2, 5)]
    prefixes, read_streams = [], interventions.read_streams

    def watched(model, prompts, tokens, keep, prefix, push):
        prefixes.append(prefix)
        return read_streams(model, prompts, tokens, keep, prefix, push)

    monkeypatch.setattr(interventions, "read_streams", watched)
    shared = read_branches(model, few_subjects, branches, shots=2)
    monkeypatch.setattr("calib.reading._run.can_share", lambda _: False)
    if name == "bloom":
        assert len(prefixes) == 8 and None not in prefixes
    else:
        assert passes == [(9, 4, N_LAYERS), (3, 4, N_LAYERS)]
    whole = read_branches(model, few_subjects, branches, shots=2)
    close(shared, whole)
    close(shared, pushed_passes(model.module, build_prompts(few_subjects, 2), branches))


@pytest.mark.parametrize("name", WINDOWED)
def test_prompts_longer_than_the_window_take_the_plain_road(name, questions, passes):
    model = opened(name, sliding_window=20)
    prompt = ids_of(questions)[0]
    assert can_branch(model, prompt[:20]) and not can_branch(model, prompt[:21])
    logits = read_branches(model, questions, BRANCHES)
    assert not passes
    close(logits, pushed_passes(model.module, build_prompts(questions), BRANCHES))


@pytest.mark.parametrize("name", WINDOWED)
def test_so_do_they_after_exemplars_that_the_window_does_not_reach(name, few_subjects, passes):
    model = opened(name, sliding_window=40)
    logits = read_branches(model, few_subjects, BRANCHES[:3], shots=2)
    assert not passes
    close(logits, pushed_passes(model.module, build_prompts(few_subjects, 2), BRANCHES[:3]))


def test_a_model_with_a_state_takes_the_plain_road():
    model = opened("llama")
    assert can_branch(model, range(9))
    model.module._is_stateful = True
    model._facts.clear()  # to be asked again
    assert not can_branch(model, range(9))


def test_a_kind_of_layer_not_known_here_takes_the_plain_road():
    model = opened("qwen3")
    assert can_branch(model, range(9))
    model.module.config.layer_types[1] = "linear_attention"
    model._facts.clear()
    assert not can_branch(model, range(9))


def test_a_model_that_counts_positions_itself_takes_the_plain_road(questions, passes):
    model = opened("llama")
    rotary = model.module.model.rotary_emb
    rotate = rotary.forward
    rotary.forward = lambda x, position_ids: rotate(x, torch.arange(x.shape[1])[None])
    assert not can_branch(model, ids_of(questions)[0])
    logits = read_branches(model, questions, BRANCHES)
    assert not passes
    close(logits, pushed_passes(model.module, build_prompts(questions), BRANCHES))


@pytest.mark.parametrize("name", CONFIGS)
def test_in_bfloat16_they_are_as_close_as_it_allows(name, questions):
    module = random_module(name).to(torch.bfloat16)
    model = open_model((module, TOKENIZER))
    logits = read_branches(model, questions, BRANCHES)
    expected = pushed_passes(module, build_prompts(questions), BRANCHES)
    close(logits, expected, atol=2e-2 * np.abs(expected).max())


def test_strength_zero_is_the_unpushed_model(questions):
    model = opened("llama")
    branches = [(direction(i, layer), 0) for i, layer in enumerate(range(N_LAYERS + 1))]
    for logits in read_branches(model, questions, branches):
        close(logits, read_layers(model, questions).logits[:, -1])


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("layer", range(N_LAYERS))  # of the last, nnsight reads what no hook saw
def test_a_push_is_taken_back_by_its_opposite(name, layer, questions):
    model, one = opened(name), questions.select([3])
    unpushed = read_layers(model, one).logits[:, -1]
    along, last = direction(7, layer), len(ids_of(one)[0]) - 1
    # At the answer and, after it, where its branches stand.
    with hooked(model.module, layer, SCALE * along.vector, places=slice(last, None)):
        still, back = read_branches(model, one, [(along, 0), (along, -1)])
    close(back, unpushed)
    assert np.abs(still - unpushed).max() > 1e-2


# Branches beside branches


@pytest.mark.parametrize("name", [*SHARED_ROAD, "llama in half", "llama of sharp attention"])
def test_a_branch_does_not_see_the_others(name, questions):
    module, prompts = random_module(name.partition(" ")[0]), ids_of(questions)
    if "half" in name:
        module.to(torch.float16)
    if "sharp" in name:
        for layer in module.model.layers:
            layer.self_attn.q_proj.weight.data *= 200
    model = open_model((module, TOKENIZER))
    layers = [0, 0, 1, 1, 2, 3]
    vectors = torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(0))
    before = read_tree(model, prompts, LETTERS, layers, vectors)["logits"]
    for i in range(6):
        others = [k for k in range(6) if k != i]
        changed = vectors.clone()
        changed[i] *= -3
        after = read_tree(model, prompts, LETTERS, layers, changed)["logits"]
        assert torch.equal(after[:, others], before[:, others])
        assert (after[:, i] - before[:, i]).abs().max(dim=-1).values.min() > 1e-3


@pytest.fixture(scope="module")
def together(questions):
    """A model, and all branches in one pass."""
    model = opened("qwen3")
    return model, read_branches(model, questions, BRANCHES)


def test_their_order_changes_nothing(together, questions):
    model, logits = together
    order = [6, 2, 0, 7, 5, 1, 3, 4]
    close(read_branches(model, questions, [BRANCHES[i] for i in order]), logits[order])


def test_nor_does_reading_few_at_a_time(together, questions, passes, monkeypatch):
    model, logits = together
    monkeypatch.setattr("calib.reading._tree_attention.MOST", 3)
    close(read_branches(model, questions, BRANCHES), logits)
    assert passes == [(6, 3, 0), (6, 3, 0), (6, 2, 0)]


@pytest.mark.parametrize("room", [0, 1, 2, 8])
def test_nor_do_small_batches(room, together, questions, passes):
    model, logits = together
    longest = max(len(prompt) for prompt in ids_of(questions))
    close(read_branches(model, questions, BRANCHES, batch_tokens=longest + room), logits)
    n_branches = [n for _, n, _ in passes]
    assert n_branches == {0: [], 1: [1] * 48, 2: [2] * 24, 8: [8] * 6}[room]


# Runs that go on


def test_an_interrupted_run_goes_on_to_the_same_logits(questions, passes, tmp_path, monkeypatch):
    model = opened("llama")
    settings = {"batch_tokens": 130, "resume": tmp_path / "run"}
    whole = read_branches(model, questions, BRANCHES, batch_tokens=130)
    batches, watched = len(passes), interventions.read_tree
    assert batches >= 4

    def interrupted(*arguments):
        if len(passes) == batches + 2:
            raise KeyboardInterrupt
        return watched(*arguments)

    monkeypatch.setattr(interventions, "read_tree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_branches(model, questions, BRANCHES, **settings)
    monkeypatch.setattr(interventions, "read_tree", watched)
    finished = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run").glob("*.safetensors")}
    assert len(finished) == 2
    passes.clear()
    np.testing.assert_array_equal(read_branches(model, questions, BRANCHES, **settings), whole)
    assert len(passes) == batches - 2
    again = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run").glob("*.safetensors")}
    assert finished.items() < again.items()
    assert len(again) == batches


@pytest.mark.parametrize(
    ("branches", "changes", "message"),
    [
        ([(direction(0, 3), -1.5), (direction(1, 0), 0.8)], {}, "begun with branches = '[0-9a-f]"),
        ([(direction(0, 2), -1.5), (direction(1, 0), 0.7)], {}, "begun with branches = '[0-9a-f]"),
        (BRANCHES[:1], {}, "begun with branches = '[0-9a-f]{16}', this run has '[0-9a-f]{16}'"),
        (BRANCHES[:2], {"everywhere": True}, "begun with everywhere = False, this run has True"),
        (BRANCHES[:2], {"batch_tokens": 500}, "begun with batch_tokens = 8192, this run has 500"),
    ],
)
def test_other_branches_in_its_folder_are_refused(branches, changes, message, questions, tmp_path):
    model = opened("llama")
    first = read_branches(model, questions, BRANCHES[:2], resume=tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        read_branches(model, questions, branches, resume=tmp_path / "run", **changes)
    again = read_branches(model, questions, BRANCHES[:2], resume=tmp_path / "run")
    np.testing.assert_array_equal(again, first)


# Bad input

NARROW = Direction(np.ones(32) / 32**0.5, 1, SCALE, "narrow")
NOT_OF_THE_MODEL = [
    (NARROW, 1.0, r"narrow has shape \(32,\), the residual stream of .* has \(64,\); fit"),
    (direction(0, 4, "above"), 1.0, r"above is at layer 4; the layers of .* run from 0 to 3"),
    (direction(0, -1, "below"), 1.0, r"below is at layer -1; the layers of .* from 0 to 3"),
    (direction(0, 1, "up"), np.nan, r"the strength of up is nan; it must be finite"),
    (direction(0, 1, "up"), np.inf, r"the strength of up is inf; it must be finite"),
    (direction(0, 1, "up"), -np.inf, r"the strength of up is -inf; it must be finite"),
]


@pytest.mark.parametrize(("along", "strength", "message"), NOT_OF_THE_MODEL)
def test_what_is_not_of_the_model_is_refused_before_it_runs(
    along, strength, message, unused, questions
):
    with pytest.raises(ValueError, match=message):
        read_branches(unused, questions, [*BRANCHES, (along, strength)])
    with pytest.raises(ValueError, match=message):
        steer(unused, questions, along, strength)
    with pytest.raises(ValueError, match=message):
        sweep(unused, questions, [along], strengths=(0, strength))


@pytest.mark.parametrize(
    ("branches", "arguments", "message"),
    [
        ([], {}, r"there are no branches to read; give at least one \(direction, strength\)"),
        (BRANCHES, {"batch_tokens": 20}, r"tokens, batch_tokens is 20; .* or raise batch_tokens"),
        (BRANCHES, {"shots": 6}, "shots is 6"),
    ],
)
def test_a_wrong_request_is_refused_before_the_model_runs(
    branches, arguments, message, unused, questions
):
    with pytest.raises(ValueError, match=message):
        read_branches(unused, questions, branches, **arguments)


def test_a_prompt_longer_than_the_context_is_refused_before_the_model_runs(unused, questions):
    rows = questions.to_list()
    rows[4]["question"] += " stone" * 600
    with pytest.raises(ValueError, match=r"prompt of question 4 has 6\d\d tokens, the model's"):
        read_branches(unused, Dataset.from_list(rows), BRANCHES)


def test_no_questions_are_refused(unused, questions):
    with pytest.raises(ValueError, match="no questions to read"):
        read_branches(unused, questions.select([]), BRANCHES)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_logits_that_are_not_finite_name_the_direction_at_fault(name, questions):
    model = open_model((random_module(name).to(torch.float16), TOKENIZER))
    branches = [(direction(0, 1, "calm"), 0), (direction(1, 2, "calm too"), 1.0)]
    assert np.isfinite(read_branches(model, questions, branches)).all()
    with pytest.raises(ValueError, match=r"^wild at layer 1 with strength -100000.0 gives logits"):
        read_branches(model, questions, [*branches, (direction(2, 1, "wild"), -1e5)])


# Steering


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("layer", range(N_LAYERS + 1))
def test_a_steered_reading_parts_at_its_layer_and_ends_as_its_branch(layer, everywhere, questions):
    model, along = opened("gpt2"), direction(3, layer)
    keep = range(N_LAYERS + 1)
    plain = read_layers(model, questions, keep_residuals=keep)
    steered = steer(model, questions, along, -0.8, everywhere=everywhere, keep_residuals=keep)
    np.testing.assert_array_equal(steered.logits[:, :layer], plain.logits[:, :layer])
    assert np.abs(steered.logits - plain.logits)[:, layer:].max(axis=(0, 2)).min() > 1e-2
    change = steered.residuals[layer] - plain.residuals[layer]
    close(change, np.tile(-0.8 * SCALE * along.vector, (6, 1)))
    (branch,) = read_branches(model, questions, [(along, -0.8)], everywhere=everywhere)
    close(steered.logits[:, -1], branch)
    places = slice(None) if everywhere else slice(-1, None)
    (expected,) = pushed_passes(
        model.module, build_prompts(questions), [(along, -0.8)], places=places
    )
    close(steered.logits[:, -1], expected)


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_steered_reading_after_exemplars_too(everywhere, few_subjects):
    model, along = opened("llama"), direction(3, 1)
    steered = steer(model, few_subjects, along, 1.2, everywhere=everywhere, shots=2)
    places = slice(None) if everywhere else slice(-1, None)
    prompts = build_prompts(few_subjects, 2)
    (expected,) = pushed_passes(model.module, prompts, [(along, 1.2)], places=places)
    close(steered.logits[:, -1], expected)


def test_a_steered_reading_says_so(questions, tmp_path):
    model, along = opened("llama"), direction(3, 2)
    provenance = read_layers(model, questions).provenance
    steered = steer(model, questions, along, 0.5)
    pushes = [
        steered.provenance.pop("push"),
        steer(model, questions, along, 0.6).provenance["push"],
        steer(model, questions, direction(4, 2), 0.5).provenance["push"],
    ]
    assert steered.provenance == provenance
    assert [(push["layer"], push["everywhere"]) for push in pushes] == [(2, False)] * 3
    assert len({push["vector"] for push in pushes}) == 3
    everywhere = steer(model, questions, along, 0.5, everywhere=True)
    assert everywhere.provenance["push"] == pushes[0] | {"everywhere": True}
    everywhere.save(tmp_path)
    assert Reading.load(tmp_path).provenance == everywhere.provenance


def test_another_strength_in_a_steered_runs_folder_is_refused(questions, tmp_path):
    model, along, run = opened("llama"), direction(3, 2), tmp_path / "run"
    first = steer(model, questions, along, 0.5, resume=run)
    with pytest.raises(ValueError, match=r"begun with push = {'layer': 2, .*, this run has {'lay"):
        steer(model, questions, along, 0.6, resume=run)
    with pytest.raises(ValueError, match=r"begun with push = .*, this run has None"):
        read_layers(model, questions, resume=run)
    again = steer(model, questions, along, 0.5, resume=run)
    np.testing.assert_array_equal(again.logits, first.logits)


# Choosing a strength


def two_options(right):
    """Logits ``[..., 2]`` that give option 0 these probabilities."""
    return np.stack([np.log(right), np.log1p(-np.array(right))], axis=-1).astype(np.float32)


@pytest.fixture
def swept():
    """200 questions answered by 0; option 0's probability is the same but on the first few."""
    right = np.empty((3, 4, 200))
    right[0] = np.array([0.6, 0.9, 0.7, 0.8])[:, None]
    right[0, 1, :2] = 0.4  # the lowest NLL, at the price of two answers of 200
    right[0, 3, :1] = 0.4  # the lowest for one: just within .005
    right[1] = np.array([0.6, 0.95, 0.7, 0.96])[:, None]
    right[1, [0, 1, 2], -6:] = 0.45
    right[1, 2, -6:-4] = 0.55  # unsteered four are wrong, with the others six or none
    right[2] = np.array([0.8, 0.75, 0.7, 0.65])[:, None]
    directions = direction(0, 1, "a"), direction(1, 2, "b"), direction(2, 3, "c")
    return Sweep(directions, (-2.0, -1.0, 0.0, 1.0), two_options(right), np.zeros(200, int))


@pytest.mark.parametrize(
    ("among", "settings", "name", "strength"),
    [
        (slice(0, 1), {}, "a", 1.0),
        (slice(0, 1), {"tolerance": 0.01}, "a", -1.0),
        (slice(0, 1), {"tolerance": 0}, "a", 0.0),
        (slice(1, 2), {}, "b", 0.0),  # nothing else is allowed, more right answers neither
        (slice(1, 2), {"tolerance": 0.02}, "b", 1.0),
        (slice(2, 3), {"tolerance": 0}, "c", -2.0),
        (slice(1, 3), {}, "c", -2.0),
        (slice(None), {"tolerance": 0.02}, "b", 1.0),
    ],
)
def test_the_lowest_nll_is_chosen_among_those_that_keep_the_accuracy(
    among, settings, name, strength, swept
):
    chosen, at = swept.choose(among, **settings)
    assert (chosen.name, at) == (name, strength)


def test_a_sweep_is_its_branches(questions):
    model, along = opened("llama"), [direction(0, 1), direction(1, 0)]
    swept = sweep(model, questions, along, strengths=(-1, 0, 2), everywhere=True)
    branches = [(d, s) for d in along for s in (-1.0, 0.0, 2.0)]
    logits = read_branches(model, questions, branches, everywhere=True)
    assert (swept.logits.shape, swept.strengths) == ((2, 3, 6, 4), (-1.0, 0.0, 2.0))
    np.testing.assert_array_equal(swept.logits.reshape(6, 6, 4), logits)
    assert swept.labels.tolist() == questions["answer"]
    close(swept.probabilities, scipy.special.softmax(swept.logits.astype(float), axis=-1), 1e-12)


def test_a_sweep_without_the_unsteered_model_is_refused_before_it_runs(unused, questions):
    with pytest.raises(ValueError, match=r"\(-1.0, 1.0\) do not have 0 among them, .*; add it"):
        sweep(unused, questions, [direction(0, 1)], strengths=(-1, 1))


# Judging it


@pytest.fixture(scope="module")
def splits():
    return [load_questions("almanac", split, limit=60, seed=4) for split in ("validation", "test")]


CANDIDATES = {
    "one": direction(3, 1, "one"),
    "some": [direction(1, layer, f"some {layer}") for layer in (1, 2, 3)],
    "two": direction(8, 3, "two"),
}
TRY = {"strengths": (-0.5, -0.2, 0, 0.2, 0.5), "tolerance": 0.05}


def answered(questions, shift):
    """The same questions with other answers."""
    others = [(answer + shift) % 4 for answer in questions["answer"]]
    return questions.remove_columns(["answer", "posterior"]).add_column("answer", others)


@pytest.fixture(scope="module")
def evaluation(splits):
    return try_directions(opened("llama"), CANDIDATES, *splits, **TRY)


def names_and_strengths(evaluation):
    return {name: (along.name, s) for name, (along, s) in evaluation.chosen.items()}


def test_strengths_are_chosen_on_the_calibration_split_alone(evaluation, splits):
    calibration, test = splits
    chosen = names_and_strengths(evaluation)
    assert all(strength in TRY["strengths"] for _, strength in chosen.values())
    assert len({strength for _, strength in chosen.values()} - {0.0}) >= 2
    model = opened("llama")
    for shift in (1, 2):
        again = try_directions(model, CANDIDATES, calibration, answered(test, shift), **TRY)
        assert names_and_strengths(again) == chosen
        assert (again.comparison.table["nll"] != evaluation.comparison.table["nll"]).all()
    other = try_directions(model, CANDIDATES, answered(calibration, 1), test, **TRY)
    assert names_and_strengths(other) != chosen


def test_what_was_chosen_is_the_sweeps_choice(evaluation):
    assert [along.name for along in evaluation.sweep.directions] == [
        "one", "some 1", "some 2", "some 3", "two",
    ]  # fmt: skip
    assert evaluation.sweep.logits.shape == (5, 5, 60, 4)
    for name, among in (("one", slice(0, 1)), ("some", slice(1, 4)), ("two", slice(4, 5))):
        along, strength = evaluation.sweep.choose(among, 0.05)
        assert (along.name, strength) == names_and_strengths(evaluation)[name]


def test_the_judgement_is_the_metrics_of_the_chosen_branches_on_the_test_split(evaluation, splits):
    model, test = opened("llama"), splits[1]
    branches = [(CANDIDATES["one"], 0), *evaluation.chosen.values()]
    logits = read_branches(model, test, branches)
    p, labels = scipy.special.softmax(logits.astype(float), axis=-1), np.array(test["answer"])
    table, changes = evaluation.comparison.table, evaluation.comparison.changes
    assert list(table.index) == list(changes.index) == ["unsteered", "one", "some", "two"]
    assert list(evaluation.logits) == list(table.index)
    for own, expected in zip(evaluation.logits.values(), logits, strict=True):
        close(own, expected)
    expected = {
        "accuracy": metrics.accuracy(p, labels),
        "confidence": metrics.mean_confidence(p, labels),
        "ece": metrics.ece(p, labels),
        "mce": metrics.mce(p, labels, min_count=20),
        "nll": metrics.nll(p, labels),
        "auroc": metrics.auroc(p, labels),
    }
    reliability = np.max(test["posterior"], axis=1)
    expected["truth"] = np.array([np.corrcoef(way.max(axis=1), reliability)[0, 1] for way in p])
    for name, values in expected.items():
        close(table[name], values, 1e-6)
        close(changes[name], values - values[0], 1e-6)
        assert (table[f"{name}_low"] < table[f"{name}_high"]).all()
    assert (changes.loc["unsteered"] == 0).all()
    assert evaluation.comparison.reference == "unsteered"


def test_splits_that_share_a_question_are_refused_before_the_model_runs(unused, splits):
    calibration, test = (split.to_list() for split in splits)
    test[7] = calibration[30]
    test[9] = calibration[3] | {"answer": 0, "subject": "other"}
    test[11] = calibration[4] | {"choices": calibration[4]["choices"][::-1]}  # another question
    message = rf"2 questions of the test .* question 7 \('{calibration[30]['question'][:20]}"
    with pytest.raises(ValueError, match=message):
        try_directions(unused, CANDIDATES, *map(Dataset.from_list, (calibration, test)))


def test_a_candidate_cannot_take_the_unsteered_models_place(unused, splits):
    with pytest.raises(ValueError, match="a candidate is called 'unsteered'"):
        try_directions(unused, {"unsteered": direction(0, 1)}, *splits)


def test_a_trial_goes_on_where_it_was(evaluation, splits, passes, tmp_path):
    model, resume = opened("llama"), tmp_path / "run"
    first = try_directions(model, CANDIDATES, *splits, **TRY, resume=resume)
    assert len(passes) >= 2
    passes.clear()
    again = try_directions(model, CANDIDATES, *splits, **TRY, resume=resume)
    assert not passes
    for one in (first, again):
        pandas.testing.assert_frame_equal(
            one.comparison.table, evaluation.comparison.table, atol=1e-6
        )
