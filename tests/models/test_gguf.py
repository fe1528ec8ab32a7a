"""Files of GGUF: they open as the model they were written from, or are refused by their header."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from support.architectures import TOKENIZER, random_module
from support.gguf_files import needed, write_gguf
from support.second_device import ELSEWHERE
from support.served import snapshot
from torch.testing import assert_close

from calib import load_questions, open_model, read_layers
from calib.models import _gguf, _gguf_load, _memory
from calib.models._gguf_header import read_header

PROMPT = "Which stone is the bridge of Ashford built of?\nAnswer:"
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 32.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def good(tmp_path_factory):
    """A small Llama in eight bits."""
    needed()
    file = tmp_path_factory.mktemp("gguf") / "good.gguf"
    write_gguf(file, kind="Q8_0")
    return file


def logits(module):
    ids = TOKENIZER(PROMPT, return_tensors="pt")["input_ids"].to(module.device)
    with torch.no_grad():
        return module(input_ids=ids).logits.float().cpu()


# What opens


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "F32"), ("llama", "Q8_0"), ("qwen2", "Q4_0"), ("gemma3", "F16")],
)
def test_a_file_opens_as_the_model_it_was_written_from(name, kind, tmp_path):
    module = write_gguf(tmp_path / "tiny.gguf", random_module(name), kind)
    model = open_model(tmp_path / "tiny.gguf")
    assert model.architecture == type(module).__name__
    assert logits(module).std() > 0.1
    assert_close(logits(model.module), logits(module), rtol=1e-5, atol=1e-5)
    assert all(weight.is_floating_point() for weight in model.module.parameters())
    assert model.tokenizer(PROMPT)["input_ids"] == TOKENIZER(PROMPT)["input_ids"]
    assert (model.name, model.file.name, model.file.quantization) == ("tiny.gguf",) * 2 + (kind,)


def test_a_file_is_named_in_a_folder_and_none_beside_the_caller_is_taken_for_it(
    good, tmp_path, monkeypatch
):
    expected = logits(open_model(good).module)
    write_gguf(tmp_path / "good.gguf", random_module("qwen2"))
    monkeypatch.chdir(tmp_path)
    model = open_model(good.parent, gguf_file="good.gguf")
    assert (model.architecture, model.name) == ("LlamaForCausalLM", "good.gguf")
    assert torch.equal(logits(model.module), expected)
    assert open_model("good.gguf").architecture == "Qwen2ForCausalLM"


def test_a_reading_tells_the_file_its_digest_and_its_quantization(good, tmp_path):
    write_gguf(tmp_path / "told.gguf", facts={"general.file_type": 15})
    questions = load_questions("almanac", limit=4)
    told = read_layers(open_model(good), questions).provenance
    assert told["model"] == "good.gguf"
    digest = hashlib.sha256(good.read_bytes()).hexdigest()
    assert told["file"] == {"name": "good.gguf", "sha256": digest, "quantization": "Q8_0"}
    assert open_model(tmp_path / "told.gguf").file.quantization == "Q4_K_M"
    assert "file" not in read_layers(open_model("almanac"), questions).provenance


@pytest.mark.parametrize(
    ("kind", "own"),
    [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16),
     ("Q8_0", torch.bfloat16)],
)  # fmt: skip
def test_the_type_follows_the_one_rule(kind, own, tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(file, kind=kind)
    for device, dtype, expected in (
        ("cpu", None, torch.float32), ("cpu", "auto", own), (ELSEWHERE, None, own),
        ("cpu", "bfloat16", torch.bfloat16),
    ):  # fmt: skip
        model = open_model(file, device=device, dtype=dtype)
        assert {weight.dtype for weight in model.module.parameters()} == {expected}
        assert model.device.type == device


def test_a_file_is_placed_on_all_devices_as_other_models_are(good):
    auto = open_model(good, device="auto", dtype=torch.float32)
    alone = open_model(good, device="cpu")
    for placed, plain in zip(auto.module.parameters(), alone.module.parameters(), strict=True):
        assert torch.equal(placed.cpu(), plain)


def test_a_converted_copy_can_be_saved_and_opens_as_the_file_does(good, tmp_path):
    model = open_model(good)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    copy = open_model(tmp_path)
    assert torch.equal(logits(copy.module), logits(model.module))
    assert copy.tokenizer(PROMPT)["input_ids"] == model.tokenizer(PROMPT)["input_ids"]


@pytest.mark.parametrize(
    ("facts", "begins"),
    [
        ({"tokenizer.ggml.add_bos_token": True}, True),
        ({"tokenizer.ggml.add_bos_token": False}, False),
        ({"tokenizer.ggml.add_bos_token": None}, False),
        ({"tokenizer.ggml.add_bos_token": None, "tokenizer.ggml.pre": "llama-bpe"}, True),
    ],
)
def test_prompts_begin_with_a_token_where_the_file_says_so(facts, begins, tmp_path):
    write_gguf(tmp_path / "model.gguf", facts=facts)
    ids = open_model(tmp_path / "model.gguf").tokenizer(PROMPT)["input_ids"]
    assert ids[0] == 0 if begins else ids[0] != 0
    assert ids.count(0) == begins


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_positions_are_scaled_as_the_file_says(name, tmp_path):
    plain = random_module(name).config.rope_parameters
    if name == "llama":
        scaled = plain | {"rope_type": "linear", "factor": 4.0}
    else:
        whole = plain["full_attention"] | {"rope_type": "linear", "factor": 4.0}
        scaled = plain | {"full_attention": whole}
    changes = {"rope_parameters": scaled}
    if name == "gemma3":
        changes["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
        changes["sliding_window_pattern"] = 2
    module = random_module(name, **changes)
    facts = {f"{name}.rope.scaling.type": "linear", f"{name}.rope.scaling.factor": 4.0}
    file = tmp_path / "model.gguf"
    write_gguf(file, module, facts=facts)
    found = open_model(file).module
    if name == "llama":
        assert_close(logits(found), logits(module), rtol=1e-5, atol=1e-5)
        assert (logits(random_module(name)) - logits(module)).abs().max() > 1e-3
    else:  # which of its layers see all, no file says
        assert found.config.rope_parameters == scaled


def divisors(**changes):
    """By what Llama 3's scaling divides the frequencies, according to transformers."""
    scaled = random_module("llama", rope_parameters=LLAMA3 | changes).model.rotary_emb.inv_freq
    return random_module("llama").model.rotary_emb.inv_freq / scaled


def test_llama_3s_positions_are_read_from_their_divisors(tmp_path):
    module, file = random_module("llama", rope_parameters=LLAMA3), tmp_path / "model.gguf"
    write_gguf(file, module, tensors={"rope_freqs.weight": divisors()})
    model = open_model(file)
    assert model.module.config.rope_parameters == LLAMA3
    assert_close(logits(model.module), logits(module), rtol=1e-5, atol=1e-5)
    assert divisors().max() == 32


@pytest.mark.parametrize(
    "told",
    [
        {"facts": {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}},
        {"facts": {"llama.rope.scaling.type": "linear"}},
        {"tensors": {"rope_factors_long.weight": np.ones(8)}},
        {"tensors": {"rope_freqs.weight": np.linspace(1, 8, 8)}},
    ],
)
def test_other_scaled_positions_are_refused(told, tmp_path):
    write_gguf(tmp_path / "model.gguf", **told)
    with pytest.raises(ValueError, match=r"model.gguf scales its rotary positions \(.*leaves out"):
        open_model(tmp_path / "model.gguf")


# What does not

BROKEN = {
    "text": ({}, b"version https://git-lfs", r"is no GGUF file: it begins with b'vers'"),
    "empty": ({}, b"", r"is no GGUF file: it begins with b''"),
    "magic alone": ({}, b"GGUF", "is cut off after 4 bytes"),
    "version 1": ({"version": (1, 0, 0, 0)}, None, "is of version 1 of GGUF, and versions 2 and 3"),
    "big-endian": ({"version": (0, 0, 0, 3)}, None, r"the other byte order \(big-endian\)"),
    "vocabulary": ({"weights": False}, None, "holds a vocabulary and no weights"),
    "unknown": (
        {"facts": {"general.architecture": "zork"}}, None,
        r"of the architecture 'zork', and transformers .* of .*gemma3, .*llama, .*qwen2",
    ),
    "encoder": (
        {"facts": {"general.architecture": "nomic-bert"}}, None, r"\(nomic-bert\) is a model that",
    ),
    "pooling": ({"facts": {"llama.pooling_type": 3}}, None, r"\(llama\) is a model that embeds"),
    "acausal": ({"facts": {"llama.attention.causal": False}}, None, "is a model that embeds texts"),
    "projector": ({"facts": {"general.architecture": "clip"}}, None, "that sees or hears"),
    "mmproj": ({"facts": {"general.type": "mmproj"}}, None, "that sees or hears"),
    "adapter": ({"facts": {"general.type": "adapter"}}, None, "is an adapter, to be merged"),
    "split": ({"facts": {"split.count": 3}}, None, "is one of 3 parts of a model.*--merge"),
}  # fmt: skip


@pytest.fixture
def unloaded(monkeypatch):
    """Loading fails the test: what is refused is refused before."""

    def stop(*_, **__):
        pytest.fail("weights were loaded before the file was judged")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", stop)


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_opened_is_refused_by_its_header(case, tmp_path, unloaded):
    told, content, words = BROKEN[case]
    file = tmp_path / "broken.gguf"
    write_gguf(file, **told) if content is None else file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken\.gguf .*{words}"):
        open_model(file)


def test_one_part_of_several_is_refused(good, tmp_path, unloaded):
    part = shutil.copy(good, tmp_path / "model-00001-of-00003.gguf")
    with pytest.raises(ValueError, match=r"00003\.gguf is one of 3 parts of a model"):
        open_model(part)


def test_a_file_that_was_cut_off_is_refused_wherever_it_ends(good, tmp_path, unloaded):
    content, begin = good.read_bytes(), read_header(good).begin
    assert 20_000 < begin < len(content) - 20_000
    part = tmp_path / "part.gguf"
    for size in [*range(0, begin, 997), begin - 40, begin, begin + 9, len(content) - 64]:
        part.write_bytes(content[:size])
        words = "is no GGUF|is cut off|is damaged or not whole: its header cannot be read"
        with pytest.raises(ValueError, match=rf"part\.gguf ({words})"):
            open_model(part)


def test_a_header_full_of_nonsense_is_refused(good, tmp_path, unloaded):
    content = good.read_bytes()
    broken = tmp_path / "broken.gguf"
    for place in (8, 16, 24, 31, 60, read_header(good).begin - 50):
        broken.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
        with pytest.raises(ValueError, match=r"broken\.gguf (is|holds)"):
            open_model(broken)


@pytest.mark.parametrize(("kind", "words"), [(99, "number 99"), (15, "Q8_K"), (27, "I64")])
def test_a_type_that_cannot_be_unpacked_is_named(kind, words, good, tmp_path, unloaded):
    name, content = b"blk.1.ffn_down.weight", bytearray(good.read_bytes())
    place = content.index(name) + len(name) + 4 + 2 * 8  # after two dimensions
    assert content[place] == 8  # Q8_0
    content[place] = kind
    (tmp_path / "odd.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=rf"of the type {words}, first blk\.1\.ffn_down\.weight"):
        open_model(tmp_path / "odd.gguf")


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_a_package_that_is_not_installed_is_named(missing, good, monkeypatch, unloaded):
    monkeypatch.setattr(_gguf, "find_spec", lambda name: None if name == missing else True)
    with pytest.raises(ImportError, match=rf"layers\[gguf\]', or pip install {missing}$"):
        open_model(good)


def test_an_older_transformers_is_refused(good, monkeypatch, unloaded):
    monkeypatch.setattr(_gguf, "VERSION", "5.16.1")
    with pytest.raises(
        ImportError, match=r"transformers 5\.17 or newer, and 5\.16\.1 is installed"
    ):
        open_model(good)


def test_weights_that_stay_packed_are_refused(good, monkeypatch):
    packed = random_module("llama")
    packed.lm_head.weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.uint8), False)
    found = packed, {"missing_keys": set()}
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: found
    )
    with pytest.raises(ValueError, match=r"left 1 weights of good.gguf packed .*lm_head.weight"):
        open_model(good)


def test_a_file_that_lacks_a_weight_is_refused(tmp_path):
    module = random_module("llama")
    del module.model.layers[1].mlp.up_proj.weight
    write_gguf(tmp_path / "model.gguf", module)
    with pytest.raises(
        ValueError, match=r"model.gguf lacks 1 weights, first model.layers.1.mlp.up"
    ):
        open_model(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("source", "settings", "error", "words"),
    [
        ("gone.gguf", {}, ValueError, r"no file 'gone\.gguf' here.*gguf_file="),
        ("folder", {}, ValueError, r"has no config\.json and holds a\.gguf, b\.gguf.*='a\.gguf'"),
        ("folder", {"gguf_file": "c.gguf"}, ValueError, r"no file 'c\.gguf'; it holds a\.gguf, b"),
        ("folder/a.gguf", {"gguf_file": "a.gguf"}, ValueError, "is a file itself, so leave out"),
        ("folder", {"gguf_file": 3}, TypeError, "gguf_file is a int"),
        ("almanac", {"gguf_file": "a.gguf"}, ValueError, "it holds no such files"),
        ("folder/a.gguf", {"remote": True}, ValueError, "is on this machine; open it without"),
        ("a/b", {"remote": True, "gguf_file": "x.gguf"}, ValueError, "the server has weights of"),
        ("folder/a.gguf", {"tensor_parallel": True}, ValueError, "unpacked whole by every process"),
        ("folder/a.gguf", {"device": "gpu"}, ValueError, "device is 'gpu'; this machine has"),
        ("folder/a.gguf", {"dtype": "int8"}, ValueError, "dtype is 'int8'; it must be one of"),
    ],
)
def test_where_no_file_is_meant_or_another_way_it_is_said(
    source, settings, error, words, good, tmp_path, monkeypatch, unloaded
):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(good, Path("folder", name))
    with pytest.raises(error, match=words):
        open_model(source, **settings)


def test_a_pair_has_no_file():
    with pytest.raises(ValueError, match="the source is a loaded pair, whose weights are loaded"):
        open_model((random_module("llama"), TOKENIZER), gguf_file="a.gguf")


# The header, and memory


def test_the_header_says_what_the_package_gguf_reads(good):
    import gguf

    header, theirs = read_header(good), gguf.GGUFReader(good)
    assert header.begin == theirs.data_offset
    found = [(t.name, t.shape, t.kind, t.offset + header.begin) for t in header.tensors]
    assert found == [
        (t.name, tuple(t.shape.tolist()), int(t.tensor_type), t.data_offset) for t in theirs.tensors
    ]
    assert len(found) == 3 * 9 + 3
    for key, value in header.facts.items():
        told = theirs.fields[key].contents()
        assert value == (len(told) if isinstance(told, list) else told)
    assert header.facts["tokenizer.ggml.merges"] == 778


def test_what_does_not_fit_into_memory_is_refused_with_both_sizes(good, monkeypatch, unloaded):
    monkeypatch.setattr(_gguf_load, "available_memory", lambda: 2**20)
    words = r"good.gguf does not fit .*weights in torch.float32 takes .* GiB, and 0.0 GiB are free"
    with pytest.raises(torch.OutOfMemoryError, match=words + "; use dtype=torch.bfloat16"):
        open_model(good)
    with pytest.raises(torch.OutOfMemoryError, match="free; close other programs"):
        open_model(good, dtype="bfloat16")


def test_the_memory_needed_is_that_of_the_order_in_the_file(good):
    header = read_header(good)._replace(facts={"tokenizer.ggml.tokens": 100})
    small, large = (
        header.tensors[0]._replace(shape=(10,)),
        header.tensors[0]._replace(shape=(1000,)),
    )
    first = header._replace(tensors=[large, small, small])
    last = header._replace(tensors=[small, small, large])
    assert _gguf_load.needed_memory(first, torch.float32) == 12_000 + 170_000
    assert _gguf_load.needed_memory(last, torch.float32) == 2 * 40 + 12_000 + 170_000
    assert _gguf_load.needed_memory(last, torch.bfloat16) == 2 * 20 + 12_000 + 170_000


def test_the_least_of_machine_container_and_limit_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(_memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(_memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(_memory, "_of_limit", lambda: None)
    own = tmp_path / "cgroup" / "jobs" / "one"
    for folder in (tmp_path / "proc" / "self", own):
        folder.mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable:   3000 kB\nSwapFree:   1000 kB\n")
    assert _memory.available_memory() == 4000 * 1024
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/jobs/one\n")
    (own / "memory.max").write_text("max\n")
    (own / "memory.current").write_text("2500000\n")
    (own / "memory.stat").write_text("anon 9\ninactive_file 500000\n")
    assert _memory.available_memory() == 4000 * 1024
    (own / "memory.max").write_text("3000000\n")
    assert _memory.available_memory() == 1_000_000


def test_a_limit_of_the_shell_counts(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**45, 2**45))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    assert _memory._of_limit() == pytest.approx(2**45 - 4096 * pages, abs=2**30)


HUB = """
import sys, calib
model = calib.open_model("tiny/model-GGUF", gguf_file="four/good.gguf")
print(model.name, model.revision, model.file.quantization, model.architecture)
try:
    calib.open_model("tiny/model-GGUF", gguf_file="gone.gguf")
except OSError as error:
    print("the file 'gone.gguf' of tiny/model-GGUF cannot be had: " in str(error))
"""


def test_a_file_of_a_repository_on_the_hub_opens_with_its_commit(good, tmp_path):
    files = snapshot(tmp_path / "hub", "model-GGUF") / "four"
    files.mkdir(parents=True)
    shutil.copy(good, files)
    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=os.environ | offline, capture_output=True, text=True
    )
    told = done.stdout.splitlines()[-2:]
    assert told == [f"good.gguf {'0' * 40} Q8_0 LlamaForCausalLM", "True"], done.stderr
