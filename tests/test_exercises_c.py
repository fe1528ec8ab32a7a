"""What the solutions of the last four chapters' exercises say in words."""

import pytest
from conftest import lies_below, values_of

MODELS = ("base", "tuned")


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
