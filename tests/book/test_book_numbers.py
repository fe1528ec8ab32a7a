"""Every number in the chapters' prose against the same number computed without calib."""

import re

import numpy as np
import pytest
import torch
from recomputed import basics as plain
from recomputed.beyond import expected_beyond
from recomputed.laboratory import Laboratory, share
from recomputed.mechanisms import expected_mechanisms
from recomputed.real import expected_real
from recomputed.recalibration import expected_recalibration
from recomputed.steering import Steering, expected_direction, expected_temperature
from recomputed.training import expected_training
from support.book import PAGES, ROOT, lies_below, values_of

from calib import load_questions

START, END = 6, 8  # of the correction phase


def prose_of(page):
    """The page's text without code, formulas and front matter."""
    text = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"^---\n.*?\n---\n", "", text, count=1, flags=re.S)
    text = re.sub(r"```\{code-cell\}.*?\n```", "", text, flags=re.S)
    text = re.sub(r"```python.*?\n```", "", text, flags=re.S)
    return re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)


def quoted_in(page):
    """Names of the glued values the prose quotes, an interval under the name of its value."""
    names = re.findall(r"\{glue:text\}`([^`:]+)(?::[^`]*)?`", prose_of(page))
    return {name.removesuffix("_text") for name in names}


@pytest.fixture(scope="session")
def laboratory():
    return Laboratory(4000)


@pytest.fixture(scope="session")
def expected(laboratory):
    """By page, every number that its prose quotes: computed while the book is being built."""
    lab, steering, real = laboratory, Steering(), expected_real(laboratory)
    return {
        "index": expected_index(real),
        "reliability": expected_reliability(lab),
        "asking": expected_asking(lab),
        "layers": expected_layers(lab),
        "real": real,
        "direction": expected_direction(lab, steering),
        "temperature": expected_temperature(lab, steering),
        "mechanisms": expected_mechanisms(lab, steering.lab),
        "beyond": expected_beyond(lab, steering.lab),
        "recalibration": expected_recalibration(lab, steering.lab),
        "training": expected_training(lab, load_questions("almanac")),
        "own": expected_own(lab),
    }


def expected_index(real):
    lab = Laboratory(2000)
    own = {
        "ece_start": lab.interval(plain.ece, lab.base[START]),
        "ece_end": lab.interval(plain.ece, lab.base[END]),
        "accuracy_change": lab.difference(plain.accuracy, lab.base, END, START),
    }
    return {
        **{f"index_laboratory_{name}": value for name, value in own.items()},
        **{f"index_real_{name}": real[f"real_{name}"] for name in own},
    }


def drawn_labels(p, rng):
    return np.array([rng.choice(4, p=row / row.sum()) for row in p])


def debiased(p, labels):
    """Kumar's debiased L2 error in ten bins, bin by bin."""
    top, right, total = p.max(axis=1), p.argmax(axis=1) == labels, 0.0
    for b in range(10):
        inside = (top > b / 10) & (top <= (b + 1) / 10)
        n = inside.sum()
        if n > 1:
            a = right[inside].mean()
            total += n * ((top[inside].mean() - a) ** 2 - a * (1 - a) / (n - 1))
    return np.sqrt(max(total / len(p), 0))


def calibrated(metric, p, size, times=300):
    """Mean and middle 95 % of a metric over samples whose labels are drawn from ``p`` itself."""
    rng, values = np.random.default_rng(2), []
    for _ in range(times):
        some = p[rng.choice(len(p), size, replace=False)]
        values.append(metric(some, drawn_labels(some, rng)))
    return np.mean(values), *np.quantile(values, [0.025, 0.975])


def expected_reliability(lab):
    base, tuned = lab.base[-1], lab.tuned[-1]
    rng = np.random.default_rng(3)
    dealt = base.copy()  # another deal than the chapter's
    for letter in range(4):
        group = np.flatnonzero(base.argmax(axis=1) == letter)
        dealt[group] = base[rng.permutation(group)]
    interval = lab.interval
    return {
        "reliability_base_ece": interval(plain.ece, base),
        "reliability_tuned_ece": interval(plain.ece, tuned),
        "reliability_base_accuracy": interval(plain.accuracy, base),
        "reliability_tuned_accuracy": interval(plain.accuracy, tuned),
        "reliability_base_gap": interval(plain.gap, base),
        "reliability_tuned_gap": interval(plain.gap, tuned),
        "reliability_dealt_out_gap": interval(plain.gap, dealt),
        "reliability_dealt_out_ece": interval(plain.ece, dealt),
        "reliability_bias_100": calibrated(plain.ece, base, 100),
        "reliability_bias_4000": calibrated(plain.ece, base, 4000, times=40),
        "reliability_debiased_100": calibrated(debiased, base, 100),
        "reliability_base_true_ece": plain.true_ece(base, lab.posterior),
        "reliability_tuned_true_ece": plain.true_ece(tuned, lab.posterior),
        # 285 of 300 on average, 95 % of the time within 7; ECE is never negative
        "reliability_coverage_accuracy": share(285, 300),
        "reliability_coverage_ece": share(0, 300),
    }


def expected_asking(lab):
    n = lab.n
    base = lab.base[-1]
    commonest = max(np.sum(lab.labels == letter) for letter in range(4))
    values = {
        f"asking_mass_{layer}": np.quantile(lab.mass[layer], [0.5, 0.025, 0.975])
        for layer in (0, 2, 8)
    }
    module, tokenizer = plain.load("almanac")
    some = lab.questions.select(range(1000))
    header = "The following are questions (with answers) about {}.\n\n{}\nAnswer:"
    openly = [header.format(r["subject"].replace("_", " "), r["question"]) for r in some]
    words = plain.last_states(module, tokenizer, openly)[1].softmax(-1)
    choices = [[tokenizer(f" {c}")["input_ids"] for c in row["choices"]] for row in some]
    received = words.gather(1, torch.tensor(choices).squeeze(-1)).numpy()
    truth = lab.posterior[:1000]
    values["asking_open_mass"] = np.quantile(received.sum(axis=1), [0.5, 0.025, 0.975])
    values["asking_open_follows"] = lab.of(
        lambda i: np.corrcoef(received[i].ravel(), truth[i].ravel())[0, 1], n=1000
    )
    some, exemplars = lab.questions.select(range(600)), load_questions("almanac", "dev")
    labels = lab.labels[:600]
    for shots in (0, 3):
        prompts = plain.few_shot_prompts(some, exemplars, shots)
        logits = plain.last_states(module, tokenizer, prompts)[1]
        letters = [tokenizer(f" {letter}")["input_ids"][0] for letter in "ABCD"]
        right = logits[:, letters].argmax(-1).numpy() == labels
        values[f"asking_shots_{shots}_accuracy"] = lab.of(lambda i, r=right: r[i].mean(), n=600)
    return values | {
        "asking_chance_margin": 100 * 1.96 * np.sqrt(0.25 * 0.75 / n),
        "asking_accuracy": lab.interval(plain.accuracy, base),
        "asking_majority": share(commonest, n),
    }


def expected_layers(lab):
    values = {"layers_onset": 5, "layers_decision": START, "layers_start": START}
    for name, p in {"base": lab.base, "tuned": lab.tuned}.items():
        for place, layer in {"start": START, "end": END}.items():
            for metric in (plain.accuracy, plain.ece, plain.mce, plain.nll):
                key = f"layers_{name}_{metric.__name__}_{place}"
                values[key] = lab.interval(metric, p[layer])
            top = p[layer].max(axis=1)
            values[f"layers_{name}_truth_{place}"] = lab.of(
                lambda i, top=top: np.corrcoef(top[i], lab.reliability[i])[0, 1]
            )
    answers = lab.base.argmax(axis=2)
    for category in ("STEM", "humanities", "social sciences", "other"):
        rows = np.flatnonzero(lab.categories == category)
        y = lab.labels[rows]
        start = START + np.argmax([plain.ece(lab.base[e][rows], y) for e in range(START, END)])
        key = f"layers_fall_{category.replace(' ', '_')}"
        values[key] = lab.difference(plain.ece, lab.base, start, END, rows)
    return values | {
        "layers_fall": lab.difference(plain.ece, lab.base, START, END),
        "layers_accuracy_change": lab.difference(plain.accuracy, lab.base, END, START),
        "layers_changed": share(np.sum(answers[START] != answers[END]), lab.n),
        "layers_tuned_start": 7,
        "layers_tuned_fall": lab.difference(plain.ece, lab.tuned, 7, END),
        "layers_false_alarm": share(0, 40),
        "layers_same_letter": share(np.bincount(answers[4]).max(), lab.n),
        "layers_confidence_4": lab.interval(plain.confidence, lab.base[4]),
        "layers_bayes_accuracy": lab.reliability.mean(),
        "layers_bayes_nll": -np.mean(
            np.sum(lab.posterior * np.log(np.maximum(lab.posterior, 1e-300)), axis=1)
        ),
    }


def expected_own(lab):
    """Counts of tokens and batches, worked out from the texts."""
    tokenizer = plain.load("almanac")[1]
    some, exemplars = load_questions("almanac", limit=200), load_questions("almanac", "dev")
    whole = shared = 0
    for subject in set(some["subject"]):
        rows = [row for row in some if row["subject"] == subject]
        prompts = plain.few_shot_prompts(rows, exemplars, 3)
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
        prefix = next(i for i, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1)
        whole += sum(map(len, ids))
        shared += prefix + sum(len(row) - prefix for row in ids)
    prompts = [plain.prompt_of(row) for row in load_questions("almanac", limit=1000)]
    lengths = sorted((len(tokenizer(prompt)["input_ids"]) for prompt in prompts), reverse=True)
    batches = []
    for length in lengths:
        if not batches or (len(batches[-1]) + 1) * batches[-1][0] > 8192:
            batches.append([])
        batches[-1].append(length)
    return {
        "own_tokens_whole": whole,
        "own_tokens_shared": shared,
        "own_batches_kept": 2,
        "own_batches_again": len(batches) - 2,
        "own_chance": round((1 / 2 + 1 / 3) / 2, 3),
    }


# Values that rest on other random draws than the chapter's: how far they may be apart.
DRAWN = {
    "reliability_dealt_out_ece": 0.01,
    "reliability_bias_100": 0.006,
    "reliability_bias_4000": 0.003,
    "reliability_debiased_100": 0.01,
    "reliability_coverage_accuracy": 0.04,
    "reliability_coverage_ece": 0.01,
    "layers_false_alarm": 0.06,
    "asking_chance_margin": 0.05,
    "temperature_random_4_best_ece": 0.03,
    "temperature_dealt_out_truth": 0.03,
    "temperature_dealt_out_ece": 0.01,
    "beyond_base_6_stream": 0.004,
    "beyond_base_6_last": 0.004,
    "beyond_agree_AUSE": 0.02,
    "training_base_agreement_ece": 0.015,
    "training_base_agreement_truth": 0.01,
    "training_base_entropy_gap": 0.015,
    "training_tuned_agreement_ece": 0.015,
    "training_tuned_agreement_gap": 0.01,
    **{f"training_pass_{name}_measured_{k}": 0.01 for name in ("base", "tuned") for k in (5, 39)},
    **{f"training_pass_{name}_answers_{k}": 0.005 for name in ("base", "tuned") for k in (5, 39)},
    **{f"training_gain_{name}_agreement": 0.003 for name in ("base", "tuned")},
    "training_base_one_ece": 0.01,
}
# Values that are small themselves.
SMALL = {
    **{
        f"mechanisms_{key}_{way}": 1e-5 for key in ("largest", "norm") for way in ("held", "silent")
    },
    "mechanisms_logit_var_confidence_change": 1e-5,
}


@pytest.mark.parametrize("page", PAGES)
def test_every_number_in_the_prose_is_what_an_independent_computation_gives(page, expected, glued):
    values, quoted = glued[page], quoted_in(page)
    assert quoted
    assert not quoted - set(expected[page]), "quoted in the prose, but checked nowhere"
    for name in sorted(quoted):
        value, *limits = np.atleast_1d(expected[page][name])
        within = (DRAWN | SMALL).get(name, 1e-3)
        assert values[name] == pytest.approx(value, abs=within), name
        for end, limit in zip(("_low", "_high"), limits, strict=False):
            spread = 0.2 * (limits[1] - limits[0])
            assert values[name + end] == pytest.approx(limit, abs=within + spread), name + end


@pytest.mark.parametrize("page", PAGES)
def test_every_quoted_value_is_on_the_page(page, glued, book):
    html = (book / "html" / "book" / f"{page}.html").read_text(encoding="utf-8")
    pasted = re.findall(r'<span class="pasted-text">(.*?)</span>', html)
    assert pasted
    quoted = re.findall(r"\{glue:text\}`([^`]+)`", prose_of(page))
    texts = []
    for name in quoted:
        name, _, form = name.partition(":")
        value = glued[page][name]
        texts.append(format(value, form) if form else str(value))
    assert pasted == texts


@pytest.mark.parametrize("page", (*PAGES, "glossary"))
def test_no_measured_number_is_typed_by_hand(page):
    """Bounds of bins aside, the prose writes no decimal fraction of its own."""
    text = re.sub(r"\{glue:text\}`[^`]*`", "", prose_of(page))
    text = re.sub(r"\(0(\.\d)?, 0\.\d\]|\(0\.\d, 1\]|only 0\.1 itself|`[^`]*`|    .*", "", text)
    assert re.findall(r"\d+\.\d+", text) == []


# What the prose says beyond its numbers


def test_the_index_and_chapter_three_tell_the_same_story(glued):
    index, layers = glued["index"], glued["layers"]
    for name in ("real", "laboratory"):
        assert index[f"index_{name}_ece_end_high"] < index[f"index_{name}_ece_start_low"]
        assert abs(index[f"index_{name}_accuracy_change"]) < 0.02
    assert index["index_real_ece_start"] == glued["real"]["real_ece_start"]
    assert layers["layers_fall_low"] > 0
    assert layers["layers_changed"] < 0.1
    assert layers["layers_base_ece_start"] > 3 * layers["layers_base_ece_end"]


def test_reliability_tells_the_models_apart(glued):
    v = glued["reliability"]
    assert v["reliability_base_gap_low"] < 0 < v["reliability_base_gap_high"]
    assert v["reliability_tuned_gap_low"] > 0.1
    assert abs(v["reliability_base_accuracy"] - v["reliability_tuned_accuracy"]) < 0.02
    assert v["reliability_dealt_out_ece_low"] > v["reliability_base_ece_high"]
    assert v["reliability_debiased_100"] < v["reliability_bias_100"]
    assert v["reliability_truth_ece"] < v["reliability_base_ece"]


def test_no_letter_is_preferred(glued):
    v = glued["asking"]
    for letter in "ABCD":
        assert v[f"asking_excess_{letter}_low"] < 0 < v[f"asking_excess_{letter}_high"]


def test_most_intervals_of_a_subject_reach_the_best_possible(glued):
    v = glued["asking"]
    subjects = [name.removesuffix("_best") for name in v if name.endswith("_best")]
    assert len(subjects) == 8
    assert sum(v[f"{s}_low"] <= v[f"{s}_best"] <= v[f"{s}_high"] for s in subjects) >= 7
    assert all(abs(v[s] - v[f"{s}_best"]) < 0.05 for s in subjects)


def test_exemplars_do_harm_here(glued):
    v = glued["asking"]
    assert v["asking_shots_3_accuracy_high"] < v["asking_shots_0_accuracy_low"]


def test_every_category_has_its_correction_and_the_humanities_start_highest(glued, laboratory):
    v, lab = glued["layers"], laboratory
    falls = [v[f"layers_fall_{c}_low"] for c in ("STEM", "humanities", "social_sciences", "other")]
    assert min(falls) > 0
    start, reliability = {}, {}
    for category in set(lab.categories):
        rows = lab.categories == category
        start[category] = plain.ece(lab.base[START][rows], lab.labels[rows])
        reliability[category] = lab.reliability[rows].mean()
    assert max(start, key=start.get) == min(reliability, key=reliability.get) == "humanities"


def test_the_tuned_models_correction_is_slight_and_its_doubt_blunter(glued):
    v = glued["layers"]
    assert v["layers_tuned_fall_high"] < v["layers_fall_low"] / 2
    assert v["layers_tuned_truth_end_high"] < v["layers_base_truth_end_low"]
    assert v["layers_base_truth_start_high"] < v["layers_base_truth_end_low"]


def test_the_real_models_correction_is_a_temperature_and_the_laboratorys_is_more(glued):
    v, _ = values_of(glued, "real")
    assert v["qwen_share_low"] > 0.95 and v["five_share_low"] > 0.95
    assert 0.5 < v["lab_share_low"] and v["lab_share_high"] < 0.7  # "more than half, far from all"
    assert f"{v['qwen_share']:.0%} and {v['lab_share']:.0%}" == "98% and 57%"  # as the README says
    assert v["qwen_nll_fall_at_t_low"] > 0  # "a small part is left"
    assert v["qwen_brier_share_high"] < v["qwen_share"]
    assert v["auroc_change_low"] < 0 < v["auroc_change_high"]
    assert v["last_block_low"] > 0.5 * v["fall_high"]  # "most of the fall"
    for category in ("STEM", "humanities", "social_sciences", "other"):
        assert v[f"fall_{category}_low"] > 0.2
        assert v[f"kept_{category}_low"] > -0.02 and v[f"kept_{category}_high"] < 0.02
        assert v[f"dip_{category}"] > 0
        assert (v[f"dip_{category}"] > 0.02) == (v[f"decision_{category}"] == 27)
    assert v["decision_STEM"] == v["decision_other"] == 27
    assert v["five_fall_low"] > 0.2


def test_five_shots_change_neither_accuracy_nor_the_preference_for_a_letter(glued):
    v, _ = values_of(glued, "real")
    for name in ("accuracy", "ece"):
        assert v[f"five_{name}_low"] < 0 < v[f"five_{name}_high"]
    assert v["five_letter_share"] > v["zero_letter_share"]
    assert v["five_last"] < -0.02


def test_a_preference_for_a_letter_hides_the_real_models_answer(glued):
    v, limits = values_of(glued, "real")
    assert lies_below(limits["plain_22"], limits["lifted_22"])
    assert v["lifted_22"] > 0.9 * v["accuracy_end"] > v["plain_22"] * 1.5
    assert abs(v["lifted_21"] - v["baseline"]) < 0.01  # "hardly more than the baseline"
    assert v["letter_share_22_low"] > 0.95
    assert v["letter_share_28_low"] > v["last_right"]
    assert v["letter_22"] != v["letter_28"]
    assert (v["lifted_onset"], v["lifted_decision"]) == (v["onset"] - 1, v["decision"] - 1)


def test_the_small_model_has_no_onset_though_its_ece_moves(glued):
    v, _ = values_of(glued, "real")
    assert v["small_accuracy_high"] <= v["small_baseline"]
    assert v["small_most_ece"] > v["small_least_ece"] + 0.3
    assert v["small_lifted_low"] < v["small_baseline"] < v["small_lifted_high"]


def test_a_direction_halves_both_errors_and_leaves_accuracy(glued):
    v = glued["direction"]
    helped = {}
    for name in ("base", "own", "wrong", "regression", "gradient", "null", "random", "temperature"):
        helped[name] = (
            v[f"direction_{name}_ece_high"] <= v["direction_unsteered_ece"] / 2
            and v[f"direction_{name}_mce_high"] <= v["direction_unsteered_mce"] / 2
            and v[f"direction_{name}_accuracy_change_low"] > -0.01
            and v[f"direction_{name}_accuracy_change_high"] < 0.01
        )
    assert helped["base"]
    assert helped["random"]  # and so, the table says, does a control
    for name in ("gradient", "temperature"):
        assert v[f"direction_{name}_ece_high"] <= v["direction_unsteered_ece"] / 2


def test_the_direction_travels_to_every_other_category(glued):
    v = glued["direction"]
    for found_on in ("STEM", "humanities", "social_sciences", "other"):
        assert v[f"direction_travel_{found_on}_ece_high"] < -0.05
        assert abs(v[f"direction_travel_{found_on}_accuracy"]) < 0.01


def test_the_correction_is_low_dimensional_and_the_regressions_are_not(glued):
    v = glued["direction"]
    assert v["direction_kept_4_low"] > 0.8
    assert v["direction_subject_share_1"] > 0.95
    assert v["direction_regression_share_1"] < 0.5
    assert v["direction_base_model_furthest"] == 0


def test_a_constant_push_is_hardly_more_than_a_temperature(glued):
    v = glued["temperature"]
    for name in ("correction", "regression"):
        assert v[f"temperature_matched_{name}_ece_high"] < 0
    for name in ("wrong", "gradient"):
        assert v[f"temperature_matched_{name}_ece_high"] > 0
    for name in ("correction", "wrong", "regression", "gradient"):
        assert v[f"temperature_matched_{name}_nll_high"] > 0
        assert v[f"temperature_matched_{name}_auroc_low"] < 0
    assert v["temperature_matched_correction_auroc_high"] < 0
    assert v["temperature_matched_gradient_truth_low"] > 0
    assert v["temperature_matched_gradient_nll_low"] < 0
    assert v["temperature_random_4_best_truth_most"] < v["temperature_fitted_truth_half"]
    assert v["temperature_random_8_best_truth_most"] < v["temperature_fitted_truth_half"]
    assert v["temperature_random_better"] < 20
    assert v["temperature_gradient_ece_half"] < v["temperature_random_4_best_ece_low"] + 0.01


def test_the_order_needs_each_questions_own_amount(glued):
    v = glued["temperature"]
    assert v["temperature_mean_ece_high"] < v["temperature_nothing_ece_low"]
    assert abs(v["temperature_mean_truth"] - v["temperature_nothing_truth"]) < 0.03
    assert v["temperature_own_amount_truth_low"] > v["temperature_mean_truth_high"]
    assert v["temperature_dealt_out_truth_high"] < v["temperature_mean_truth_low"]


def test_the_upper_layers_write_for_the_answer_and_the_norm_lowers_confidence_by_more(glued):
    v, limits = values_of(glued, "mechanisms")
    assert v["base_all_write_low"] > 0
    assert v["base_all_norm_high"] < -v["base_all_write_high"]
    assert lies_below(limits["start_confidence"], limits["write_confidence"])
    assert lies_below(limits["norm_confidence"], limits["end_confidence"])
    for model in ("base", "tuned"):
        assert v[f"{model}_attention_7_write_low"] > 0
        assert v[f"{model}_attention_8_write_low"] > 0


def test_one_component_stands_out_and_tuning_turned_it_down(glued):
    v, _ = values_of(glued, "mechanisms")
    effects = {
        f"{component}_{route}": abs(v[f"base_{component}_{route}"])
        for component in ("attention_7", "MLP_7", "attention_8", "MLP_8")
        for route in ("write", "norm")
    }
    assert max(effects, key=effects.get) == "MLP_8_norm"
    assert v["base_MLP_8_norm_high"] < -0.1  # "by more than a tenth"
    assert v["base_MLP_8_norm"] < v["base_MLP_7_norm"] < v["base_MLP_7_norm_high"] < 0
    assert v["base_MLP_8_norm"] < v["base_all_norm"] / 2  # "does most of it"
    assert v["base_MLP_8_norm"] / 2 < v["tuned_MLP_8_norm_low"]
    assert v["tuned_MLP_8_norm_high"] < 0


def test_the_growth_is_not_in_the_null_space_but_where_all_letters_read_alike(glued):
    v, limits = values_of(glued, "mechanisms")
    assert lies_below(limits["null_share_8"], limits["null_share_6"])
    assert v["null_share_8_high"] < v["null_random"]
    assert lies_below(limits["common_share_6"], limits["common_share_8"])
    assert v["common_share_8_low"] > 50 * v["common_random"]
    # "the correction is undone": more confident, and by more in error, than at layer 6
    assert v["without_common_confidence_low"] > 0.15
    assert v["end_confidence"] + v["without_common_confidence"] > v["start_confidence_high"]
    assert v["end_ece"] + v["without_common_ece_low"] > v["start_ece"]
    # through the norm and nothing else; and what the null space does is not the norm's
    assert abs(v["without_common_confidence_frozen"]) < 1e-6
    assert v["without_null_confidence_high"] < v["without_random_confidence_low"]
    assert lies_below(limits["without_null_confidence_frozen"], (-0.03, 0))


def test_the_common_direction_is_no_random_one_and_its_amount_carries_the_order(glued):
    v, limits = values_of(glued, "mechanisms")
    assert v["added_common"] > 0.5
    assert v["along_confidence_high"] < v["crowd_confidence_low"]
    assert v["crowd_confidence_high"] < v["before_confidence_low"]  # "any long vector's"
    assert v["along_ece"] < v["crowd_ece"]
    assert lies_below(limits["mean_truth"], limits["along_truth"])


def test_no_neuron_regulates_confidence_by_itself(glued):
    v, _ = values_of(glued, "mechanisms")
    assert v["rho"] < v["rho_random"]
    assert max(v["norm_held_high"], v["largest_held_high"]) < 0.005
    for key in ("norm", "largest"):
        assert v[f"{key}_silent_high"] < v["silent_confidence_change"] / 10
    assert v["common_50_norm"] > 0.9 * v["common_50_confidence_change"]  # "through the norm"
    assert abs(v["size_50_confidence_change"] - v["common_50_confidence_change"]) < 0.005
    assert -0.005 < v["logit_var_confidence_change_low"]
    assert v["logit_var_confidence_change_high"] < 0.005
    assert v["common_50_confidence_change_low"] > v["random_50_high"]
    assert v["common_10_confidence_change_low"] > v["random_50_high"]  # ten more than any fifty
    assert v["silent_confidence_change_low"] > v["common_50_confidence_change_high"]


def test_all_neurons_at_their_means_keep_the_level_and_lose_the_order(glued):
    v, _ = values_of(glued, "mechanisms")
    assert abs(v["held_confidence_change"]) < 0.01
    assert v["held_ece_change"] <= 0
    assert v["held_truth_change_high"] < -0.05
    assert v["silent_ece_change_low"] > 0.05


def test_through_another_lens_the_level_is_right_and_the_order_still_grows(glued):
    v, limits = values_of(glued, "mechanisms")
    for layer in (4, 5, 6, 7):
        assert lies_below(limits[f"tuned_lens_{layer}_ece"], limits[f"logit_lens_{layer}_ece"])
        # "no correction phase": no fall that the limits would not leave room for
        assert v[f"tuned_lens_{layer}_ece_low"] < v["end_ece_high"]
    assert lies_below(limits["logit_lens_4_accuracy"], limits["tuned_lens_4_accuracy"])
    assert v["temperature_6_ece"] < v["tuned_lens_6_ece_high"]
    assert lies_below(limits["temperature_6_ece"], limits["logit_lens_6_ece"])
    for less in ("logit_lens", "temperature"):
        assert lies_below(limits[f"{less}_6_truth"], limits["tuned_lens_6_truth"])
    for lens in ("logit_lens", "temperature", "tuned_lens"):
        assert lies_below(limits[f"{lens}_6_truth"], limits["end_truth"])
        assert lies_below(limits[f"{lens}_6_truth"], limits[f"{lens}_7_truth"])


def test_ece_prefers_the_forecaster_that_knows_nothing(glued):
    v, limits = values_of(glued, "beyond")
    assert v["constant_ece"] < v["base_ece"]
    assert lies_below(limits["base_nll"], limits["constant_nll"])
    assert lies_below(limits["base_hidden"], limits["constant_hidden"])


def test_the_known_grouping_loss_falls_and_the_bound_finds_what_its_features_show(glued):
    v, limits = values_of(glued, "beyond")
    for name in ("base", "tuned"):
        assert lies_below(limits[f"{name}_8_known"], limits[f"{name}_7_known"])
        assert lies_below(limits[f"{name}_7_known"], limits[f"{name}_6_known"])
        for layer in (6, 7, 8):
            assert (
                v[f"{name}_{layer}_stream"] < 0.25 * v[f"{name}_{layer}_known"]
            )  # "next to nothing"
            for kind in ("stream", "last", "known_probability"):  # a lower bound
                assert v[f"{name}_{layer}_{kind}_low"] < v[f"{name}_{layer}_known"]
    assert v["base_6_last_low"] > v["base_6_stream_high"]


def test_a_temperature_removes_the_sign_and_not_the_dark_side(glued):
    v, limits = values_of(glued, "beyond")
    assert v["tuned_over"] > 0.15 > 0.001 > v["tuned_under"]
    assert lies_below(limits["base_wrong"], limits["tempered_wrong"])


def test_local_errors_are_held_against_noise(glued):
    v, _ = values_of(glued, "beyond")
    assert v["lce_constant"] > 2 * v["lce_chance"]
    assert abs(v["lce_base"] - v["lce_chance"]) < 0.005
    assert v["mlce_chance"] > 0.5


def test_level_and_order_hardly_agree_and_the_brier_score_follows_the_truth(glued):
    v, limits = values_of(glued, "beyond")
    assert abs(v["agree_level_order"]) < 0.2
    for name in ("ECE", "AUSE", "NLL"):
        assert lies_below(limits[f"agree_{name}"], limits["agree_Brier"])
    assert v["agree_NLL_finite"] > v["agree_NLL_high"] - 0.05


def test_with_many_labels_bending_pays_and_no_method_mends_the_order(glued):
    v, limits = values_of(glued, "recalibration")
    for key in ("histogram", "isotonic", "LoRe"):
        assert lies_below(limits[f"tuned_{key}_ece"], limits["tuned_temperature_ece"])
    assert v["tuned_isotonic_nll"] == np.inf
    for key in (
        "temperature",
        "histogram",
        "isotonic",
        "LoRe",
        "clipping",
        "g-layers",
        "direction",
    ):
        if key != "direction":
            assert v[f"base_{key}_nll"] > v["base_as_it_is_nll"] - 1e-4
        assert v[f"tuned_{key}_auroc"] < v["tuned_as_it_is_auroc_high"]
    assert abs(v["tuned_histogram_nll"] - v["tuned_temperature_nll"]) < 0.01  # "close together"


def test_with_few_labels_one_number_is_hard_to_beat(glued):
    v, _ = values_of(glued, "recalibration")
    assert v["temperature_50_ece"] < v["histogram_50_ece"] - 0.02
    assert v["temperature_50_nll"] < v["histogram_50_nll"]
    assert v["histogram_200_ece"] < v["temperature_200_ece_high"]


def test_what_is_fitted_on_some_subjects_fails_on_others(glued):
    v, limits = values_of(glued, "recalibration")
    for key in ("temperature", "histogram", "isotonic", "LoRe", "clipping", "g-layers"):
        assert v[f"easy_tuned_{key}_other_gap_low"] > v[f"easy_tuned_{key}_own_gap"]
        assert v[f"hard_tuned_{key}_other_gap_high"] < 0
        assert v[f"easy_tuned_{key}_other_ece"] < v["easy_tuned_as_it_is_other_ece_low"]
    assert lies_below(
        limits["easy_base_as_it_is_other_ece"], limits["easy_base_histogram_other_ece"]
    )
    for key in ("temperature", "clipping"):  # "do least harm"
        assert v[f"easy_base_{key}_other_ece"] < v["easy_base_isotonic_other_ece_low"]


def test_a_slice_is_found_where_there_is_one(glued):
    v, _ = values_of(glued, "recalibration")
    assert v["few_patchwork_gain_high"] < 0 < v["few_patchwork_swapped_low"]
    assert abs(v["few_tuned_pooled"] - v["few_tuned_few-shot"]) < 0.001
    assert v["few_tuned_pooled_high"] < 0 < v["few_base_few-shot_low"]
    assert v["few_patchwork_gain"] < v["few_reversed_gain"] < 0 < v["few_reversed_gain_high"]


def test_no_letter_is_preferred_until_one_is_planted(glued):
    v, _ = values_of(glued, "recalibration")
    for name in ("base", "tuned"):
        assert v[f"{name}_rstd_high"] < 0.02
        assert v[f"letters_{name}_contextual_as_low"] > 0
        assert v[f"letters_{name}_rotations_as_high"] < 0
    assert v["letters_base_none_planted_low"] > 0.01
    for key in ("batch", "PriDe"):
        assert abs(v[f"letters_base_{key}_planted"]) < 0.01


def test_proper_losses_are_honest_with_fresh_answers_and_none_with_fixed_ones(glued):
    v, limits = values_of(glued, "training")
    for loss in ("cross-entropy", "brier"):
        assert abs(v[f"fresh_{loss}_0_gap"]) < 0.02
    for loss in ("focal-1", "focal-3", "flsd-53", "focal-calibration"):
        assert v[f"fresh_{loss}_0_gap_high"] < -0.05
        assert v[f"fixed_{loss}_0_gap"] < v["fixed_cross-entropy_0_gap"]
    assert lies_below(limits["fresh_focal-3_0_recovered"], limits["fresh_focal-1_0_ece"])
    assert min(v[f"fixed_{loss}_0_gap_low"] for loss in ("focal-3", "flsd-53")) > 0.2
    assert (
        min(v["fixed_focal-3_0_gap_low"], v["fixed_flsd-53_0_gap_low"]) > v["start_none_0_gap_high"]
    )
    assert lies_below(limits["fixed_focal-3_0_ece"], limits["fixed_focal-3_0_recovered"])
    assert lies_below(limits["fixed_cross-entropy_0_truth"], limits["fixed_focal-3_0_truth"])
    assert abs(v["fixed_focal-3_0_auroc"] - v["fixed_cross-entropy_0_auroc"]) < 0.01
    for loss in ("cross-entropy", "focal-3"):  # the second runs
        for regime in ("fresh", "fixed"):
            two = (v[f"{regime}_{loss}_{seed}_gap"] for seed in (0, 1))
            assert abs(np.subtract(*two)) < 0.03


def test_agreement_is_as_honest_as_the_model(glued):
    v, limits = values_of(glued, "training")
    assert lies_below(limits["base_agreement_ece"], limits["tuned_agreement_ece"])
    assert lies_below(limits["base_letters_truth"], limits["base_agreement_truth"])
    assert lies_below(limits["tuned_agreement_gap"], limits["tuned_letters_gap"])
    for name in ("base", "tuned"):
        order = [v[f"{name}_{kind}_auroc"] for kind in ("agreement", "distance", "entropy")]
        assert np.ptp(order) < 0.01
    assert v["base_one_ece"] < v["base_agreement_ece_high"]


def test_the_honest_model_forecasts_its_own_attempts(glued):
    v, limits = values_of(glued, "training")
    assert abs(v["pass_base_answers_5"] - v["pass_base_measured_5"]) < 0.01
    assert lies_below(limits["pass_base_answers_39"], limits["pass_base_measured_39"])
    assert lies_below(limits["pass_tuned_measured_5"], limits["pass_tuned_answers_5"])
    for name in ("base", "tuned"):
        assert lies_below(limits[f"pass_{name}_answers_5"], limits[f"pass_{name}_agreement_5"])
        assert 0 < v[f"gain_{name}_letters_low"]
        assert v[f"gain_{name}_letters"] < v[f"gain_{name}_agreement"] < v[f"gain_{name}_true"]
