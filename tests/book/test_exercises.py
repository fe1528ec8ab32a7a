"""What the solutions of the exercises say in words holds for the numbers that they show."""

import pytest
from support.book import lies_below, values_of

MODELS = ("base", "tuned")


def holds_zero(limits):
    return limits[0] <= 0 <= limits[1]


def test_the_farthest_bin_is_not_the_heaviest(glued):
    v, _ = values_of(glued, "reliability")
    assert v["table_farthest"] != v["table_heaviest"]
    assert v["table_share"] < 0.1  # "few questions"
    assert abs(v["table_sum"] - v["base_ece"]) < 0.001


def test_more_questions_settle_the_order_and_pairs_help_only_the_brier_score(glued):
    v, limits = values_of(glued, "reliability")
    for design in ("same", "different"):
        assert v[f"settle_100_ECE_{design}_high"] < 0.9  # "often prefers the wrong model"
        assert v[f"settle_1600_ECE_{design}"] == 1
    for size in (100, 400, 1600):
        few, many = limits[f"settle_{size}_ECE_different"], limits[f"settle_{size}_ECE_same"]
        assert not lies_below(few, many)
        assert lies_below(
            limits[f"settle_{size}_Brier_different"], limits[f"settle_{size}_Brier_same"]
        )
        assert v[f"settle_{size}_itself_ECE_low"] < 0.5 < v[f"settle_{size}_itself_ECE_high"]


def test_two_ways_of_asking_agree_where_the_model_is_sure(glued):
    v, limits = values_of(glued, "asking")
    assert v["differ_high"] < 0.05
    for way in ("letters", "openly"):
        assert lies_below(limits[f"{way}_differ"], limits[f"{way}_agree"])
    assert lies_below(limits["letters_confidence"], limits["openly_confidence"])
    assert abs(v["letters_accuracy"] - v["openly_accuracy"]) < 0.01


def test_another_form_costs_accuracy_and_the_letters_do_not_tell(glued):
    v, _ = values_of(glued, "asking")
    for measure in ("accuracy", "gap"):
        low, high = (v[f"form_options_moved_{measure}_{end}"] for end in ("low", "high"))
        assert low <= 0 <= high
    assert v["form_blank_line_accuracy_low"] <= 0 <= v["form_blank_line_accuracy_high"]
    assert -0.1 < v["form_blank_line_gap"] < v["form_blank_line_gap_high"] < 0
    for form in ("A_for_A_", "no_header"):
        assert v[f"form_{form}_accuracy_high"] < -0.2
        assert v[f"form_{form}_gap_low"] > 0.1
    names = ("usual", "options_moved", "blank_line", "A_for_A_", "no_header")
    assert min(v[f"form_{form}_on_letters"] for form in names) > 0.99


def test_answers_change_for_the_better_where_the_known_probability_is_low(glued):
    v, limits = values_of(glued, "layers")
    assert lies_below(limits["changed_known_probability"], limits["kept_known_probability"])
    assert lies_below(limits["changed_right_before"], limits["changed_right_after"])
    assert abs(v["accuracy_change"]) < 0.01


def test_ece_grows_at_chance_and_falls_as_accuracy_grows(glued):
    v, limits = values_of(glued, "layers")
    assert lies_below(limits["ece_0"], limits["ece_4"])
    assert lies_below(limits["ece_5"], limits["ece_4"])
    assert lies_below(limits["base_ece_start"], limits["ece_5"])
    assert v["onset"] > 4


def test_those_lose_confidence_that_deserve_doubt(glued):
    v, limits = values_of(glued, "layers")
    for name in ("base", "tuned"):
        assert v[f"where_{name}_confidence_low"] > 0
        assert v[f"where_{name}_subject_low"] > 0.75 * v[f"where_{name}_confidence"]
        assert v[f"where_{name}_shuffled_low"] < 0 < v[f"where_{name}_shuffled_high"]
    for kind in ("confidence", "subject"):
        assert lies_below(limits[f"where_tuned_{kind}"], limits[f"where_base_{kind}"])
    assert abs(v["tuned_confidence_start"] - v["tuned_confidence_end"]) < 0.01


def test_only_two_recipes_find_nearly_the_same_direction(glued):
    v, _ = values_of(glued, "direction")
    chance = v["cosine_chance"]
    assert v["cosine_2_3"] > 3 * chance  # difference in means and the regression
    assert abs(v["cosine_0_3"]) < chance  # the correction and the regression
    for pair in ("0_1", "0_2", "1_2", "1_3"):
        assert chance < v[f"cosine_{pair}"] < 2 * chance
    for name in ("base", "gradient", "wrong", "regression"):
        assert v[f"{name}_ece_change_high"] < 0


def test_a_plane_is_no_better_than_a_line(glued):
    v, limits = values_of(glued, "direction")
    assert v["plane_component_2_strength"] == 0
    for name in ("regression", *(f"random_{seed}" for seed in range(4))):
        assert v[f"plane_{name}_strength"] != 0
        assert v[f"plane_{name}_chosen"] < 0
        assert holds_zero(limits[f"plane_{name}_test"])
    chosen = [v[f"plane_random_{seed}_chosen"] for seed in range(4)]
    assert min(chosen) < v["plane_regression_chosen"]  # a random plane buys as much


def test_own_amounts_beat_one_temperature_whatever_they_set(glued):
    v, limits = values_of(glued, "temperature")
    for name in ("probe_own_push", "probe_own_temperature"):
        assert v[f"{name}_nll_high"] < 0 < v[f"{name}_truth_low"]
        assert v[f"{name}_dealt_out_nll_low"] > 0
        assert holds_zero(limits[f"{name}_auroc"])


def test_the_norm_lowers_confidence_in_either_order(glued):
    v, _ = values_of(glued, "mechanisms")
    for order in ("writing_first", "norm_first"):
        assert 0 < v[f"walk_{order}_write"] < -v[f"walk_{order}_norm"]
    for route in ("write", "norm"):
        assert abs(v[f"walk_norm_first_{route}"]) > abs(v[f"walk_writing_first_{route}"])
    both = [
        v[f"walk_{order}_write"] + v[f"walk_{order}_norm"]
        for order in ("writing_first", "norm_first")
    ]
    assert abs(both[0] - both[1]) < 1e-9


def test_the_mechanism_turned_up_is_worth_a_temperature(glued):
    v, limits = values_of(glued, "mechanisms")
    assert lies_below(limits["knob_turned_up_ece"], limits["knob_as_it_is_ece"])
    for metric in ("nll", "truth"):
        assert holds_zero(limits[f"knob_turned_up_{metric}"])
    assert v["knob_turned_up_auroc_high"] < 0
    assert v["knob_dealt_out_nll_low"] > v["knob_turned_up_nll"]
    assert lies_below(limits["knob_dealt_out_truth"], limits["knob_turned_up_truth"])
    for seed in range(3):
        assert v[f"knob_random_{seed}_truth_high"] < 0


def test_the_direction_travels_from_the_social_sciences_the_least_far(glued):
    v, limits = values_of(glued, "direction")
    for name in ("STEM", "humanities", "other"):
        assert lies_below(limits[f"travel_{name}_ece"], limits["travel_social_sciences_ece"])
    assert v["travel_social_sciences_ece_high"] < 0


def test_the_gap_is_counted_by_bins_or_by_answers(glued):
    v, _ = values_of(glued, "beyond")
    names = ("base", "base, T = 2", "tuned", "tuned, tempered", "constant")
    told = {name: [v[f"told_{name}_{i}"] for i in range(3)] for name in names}
    for ece, by_bins, by_answers in told.values():
        assert by_bins == pytest.approx(by_answers, abs=1e-9)
        assert ece > abs(by_bins) - 1e-9
    for name in ("constant", "base, T = 2", "tuned"):  # "to three digits or nearly"
        assert told[name][0] - abs(told[name][1]) < 0.001
    shown = {name: abs(by_bins) / ece for name, (ece, by_bins, _) in told.items()}
    assert min(shown, key=shown.get) == "base"  # "of the base model it tells least"


def test_the_brier_score_picks_the_better_model_where_ece_tosses_a_coin(glued):
    v, _ = values_of(glued, "beyond")
    tempered = ("tuned, tempered", "base 7, tempered")
    for name in (*tempered, "constant"):
        assert v["truth"] < v[f"{name}_truth"]  # "of which it is better than each"
        assert v[f"picked_{name}_Brier_100"] > 0.8
        assert v[f"picked_{name}_Brier_1600"] == 1
    for name in tempered:
        assert abs(v[f"picked_{name}_ECE_100"] - 0.5) < 0.1
    assert v["picked_constant_ECE_100"] < 0.1
    assert v["picked_constant_ECE_1600"] < 0.4
    for key in ("ECE_100", "ECE_1600", "Brier_100", "Brier_1600"):
        assert abs(v[f"picked_twins_{key}"] - 0.5) < 0.1


def test_the_fewer_confidences_the_worse_the_order(glued):
    v, _ = values_of(glued, "recalibration")
    fewest = ("HistogramBinning", "Isotonic", "Temperature")
    different, certain, auroc = ([v[f"counted_{key}_{i}"] for key in fewest] for i in range(3))
    assert different[0] == 5
    assert 24 < different[1] < 100  # "some dozens"
    assert different[2] > 0.95 * 4000  # "nearly all"
    assert certain[0] == certain[2] == 0 < certain[1]
    assert auroc == sorted(set(auroc))


def test_labels_of_doubtful_questions_alone_are_worse_than_drawn_ones(glued):
    v, _ = values_of(glued, "recalibration")
    more = {}
    for key in ("Temperature", "HistogramBinning"):
        assert abs(v[f"evenly_spread_{key}"] - v[f"at_random_{key}"]) < 0.01
        more[key] = v[f"least_sure_{key}"] - v[f"at_random_{key}"]
    assert more["Temperature"] > 0.03
    assert more["HistogramBinning"] > 3 * more["Temperature"]


def test_label_smoothing_wants_what_the_formula_says(glued):
    v, _ = values_of(glued, "training")
    for e in (0.1, 0.3):
        assert v[f"smoothing_{e}_off"] < 1e-4
        assert v[f"smoothing_{e}_above"] < 0


def test_stopping_early_pays_while_samples_are_few(glued):
    v, limits = values_of(glued, "training")
    for name in MODELS:
        assert lies_below((0, 0), limits[f"stop_{name}_2_same"])
        assert v[f"stop_{name}_2_dealt"] > v[f"stop_{name}_2_same"]
        for other in ("same", "dealt"):
            assert v[f"stop_{name}_5_{other}_low"] < 0 < v[f"stop_{name}_5_{other}_high"]


def test_the_surest_wrong_answers_were_the_likeliest(glued):
    assert glued["own"]["own_surest_likely"] == 1


def test_a_hundred_questions_show_the_fault_of_layer_six_and_four_hundred_none_of_the_last(glued):
    v, _ = values_of(glued, "own")
    assert v["enough_6_100_above"] > 0.85  # "mostly enough"
    assert v["enough_6_200_above"] == v["enough_6_400_above"] == 1
    assert max(v[f"enough_8_{n}_above"] for n in (50, 100, 200, 400)) < 0.5
    for layer in (6, 8):
        assert v[f"enough_{layer}_400_floor"] < v[f"enough_{layer}_50_floor"] / 2
