"""``calib report --chat``: a page of a model asked in its chat template, and what is refused."""

import json

import pytest
from support.architectures import TOKENIZER, random_module
from support.chats import chatting

from calib import Reading, load_questions, open_model, read_layers
from calib.__main__ import main
from calib.questions.chat import template_digest

BeautifulSoup = pytest.importorskip("bs4").BeautifulSoup


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with a template and one without, and questions."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = chatting("chatml")
    for name, own in (("tuned", tokenizer), ("base", TOKENIZER)):
        for part in (random_module("gpt2", vocab_size=len(own)), own):
            part.save_pretrained(folder / name)
    rows = [json.dumps(row) for row in load_questions("almanac", limit=100)]
    (folder / "test.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_the_command_asks_in_the_template(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source, asked = str(folder / "tuned"), str(folder / "test.jsonl")
    main(["report", source, "--questions", asked, "--chat", "--out", "out"])
    reading = Reading.load(tmp_path / "out/reading")
    own = read_layers(open_model(source), load_questions(asked), chat=True)
    assert reading.provenance == own.provenance
    assert abs(reading.logits - own.logits).max() < 1e-5
    page = BeautifulSoup((tmp_path / "out/index.html").read_text(encoding="utf-8"), "html.parser")
    label = page.find("dt", string="chat template")
    assert label.find_next("dd").get_text() == f"used, {template_digest(chatting('chatml'))}"
    text = " ".join(page.get_text().split())
    assert "asked in the model's chat template, each as a user's turn." in text
    assert "asked without it" not in text


def test_a_model_without_a_template_is_told_in_one_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["report", str(folder / "base"), "--questions", str(folder / "test.jsonl"), "--chat"])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no chat template; leave out chat=True" in line
