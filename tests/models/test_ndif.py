"""Models on NDIF, against a stand-in on this machine: the same numbers, and errors that help."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import httpx
import huggingface_hub.constants
import nnsight.modeling.huggingface
import numpy as np
import pandas
import pandas as pd
import pytest
import torch
from nnsight.schema.config import CONFIG
from support.architectures import TOKENIZER, random_module
from transformers import AutoConfig

from calib import evolve, lens, load_questions, open_model, read_branches, read_layers, steer
from calib.mechanisms import TunedLens
from calib.models import RemoteError
from calib.models.logit_lens import finish
from calib.reading._prefix import can_share
from calib.reading._tree_attention import can_branch
from calib.steering import Direction

ARCHITECTURES = ["llama", "gpt2", "gemma2", "bloom"]
HALF = "llama-half"  # in bfloat16
UNCAPPED = "gemma2-uncapped"  # whose configuration on the hub does not tell of a cap
KEY = "good-key"


class Server:
    """The stand-in, a process of its own."""

    def __init__(self, folder):
        self.folder, self.port = folder, 0

    def start(self):
        here = Path(__file__).parent.parent / "support" / "ndif.py"
        command = [sys.executable, "-I", here, self.folder, str(self.port)]
        offline = os.environ | {"HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, cwd="/", env=offline, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())
        self.host = f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.process.kill()
        self.process.communicate()

    def plan(self, *faults):
        """What befalls the next jobs: None, or one of the faults that the stand-in knows."""
        httpx.post(f"{self.host}/plan", json=faults).raise_for_status()

    def seen(self):
        return httpx.get(f"{self.host}/seen").raise_for_status().json()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the server holds."""
    folder = tmp_path_factory.mktemp("server")
    modules = {name: random_module(name) for name in ARCHITECTURES}
    modules[HALF] = random_module("llama").to(torch.bfloat16)
    modules[UNCAPPED] = modules["gemma2"]
    for name, module in modules.items():
        module.save_pretrained(folder / "tiny" / name)
        TOKENIZER.save_pretrained(folder / "tiny" / name)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    pytest.importorskip("tornado")
    server = Server(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def hub(folder, tmp_path_factory):
    """A cache of the hub, as downloads leave it, with configurations and tokenizers alone."""
    hub = tmp_path_factory.mktemp("hub")
    for name in [*ARCHITECTURES, HALF, UNCAPPED, "nowhere"]:
        cached = hub / f"models--tiny--{name}"
        files = cached / "snapshots" / ("0" * 40)
        known = folder / "tiny" / name if name != "nowhere" else folder / "tiny" / "llama"
        AutoConfig.from_pretrained(known).save_pretrained(files)
        TOKENIZER.save_pretrained(files)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0" * 40)
    about = hub / f"models--tiny--{UNCAPPED}" / "snapshots" / ("0" * 40) / "config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"final_logit_softcapping": None}))
    return hub


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, server, hub):
    monkeypatch.setenv("NDIF_HOST", server.host)
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for cached in hub.iterdir():
        # nnsight asks the hub how an id is spelled; this is where it keeps the answers.
        name = cached.name.removeprefix("models--").replace("--", "/")
        monkeypatch.setitem(nnsight.modeling.huggingface._ID_CACHE, name, name)


@pytest.fixture(scope="module")
def questions():
    return load_questions("almanac", subjects=["fair_music", "inn_cookery"], limit=30)


def open_both(name, folder):
    return open_model(f"tiny/{name}", remote=True), open_model(folder / "tiny" / name)


def same(a, b, atol):
    np.testing.assert_allclose(a.logits, b.logits, rtol=0, atol=atol)
    assert a.residuals.keys() == b.residuals.keys()
    for layer in a.residuals:
        np.testing.assert_allclose(a.residuals[layer], b.residuals[layer], rtol=0, atol=atol)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.subjects, b.subjects)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_remote_reading_is_the_local_one(name, folder, questions):
    remote, local = open_both(name, folder)
    assert remote.tuple_output == local.tuple_output == (name == "bloom")
    settings = {"batch_tokens": 500, "keep_residuals": [0, 2, 3]}
    there, here = (read_layers(model, questions, **settings) for model in (remote, local))
    same(there, here, atol=1e-6)
    assert here.logits[:, 1:].std(axis=0).min() > 1e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_exemplars_too_which_are_not_shared_there(name, folder, questions):
    remote, local = open_both(name, folder)
    assert can_share(local) and not can_share(remote)
    there, here = (read_layers(model, questions, shots=2) for model in (remote, local))
    same(there, here, atol=1e-5)


def test_a_lens_goes_along_to_the_server(folder, questions):
    remote, local = open_both("llama", folder)
    torch.manual_seed(0)
    lens = TunedLens(0.1 * torch.randn(4, 64, 64), torch.randn(4, 64), pd.DataFrame())
    there, here = (read_layers(model, questions, lens=lens) for model in (remote, local))
    same(there, here, atol=1e-5)
    assert there.provenance["lens"] == lens.describe()
    assert np.abs(here.logits - read_layers(local, questions).logits).max() > 0.1


@pytest.fixture(scope="module")
def branches():
    vectors = np.random.default_rng(0).normal(size=(4, 64)) / 8
    directions = [
        Direction(v, i, 4.0, f"at {i}") for v, i in zip(vectors, (3, 0, 1, 0), strict=True)
    ]
    return [(direction, s) for direction in directions for s in (-0.7, 0, 1)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_remote_branches_are_the_local_ones(name, server, folder, questions, branches):
    remote, local = open_both(name, folder)
    assert can_branch(remote, range(30)) is can_branch(local, range(30)) is (name != "bloom")
    here = read_branches(local, questions, branches)
    jobs = len(server.seen()["sent"])
    there = read_branches(remote, questions, branches)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)
    # All branches in a job, after two that ask whether they may be; or a job for each of them.
    assert len(server.seen()["sent"]) - jobs == (12 if name == "bloom" else 3)
    pushed = [i for i, (_, strength) in enumerate(branches) if strength]
    assert np.abs(here[pushed] - here[1]).max(axis=(1, 2)).min() > 1e-2


def test_with_exemplars_or_in_bfloat16_too(folder, questions, branches):
    for name, settings, atol in (("llama", {"shots": 2}, 1e-5), (HALF, {}, 1e-6)):
        remote = open_model(f"tiny/{name}", remote=True)
        local = open_model(folder / "tiny" / name, dtype="auto", device="cpu")
        there, here = (read_branches(m, questions, branches, **settings) for m in (remote, local))
        np.testing.assert_allclose(there, here, rtol=0, atol=atol)


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_steered_remote_reading_is_the_local_one(everywhere, folder, questions, branches):
    (direction, strength), settings = branches[6], {"everywhere": everywhere, "keep_residuals": [1]}
    there, here = (
        steer(model, questions, direction, strength, **settings)
        for model in open_both("llama", folder)
    )
    same(there, here, atol=1e-6)
    assert there.provenance["push"] == here.provenance["push"]
    assert there.provenance["push"]["everywhere"] is everywhere


def test_its_evolution_is_computed_as_ever(folder, questions):
    readings = [read_layers(model, questions) for model in open_both("llama", folder)]
    there, here = (evolve(r, min_count=1, n_resamples=20).table for r in readings)
    pandas.testing.assert_frame_equal(there, here, atol=1e-6)


def test_a_remote_model_has_no_weights_here(hub):
    model = open_model("tiny/llama", remote=True)
    assert {parameter.device.type for parameter in model.module.parameters()} == {"meta"}
    assert not list(hub.rglob("*.safetensors"))
    with pytest.raises(
        ValueError, match="weights of tiny/llama are on the server, and read_layers"
    ):
        lens(model, torch.zeros(1, 64))


def test_a_remote_reading_says_so(questions):
    provenance = read_layers(
        open_model("tiny/llama", remote=True), questions.select([0])
    ).provenance
    assert (provenance["model"], provenance["revision"]) == ("tiny/llama", "0" * 40)
    assert (provenance["remote"], provenance["weights"], provenance["dtype"]) == (
        True,
        "",
        "float32",
    )


def test_the_type_is_the_servers(folder, questions):
    remote = open_model(f"tiny/{HALF}", remote=True)
    local = open_model(folder / "tiny" / HALF, dtype="auto", device="cpu")
    assert remote.dtype == local.dtype == torch.bfloat16
    there, here = (read_layers(m, questions, keep_residuals=[1]) for m in (remote, local))
    same(there, here, atol=1e-6)


def test_the_lens_is_checked_where_the_weights_are(server):
    before = len(server.seen()["received"])
    with pytest.raises(ValueError, match=rf"tiny/{UNCAPPED}\): the lens .* after lm_head"):
        open_model(f"tiny/{UNCAPPED}", remote=True)
    received = server.seen()["received"][before:]
    assert received and max(received) < 30_000


def test_little_goes_and_little_comes(server, questions):
    """What grows with the questions: their tokens one way, option logits the other."""
    model = open_model("tiny/llama", remote=True)
    traffic = []
    for some in (questions.select(range(5)), questions):
        read_layers(model, some)
        traffic.append([server.seen()[way][-1] for way in ("sent", "received")])
    (sent, received), (sent_more, received_more) = traffic
    assert received < 4000
    assert (received_more - received) / 25 <= 4 * 4 * 4 + 1  # layers, options, bytes a float32
    assert sent < 20_000
    assert (sent_more - sent) / 25 < 200


def test_a_large_result_is_fetched_where_it_lies(server, folder, questions):
    remote, local = open_both("llama", folder)
    server.plan("elsewhere")
    same(read_layers(remote, questions), read_layers(local, questions), atol=1e-6)


# What can go wrong


def test_what_calib_defines_is_not_on_the_server():
    """Else these tests could not tell whether a block would run on NDIF."""
    model = open_model("tiny/llama", remote=True)
    head = model.part("unembedding")
    with pytest.raises(RemoteError, match=r"job failed on http://127.* No module named 'calib"):
        with model.trace(input_ids=torch.tensor([[1]])):
            logits = finish(head.output, None, 2.0).save()  # noqa: F841


def test_an_error_in_the_block_shows_its_last_line():
    model = open_model("tiny/llama", remote=True)
    with pytest.raises(RemoteError, match=r"failed on .*: ZeroDivisionError: division by zero$"):
        with model.trace(input_ids=torch.tensor([[1]])):
            ratio = 1 / 0
            ratio = torch.tensor(ratio).save()


def test_a_missing_key_is_found_before_anything_is_sent(server, monkeypatch):
    monkeypatch.delenv("NDIF_API_KEY")
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    before = server.seen()
    with pytest.raises(PermissionError, match=r"login.ndif.us, .* variable NDIF_API_KEY or call"):
        open_model("tiny/llama", remote=True)
    assert server.seen() == before
    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
    assert open_model("tiny/llama", remote=True).remote


def test_a_refused_key_is_not_shown(monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", "stale-key")
    with pytest.raises(PermissionError, match=r"refuses the key \(Missing or invalid") as refused:
        open_model("tiny/llama", remote=True)
    assert "stale-key" not in str(refused.value)


def test_a_model_that_is_not_served():
    with pytest.raises(
        RemoteError, match=r"tiny/nowhere is currently unavailable .* nnsight.status\(\) lists"
    ):
        open_model("tiny/nowhere", remote=True)


def test_a_server_that_refuses_to_connect(monkeypatch):
    monkeypatch.setenv("NDIF_HOST", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"127.0.0.1:9 cannot be reached .* NDIF_HOST if"):
        open_model("tiny/llama", remote=True)


def test_a_server_that_has_no_address(monkeypatch):
    def lookup(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(ConnectionError, match=r"cannot be reached .* \(.*Name or service"):
        open_model("tiny/llama", remote=True)


def test_a_server_that_is_none(server, monkeypatch):
    monkeypatch.setenv("NDIF_HOST", f"{server.host}/seen")
    with pytest.raises(RemoteError, match="refuses the job with HTTP status 404"):
        open_model("tiny/llama", remote=True)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("busy", r"HTTP status 503 \(come back tomorrow\); call again"),
        ("nonsense", r"does not understand: 'come back tomorrow'; check NDIF_HOST .* call again"),
    ],
)
def test_a_server_that_does_not_take_the_job(fault, message, server):
    server.plan(fault)
    with pytest.raises(RemoteError, match=message):
        open_model("tiny/llama", remote=True)


UNREADABLE = r"[\d,]+ bytes that cannot be read"


@pytest.mark.parametrize(
    ("fault", "came"),
    [
        ("cut off", UNREADABLE),
        ("cut off elsewhere", UNREADABLE),
        ("nothing", "nothing"),
        ("nothing elsewhere", "nothing"),
        ("page", "a web page"),
        ("page elsewhere", "a web page"),
        ("not compressed", UNREADABLE),
        ("no archive", UNREADABLE),
        ("list", "a list where values by name were due"),
        ("numbers for names", "a dict where values by name were due"),
        ("no values", "a result without any value"),
        ("other names", "a result without 'kept', which the block saves"),
        ("no JSON", "'soon'"),
        ("no object", re.escape("'[1]'")),
        ("no status", '\'{"id": "1"}\''),
        ("unknown status", ".*PONDERING.*"),
        ("no archive for a message", "4 bytes that cannot be read"),
        ("no data", "nothing"),
        ("empty address", "nothing"),
        ("number for data", "7"),
        ("the key", r"'you sent \(the key\)'"),
        ("no session id", "'{\"hello\": 1}'"),
        ("number for a session", "'{\"session_id\": 1}'"),
        ("list for a session", re.escape("'[]'")),
        ("no JSON for a session", "a web page"),
    ],
)
def test_what_comes_back_is_checked(fault, came, server, questions, tmp_path):
    model = open_model("tiny/llama", remote=True)
    settings = {"batch_tokens": 150, "resume": tmp_path / "run"}
    words = (
        rf"^http://127\S+ answers what nnsight [\d.]+ does not understand: {came}; check .* call"
    )
    first = [] if "session" in fault else [None, None]  # two batches are finished before
    server.plan(*first, fault)
    with pytest.raises(RemoteError, match=words) as failed:
        read_layers(model, questions, **settings)
    assert KEY not in "".join(traceback.format_exception(failed.value))
    assert "\n" not in str(failed.value)
    server.plan()
    assert len(read_layers(model, questions, **settings)) == 30  # it goes on where it was


@pytest.mark.parametrize("fault", ["an error with the key", "refusal with the key"])
def test_a_key_that_comes_back_is_not_shown(fault, server):
    model = open_model("tiny/llama", remote=True)
    server.plan(fault)
    head = model.part("unembedding")
    with pytest.raises(RemoteError, match=r"\(the key\)") as failed:
        with model.trace(input_ids=torch.tensor([[1]])):
            logits = head.output.save()  # noqa: F841
    assert KEY not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize("key", ["se cret", "secret\nX: 1", "sécret"])
def test_a_key_that_cannot_be_one_is_not_sent(key, server, monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", key)
    before = server.seen()
    with pytest.raises(PermissionError, match="holds a blank, a line break or a letter") as refused:
        open_model("tiny/llama", remote=True)
    assert "cret" not in str(refused.value)
    assert server.seen() == before
    monkeypatch.setenv("NDIF_API_KEY", f" {KEY}\n")  # as it is pasted
    assert open_model("tiny/llama", remote=True).remote


@pytest.mark.parametrize(
    ("fault", "heard"),
    [
        ("hang", "RUNNING: Your job has started running."),
        ("no answer", "nothing yet"),
        ("no session", "nothing yet"),
        ("out of reach", "RUNNING: Your job has started running."),
    ],
)
def test_a_job_that_never_ends_is_given_up(fault, heard, server, questions):
    model = open_model("tiny/llama", remote=True, time_limit=60)
    server.plan(fault)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"within 1.5 seconds \(last heard: {heard}\)"):
        read_layers(replace(model, time_limit=1.5), questions)
    assert time.monotonic() - start < 15
    server.plan()
    assert len(read_layers(model, questions)) == 30  # the next one is not affected


def test_a_lost_connection_keeps_what_is_finished(server, folder, questions, tmp_path):
    remote, local = open_both("llama", folder)
    settings = {"batch_tokens": 150, "keep_residuals": [1]}
    server.plan(None, None, "hang up")
    with pytest.raises(ConnectionError, match=r"connection was lost .* resume=, a reading goes on"):
        read_layers(remote, questions, resume=tmp_path / "run", **settings)
    assert len(list((tmp_path / "run").glob("*.safetensors"))) == 2
    jobs = len(server.seen()["sent"])
    there = read_layers(remote, questions, resume=tmp_path / "run", **settings)
    same(there, read_layers(local, questions, **settings), atol=1e-6)
    batches = len(list((tmp_path / "run").glob("*.safetensors")))
    assert len(server.seen()["sent"]) - jobs == batches - 2


def test_a_server_killed_in_the_middle(server, questions, tmp_path):
    model = open_model("tiny/llama", remote=True)
    settings = {"batch_tokens": 150, "keep_residuals": [1]}
    whole = read_layers(model, questions, **settings)
    run = tmp_path / "run"
    server.plan(None, None, None, "die")
    with pytest.raises(ConnectionError, match="connection was lost"):
        read_layers(model, questions, resume=run, **settings)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        read_layers(model, questions, resume=run, **settings)
    finished = {file.name: file.stat().st_mtime_ns for file in run.glob("*.safetensors")}
    assert len(finished) == 3
    server.stop()
    server.start()
    same(read_layers(model, questions, resume=run, **settings), whole, atol=0)
    again = {file.name: file.stat().st_mtime_ns for file in run.glob("*.safetensors")}
    assert finished.items() < again.items()  # nothing finished was read again


@pytest.mark.parametrize("source", ["almanac", "folder", "pair"])
def test_only_models_of_the_hub_are_remote(source, folder):
    module = random_module("llama")
    given = {"folder": folder / "tiny" / "llama", "pair": (module, TOKENIZER)}.get(source, source)
    named = {"folder": "tiny/llama'", "pair": "a loaded module", "almanac": "'almanac'"}[source]
    with pytest.raises(ValueError, match=rf"needs the hub id .*{named} is on this machine"):
        open_model(given, remote=True)
    if source == "folder":
        with pytest.raises(ValueError, match=rf"needs the hub id .*{named} is on this machine"):
            open_model(str(given), remote=True)


@pytest.mark.parametrize("given", [{"device": "cpu"}, {"dtype": torch.float16}])
def test_device_and_type_are_the_servers_to_choose(given):
    with pytest.raises(ValueError, match="both are the server's, so leave them out"):
        open_model("tiny/llama", remote=True, **given)
