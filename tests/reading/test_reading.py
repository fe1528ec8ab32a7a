"""What a reading holds is checked when it is made, and what is wrong with its files named."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from calib import Reading

LOGITS = np.array([[[1.0, 0.0, -np.inf]], [[1.0, 0.0, 2.0]]], dtype=np.float32)
GOOD = {
    "logits": LOGITS,
    "labels": np.array([1, 2]),
    "subjects": np.array(["law", "art"]),
    "posterior": np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]),
    "residuals": {0: np.ones((2, 4), np.float32)},
    "provenance": {"model": "hand"},
    "n_options": np.array([2, 3]),
}


def changed(array, at, value):
    array = np.array(array)
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logits": LOGITS[0]}, r"logits are float32 of shape \(1, 3\); they must be floats"),
        ({"logits": LOGITS.astype(str)}, "logits are <U"),
        ({"logits": changed(LOGITS, (1, 0, 0), np.nan)}, r"logits\[1, 0, 0\] is nan"),
        ({"logits": changed(LOGITS, (1, 0, 2), -np.inf)}, r"logits\[1, 0, 2\] is -inf"),
        ({"logits": changed(LOGITS, (0, 0, 2), 1.0)}, "of options that their question does not"),
        ({"n_options": None}, r"logits\[0, 0, 2\] is -inf"),
        ({"n_options": np.array([1, 3])}, r"n_options\[0\] is 1; it must be from 2 to 3"),
        ({"n_options": np.array([2, 4])}, r"n_options\[1\] is 4; it must be from 2 to 3"),
        ({"n_options": np.array([2.0, 3.0])}, "n_options: float64 .* must be integers"),
        ({"labels": np.array([2, 2])}, r"labels\[0\] is 2; it must be from -1 to 1"),
        ({"labels": np.array([1, -2])}, r"labels\[1\] is -2"),
        ({"labels": np.array([1])}, r"labels: int64 of shape \(1,\); must be integers of shape"),
        ({"subjects": np.array(["law"])}, r"subjects: <U3 of shape \(1,\)"),
        ({"posterior": np.ones((2, 2)) / 2}, r"posterior: float64 of shape \(2, 2\)"),
        ({"posterior": np.ones((2, 3)) / 3}, "posterior say something of options"),
        ({"residuals": {3: np.ones((2, 4))}}, "residuals of layer 3; layers run from 0 to 0"),
        ({"residuals": {0: np.ones((3, 4))}}, r"residuals\[0\]: float64 of shape \(3, 4\)"),
        ({"residuals": {0: np.full((2, 4), np.inf)}}, r"residuals\[0\]\[0, 0\] is inf"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Reading(**{**GOOD, **fields})


def test_questions_without_content_have_no_label():
    assert Reading(**{**GOOD, "labels": np.array([-1, -1])}).labels.tolist() == [-1, -1]


@pytest.fixture
def folder(tmp_path):
    Reading(**GOOD).save(tmp_path)
    return tmp_path


def edit(folder, **changes):
    about = folder / "reading.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), **changes}))


@pytest.mark.parametrize("text", ["[]", '"3"', "7", "null", '{"format": 3}', "", "{", "[" * 10**5])
def test_a_header_that_is_none_is_named(text, folder):
    (folder / "reading.json").write_text(text)
    with pytest.raises(ValueError, match=r"reading\.json"):
        Reading.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "3"}, {"format": True}, {"format": None}, {"format": [3]}, {"sha256": 7},
        {"subjects": "law"}, {"subjects": ["law", "law"]}, {"provenance": []},
        {"provenance": {"model": "another"}}, {"digest": None}, {"more": 1},
    ],
)  # fmt: skip
def test_whatever_is_changed_in_a_header_is_found(changes, folder):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=r"reading\.json (has format|is)"):
        Reading.load(folder)


def test_a_file_of_arrays_that_is_none_is_named(folder):
    content = b"\x08\0\0\0\0\0\0\0notjson!"
    (folder / "reading.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"reading\.safetensors is truncated or altered"):
        Reading.load(folder)


def test_an_array_that_is_missing_is_named(folder, tmp_path_factory):
    from calib.reading._files import save_arrays

    other = tmp_path_factory.mktemp("other")
    save_arrays(other, {"labels": GOOD["labels"]}, {"subjects": [], "provenance": {}})
    with pytest.raises(ValueError, match="holds no reading: 'logits' is missing"):
        Reading.load(other)


def test_what_json_cannot_hold_is_refused_before_the_former_reading_is_touched(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(TypeError, match="not JSON serializable"):
        Reading(**{**GOOD, "provenance": {"model": object()}}).save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("version", [1, 2])
def test_a_reading_of_an_older_format_is_read_with_a_warning(version, tmp_path):
    """Its questions all have as many options, and its checksum covers the arrays alone."""
    import hashlib

    logits = np.zeros((2, 1, 3), np.float32)
    save_file({"logits": logits, "labels": GOOD["labels"]}, tmp_path / "reading.safetensors")
    sum_of = hashlib.sha256((tmp_path / "reading.safetensors").read_bytes()).hexdigest()
    name = {1: "origin", 2: "provenance"}[version]
    about = {"format": version, "sha256": sum_of, "subjects": ["law", "art"], name: {"model": "x"}}
    (tmp_path / "reading.json").write_text(json.dumps(about))
    with pytest.warns(UserWarning, match=rf"has format {version}, .* save the reading again"):
        reading = Reading.load(tmp_path)
    assert reading.provenance == {"model": "x"}
    assert reading.n_options.tolist() == [3, 3]
    reading.save(tmp_path)
    assert Reading.load(tmp_path).provenance == {"model": "x"}
