"""What the solutions of the first three chapters say in words holds for the numbers they show."""

from conftest import lies_below, values_of


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


def test_answers_change_for_the_better_where_reliability_is_low(glued):
    v, limits = values_of(glued, "layers")
    assert lies_below(limits["changed_reliability"], limits["kept_reliability"])
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
