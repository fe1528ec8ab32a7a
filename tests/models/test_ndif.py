"""Models on NDIF: the same numbers as here, next to the weights and in a sandbox; errors that help.

Against a stand-in on this machine, or (`make ndif`) the server that NDIF_SERVER names.
"""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from functools import partial
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
from nnsight.schema.request import RequestModel
from support.architectures import TOKENIZER, random_module
from support.chats import TEMPLATES
from support.served import (
    ARCHITECTURES,
    BARE,
    HALF,
    KEYS,
    SANDBOXED,
    TRUSTED,
    UNCAPPED,
    cache_configurations,
    save_models,
    unzipped,
)

from calib import (
    Reading,
    evolve,
    lens,
    load_questions,
    open_model,
    read_branches,
    read_layers,
    sample_answers,
    steer,
)
from calib.mechanisms import (
    TunedLens,
    ablate_neurons,
    describe_neurons,
    fit_tuned_lens,
    read_activations,
    read_attribution,
    readout_of,
    singular_values,
)
from calib.models import RemoteError, _waiting
from calib.models.logit_lens import finish
from calib.models.ndif import Job
from calib.reading._prefix import can_share
from calib.reading._tree_attention import can_branch
from calib.report._faults import InputFault
from calib.report.write import write_report
from calib.steering import Direction, gradient_direction, sweep

SERVER = os.environ.get("NDIF_SERVER")
PLACES = [TRUSTED, SANDBOXED] if SERVER else list(KEYS)
KEY = KEYS[TRUSTED]
WAYS = {KEYS[TRUSTED]: "trusted", KEYS[SANDBOXED]: "sandboxed", KEYS[BARE]: "bare"}


class StandIn:
    """A process of its own."""

    def __init__(self, folder, hub):
        self.folder, self.hub, self.port = folder, hub, 0
        self.places, self.lacks, self.package = [TRUSTED], "", ""
        try:
            if not hasattr(os, "fork") or sys.platform == "darwin":
                raise OSError("the sandbox's runners are forked, which is safe on Linux alone")
            self.package = str(unzipped())
            self.places = list(KEYS)
        except OSError as error:
            self.lacks = str(error)

    def start(self):
        here = Path(__file__).parent.parent / "support" / "ndif.py"
        command = [sys.executable, "-I", here, self.folder, str(self.port), json.dumps(WAYS)]
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(self.hub)}
        self.process = subprocess.Popen(
            [*command, self.package], cwd="/", env=offline, stdout=subprocess.PIPE, text=True
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


class Real:
    """A server that takes no orders, with the same keys and models."""

    def __init__(self, host):
        self.host, self.places = host, PLACES

    def start(self):
        pass

    stop = start

    def plan(self, *_):
        pytest.skip("this gives orders to the stand-in")

    seen = plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the server holds."""
    folder = tmp_path_factory.mktemp("server")
    save_models(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder, hub):
    if not SERVER:
        pytest.importorskip("tornado")
    server = Real(SERVER) if SERVER else StandIn(folder, hub)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def hub(folder, tmp_path_factory):
    """A cache of the hub, as downloads leave it, with configurations and tokenizers alone."""
    hub = tmp_path_factory.mktemp("hub")
    cache_configurations(folder, hub)
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


@pytest.fixture(params=PLACES)
def place(request, server, surroundings, monkeypatch):
    """Where the blocks of a test run."""
    if request.param not in server.places:
        pytest.skip(server.lacks)
    monkeypatch.setenv("NDIF_API_KEY", KEYS[request.param])
    return request.param


def each(*names):
    """A test of these models in all places; where jobs are slow, the first stands for all."""
    slow = [BARE, SANDBOXED] if SERVER else [BARE]
    pairs = [(p, n) for p in PLACES for n in names if p not in slow or n == names[0]]
    return pytest.mark.parametrize(("place", "name"), pairs, indirect=["place"])


own_types = pytest.mark.skipif(bool(SERVER), reason="a server has one type for all its models")


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


@each(*ARCHITECTURES)
def test_a_remote_reading_is_the_local_one(name, place, folder, questions):
    remote, local = open_both(name, folder)
    assert remote.tuple_output == local.tuple_output == (name == "bloom")
    settings = {"batch_tokens": 500, "keep_residuals": [0, 2, 3]}
    there, here = (read_layers(model, questions, **settings) for model in (remote, local))
    same(there, here, atol=1e-6)
    assert here.logits[:, 1:].std(axis=0).min() > 1e-3


@each("llama", "gpt2")
def test_with_exemplars_too_which_are_not_shared_there(name, place, folder, questions):
    remote, local = open_both(name, folder)
    assert can_share(local) and not can_share(remote)
    there, here = (read_layers(model, questions, shots=2) for model in (remote, local))
    same(there, here, atol=1e-5)


def test_in_a_chat_only_the_tokenizer_is_asked_for_its_template(place, folder, questions):
    both = open_both("llama", folder)
    for model in both:
        model.tokenizer.chat_template = TEMPLATES["words"]
    there, here = (read_layers(model, questions, chat=True) for model in both)
    same(there, here, atol=1e-5)
    assert there.provenance["chat_template"] == here.provenance["chat_template"] != "not used"


def test_a_reading_goes_on_where_it_was(place, folder, questions, tmp_path, monkeypatch):
    remote, local = open_both("llama", folder)
    settings = {"batch_tokens": 500, "keep_residuals": [1], "resume": tmp_path / "run"}
    jobs, request = [], Job.request

    def lost(*job):
        jobs.append(job)
        if len(jobs) == 3:
            raise ConnectionError("lost")
        return request(*job)

    monkeypatch.setattr(Job, "request", lost)
    with pytest.raises(ConnectionError, match="lost"):
        read_layers(remote, questions, **settings)
    there = read_layers(remote, questions, **settings)
    batches = len(list((tmp_path / "run").glob("*.safetensors")))
    assert batches > 2 and len(jobs) == batches + 1
    same(there, read_layers(local, questions, **settings | {"resume": None}), atol=1e-6)


def test_a_report_is_the_local_one(place, folder, tmp_path):
    how = {"questions": "almanac", "limit": 60}
    write_report("tiny/llama", tmp_path / "there", remote=True, **how)
    write_report(str(folder / "tiny" / "llama"), tmp_path / "here", **how)
    there, here = (Reading.load(tmp_path / run / "reading") for run in ("there", "here"))
    same(there, here, atol=1e-6)
    assert there.provenance["remote"] and not here.provenance["remote"]


def test_a_lens_goes_along_to_the_server(place, folder, questions):
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


@each(*ARCHITECTURES)
def test_remote_branches_are_the_local_ones(name, place, folder, questions, branches):
    remote, local = open_both(name, folder)
    assert can_branch(remote, range(30)) is can_branch(local, range(30)) is (name != "bloom")
    here = read_branches(local, questions, branches)
    there = read_branches(remote, questions, branches)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)
    pushed = [i for i, (_, strength) in enumerate(branches) if strength]
    assert np.abs(here[pushed] - here[1]).max(axis=(1, 2)).min() > 1e-2


def test_a_sweep_is_the_local_one(place, folder, questions, branches):
    directions = [branches[3][0], branches[6][0]]
    there, here = (
        sweep(model, questions, directions, (-1, 0, 1)).logits
        for model in open_both("llama", folder)
    )
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)
    assert np.abs(here - here[:, [1]]).max(axis=(2, 3))[:, [0, 2]].min() > 1e-2


def test_branches_with_exemplars(place, folder, questions, branches):
    models = open_both("llama", folder)
    there, here = (read_branches(model, questions, branches, shots=2) for model in models)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-5)


@own_types
def test_branches_in_bfloat16(place, folder, questions, branches):
    remote = open_model(f"tiny/{HALF}", remote=True)
    local = open_model(folder / "tiny" / HALF, dtype="auto", device="cpu")
    there, here = (read_branches(model, questions, branches) for model in (remote, local))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_steered_remote_reading_is_the_local_one(
    layer, everywhere, place, folder, questions, branches
):
    direction, strength = next((d, s) for d, s in branches if d.layer == layer and s)
    settings = {"everywhere": everywhere, "keep_residuals": [1]}
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
    with pytest.raises(ValueError, match=r"weights of tiny/llama are on the server, and its head"):
        model.require_weights("its head is read here")


@each("llama", "gemma2")
def test_the_lens_is_read_where_the_weights_are(name, place, folder):
    remote, local = open_both(name, folder)
    residuals = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    for tokens in (None, [5, 9]):
        there, here = (lens(model, residuals, tokens) for model in (remote, local))
        torch.testing.assert_close(there, here, rtol=0, atol=1e-6)
    assert here.std() > 1e-3


TAKEN_APART = {
    "readout": lambda model, questions: [
        getattr(readout_of(model, [5, 9]), part) for part in ("rows", "bias", "epsilon")
    ],
    "null space": lambda model, questions: [singular_values(model, [5, 9, 17])],
    "attribution": lambda model, questions: [
        getattr(read_attribution(model, questions, 1, 3, shots=1), part)
        for part in ("reads", "lengths")
    ],
    "activations": lambda model, questions: [read_activations(model, questions, 2)],
    "neurons": lambda model, questions: [
        describe_neurons(model, 3, k=50, tokens=list(range(5, 25))).to_numpy()
    ],
    "ablation of the last layer": lambda model, questions: ablated(model, questions, 3),
    "ablation below": lambda model, questions: ablated(model, questions, 2),
}


def ablated(model, questions, layer):
    found = ablate_neurons(model, questions, layer, np.full(96, 0.5), [[0, 3], [7], [5, 95]])
    assert np.abs(found.total - found.intact).max() > 1e-3
    return [found.total, found.direct, found.intact]


@each("llama", "gemma2")
def test_taken_apart_it_gives_the_local_numbers(name, place, folder, questions):
    remote, local = open_both(name, folder)
    few = questions.select(range(0, 30, 5))
    for take_apart in TAKEN_APART.values():
        there, here = (take_apart(model, few) for model in (remote, local))
        for some, other in zip(there, here, strict=True):
            np.testing.assert_allclose(some, other, rtol=0, atol=1e-5)


def test_a_tuned_lens_is_fitted_from_afar(place, folder):
    calibration = load_questions("almanac", "validation", limit=100)
    there, here = (
        fit_tuned_lens(model, calibration, max_rounds=2) for model in open_both("llama", folder)
    )
    torch.testing.assert_close(there.shifts, here.shifts, rtol=0, atol=1e-5)
    assert here.shifts[:-1].abs().max() > 1e-3


def test_what_needs_more_than_calls_says_why(place, questions):
    model = open_model("tiny/llama", remote=True)
    for call, why in (
        (lambda: singular_values(model), "rows of a whole vocabulary are too many .* name tokens"),
        (lambda: gradient_direction(model, questions, 1), "gradients, which a server does not"),
        (lambda: sample_answers(model, questions, 2), "keeps no keys and values from one token"),
    ):
        with pytest.raises(ValueError, match=f"are on the server, and .*{why}"):
            call()


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


@own_types
def test_the_type_is_the_servers(place, folder, questions):
    remote = open_model(f"tiny/{HALF}", remote=True)
    local = open_model(folder / "tiny" / HALF, dtype="auto", device="cpu")
    assert remote.dtype == local.dtype == torch.bfloat16
    there, here = (read_layers(m, questions, keep_residuals=[1]) for m in (remote, local))
    same(there, here, atol=1e-6)


def test_the_lens_is_checked_where_the_weights_are(place):
    with pytest.raises(ValueError, match=rf"tiny/{UNCAPPED}\): the lens .* after lm_head"):
        open_model(f"tiny/{UNCAPPED}", remote=True)


def test_checking_it_takes_few_numbers(server):
    before = len(server.seen()["received"])
    with pytest.raises(ValueError, match="the lens"):
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


def run(model):
    """Any job."""
    head = model.part("unembedding")
    with model.trace(input_ids=torch.tensor([[1]])):
        logits = head.output.save()
    return logits


def test_what_calib_defines_is_not_on_the_server(place):
    """Else these tests could not tell whether a block would run on NDIF."""
    model = open_model("tiny/llama", remote=True)
    head = model.part("unembedding")
    words = r"did not run the job: .*\(ModuleNotFoundError: No module named 'calib.* name torch"
    with pytest.raises(RemoteError, match=words):
        with model.trace(input_ids=torch.tensor([[1]])):
            logits = finish(head.output, None, 2.0).save()  # noqa: F841


def test_an_error_in_the_block_shows_all_that_it_says(place):
    model = open_model("tiny/llama", remote=True)
    with pytest.raises(RemoteError, match=r"failed on .*: ZeroDivisionError: division by zero$"):
        with model.trace(input_ids=torch.tensor([[1]])):
            ratio = 1 / 0
            ratio = torch.tensor(ratio).save()
    words = "failed on .*: RuntimeError: the card is gone Compile with TORCH_USE_CUDA_DSA$"
    with pytest.raises(RemoteError, match=words):
        with model.trace(input_ids=torch.tensor([[1]])):
            raise RuntimeError("the card is gone\n  Compile with TORCH_USE_CUDA_DSA")


def test_nothing_has_a_gradient_there(place):
    model = open_model("tiny/llama", remote=True)
    head = model.part("unembedding")
    with model.trace(input_ids=torch.tensor([[1]])):
        wanted = torch.tensor(head.output.requires_grad).save()
    assert not wanted


def test_what_a_block_prints_there_is_printed_here(place, capsys):
    model = open_model("tiny/llama", remote=True)
    with model.trace(input_ids=torch.tensor([[1]])):
        print("seen on the way")
        one = torch.tensor(1).save()
    assert one == 1
    assert capsys.readouterr().out == "seen on the way\n"


def test_a_result_that_is_large_comes_too(place):
    model = open_model("tiny/llama", remote=True)
    torch.manual_seed(0)
    with model.trace(input_ids=torch.tensor([[1]])):
        noise = torch.rand(3 << 20).save()
    assert noise.shape == (3 << 20,) and noise.std() > 0.2


def test_a_missing_key_is_found_before_anything_is_sent(server, monkeypatch):
    monkeypatch.delenv("NDIF_API_KEY")
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    monkeypatch.delenv("NDIF_HOST")
    monkeypatch.setattr(CONFIG.API, "HOST", "https://api.ndif.us")
    monkeypatch.setattr(socket, "getaddrinfo", None)
    with pytest.raises(PermissionError, match=r"login.ndif.us, .* variable NDIF_API_KEY or call"):
        open_model("tiny/llama", remote=True)
    monkeypatch.undo()


def test_a_key_may_come_from_nnsight(server, monkeypatch):
    monkeypatch.delenv("NDIF_API_KEY")
    monkeypatch.setattr(CONFIG.API, "APIKEY", f" {KEY}\n")
    assert open_model("tiny/llama", remote=True).remote


def test_a_server_of_ones_own_says_whether_it_needs_a_key(server, monkeypatch):
    monkeypatch.delenv("NDIF_API_KEY")
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    with pytest.raises(
        PermissionError, match=r"needs a key and none is set .*NDIF_API_KEY, or ask"
    ):
        open_model("tiny/llama", remote=True)
    server.plan(*["no keys"] * 9)
    assert open_model("tiny/llama", remote=True).remote
    server.plan()


def test_blanks_around_a_key_and_a_slash_after_the_host_do_no_harm(server, monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("NDIF_HOST", f"{server.host}/ ")
    assert open_model("tiny/llama", remote=True).remote


@pytest.mark.parametrize(
    ("key", "fault", "words"),
    [
        ("3d0f7a52-9b1e-4c68-8f24-6ae5d1c09b73", None, r"refuses the key \(Invalid API key"),
        ("my-secret-key", None, "refuses the key, whose form is no key's; check"),
        ("my-secret-key", "quoted", "refuses the key, whose form is no key's; check"),
        ("my-secret-key", "in part", "refuses the key, whose form is no key's; check"),
    ],
)
def test_a_refused_key_is_not_shown(key, fault, words, server, monkeypatch):
    if fault:
        server.plan(fault)
    monkeypatch.setenv("NDIF_API_KEY", key)
    with pytest.raises(PermissionError, match=words) as refused:
        open_model("tiny/llama", remote=True)
    told = "".join(traceback.format_exception(refused.value))
    assert all(part not in told for part in ("3d0f7a52", "my-secret", "secret-key", "my%2dsecret"))


def test_a_model_that_is_not_served():
    words = r"did not run the job: Could not deploy this model\. .*nnsight.status\(\) lists"
    with pytest.raises(RemoteError, match=words) as refused:
        open_model("tiny/nowhere", remote=True)
    assert "Traceback" not in str(refused.value) and len(str(refused.value)) < 700


# What a server says, and what is to be done about it.
SAID = {
    "Your job exceeded the execution timeout of 3600s.": r"batch_tokens=\), or call again",
    "Error submitting request to model deployment. Please try again later.": "; call again",
    "Critical server error occurred. Please try again later.": "; call again",
    "Error starting model. Please try again later.": "; call again",
    "Replica was evicted while processing your request.": "; call again",
    "Could not deploy this model. CANT_ACCOMMODATE: placed 0 of 1": "no room for the model now",
    "Could not deploy this model. There is none.": r"; nnsight.status\(\) lists the models",
}


@pytest.mark.parametrize("said", SAID)
def test_a_job_that_is_not_run_says_what_to_do(said, server):
    model = open_model("tiny/llama", remote=True)
    server.plan(f"says {said}")
    words = f"did not run the job: {re.escape(said)}.*{SAID[said]}"
    with pytest.raises(RemoteError, match=words) as failed:
        run(model)
    assert ("nnsight.status" in str(failed.value)) is (said.endswith("none."))
    assert ("call again" in str(failed.value)) is not (said.endswith("none."))


@pytest.mark.parametrize(
    ("faults", "spelling"),
    [
        (["says Could not deploy this model. There is none."], True),
        (["says Error starting model. Please try again later."], False),
        (["says Could not deploy this model. CANT_ACCOMMODATE: placed 0 of 1"], False),
        (["busy"], False),
        (["nonsense"], False),
        (["hang up"], False),
    ],
)
def test_a_report_asks_for_the_spelling_where_the_model_may_not_exist(
    faults, spelling, server, tmp_path
):
    server.plan(*faults)
    with pytest.raises(InputFault, match="model 'tiny/llama' cannot be opened") as refused:
        write_report("tiny/llama", tmp_path / "out", questions="almanac", limit=9, remote=True)
    assert ("check its spelling" in str(refused.value)) is spelling
    server.plan()


def test_pings_are_answered_while_a_request_is_sent(server):
    model = open_model("tiny/llama", remote=True)
    server.plan("slow")
    assert run(model).shape[:2] == (1, 1)


def test_what_comes_before_the_answer_to_a_request_is_not_lost(server, monkeypatch):
    model = open_model("tiny/llama", remote=True)
    told, show = [], _waiting.Waiting.show
    monkeypatch.setattr(
        _waiting.Waiting, "show", lambda self, r: (told.append(r.status.value), show(self, r))
    )
    server.plan("hasty")
    assert run(model).shape[:2] == (1, 1)
    assert told == ["RECEIVED", "QUEUED", "DISPATCHED", "RUNNING"]


def test_nothing_more_is_sent_once_it_is_given_up(monkeypatch):
    job, size = Job(open_model("tiny/llama", remote=True).traced, 60), 64 << 20
    with socket.create_server(("127.0.0.1", 0)) as listening:
        job.host = f"http://127.0.0.1:{listening.getsockname()[1]}"
        job.deadline = time.monotonic() + 60
        with io.BytesIO(bytes(size)) as body:
            answer = job.sent(RequestModel(model_key="any"), body)
            connection, _ = listening.accept()
            assert connection.recv(1000)
        with connection:
            assert sum(map(len, iter(lambda: connection.recv(1 << 20), b""))) < size / 2
    assert isinstance(answer.exception(timeout=30), ValueError)


def test_the_wait_is_seen_and_goes_away(server, monkeypatch, capsys):
    monkeypatch.setattr(_waiting, "tqdm", partial(_waiting.tqdm, disable=False))
    monkeypatch.setattr(_waiting, "DELAY", 1)
    model = open_model("tiny/llama", remote=True)
    assert capsys.readouterr().err == ""  # it was quick
    server.plan("wait 2.5")
    run(model)
    shown = capsys.readouterr().err
    assert re.search(r"\rNDIF: in the queue, at position 7 \[00:0[12]\]", shown)
    assert re.search(r"\r +\r$", shown)


def test_the_next_job_waits_for_one_that_nobody_waits_for(server):
    model = open_model("tiny/llama", remote=True)
    before = server.seen()["finished"]
    with pytest.raises(TimeoutError, match="may still be running there, and the next one"):
        with replace(model, time_limit=1.0).trace(input_ids=torch.tensor([[1]])):
            import time

            time.sleep(2)
            one = torch.tensor(1).save()  # noqa: F841
    run(model)
    assert server.seen()["finished"] - before == 2


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
    monkeypatch.setenv("NDIF_HOST", f"{server.host}/api")
    with pytest.raises(RemoteError, match="refuses the job with HTTP status 403; check NDIF_HOST"):
        open_model("tiny/llama", remote=True)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("busy", r"HTTP status 503 \(Service temporarily .*\); call again"),
        ("old", r"HTTP status 400 \(Client nnsight version .* the minimum supported 0.9.\)$"),
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


@pytest.mark.parametrize("fault", ["says you are KEY", "refusal with the key"])
def test_a_key_that_comes_back_is_not_shown(fault, server):
    model = open_model("tiny/llama", remote=True)
    server.plan(fault)
    with pytest.raises(RemoteError, match=r"\(the key\)") as failed:
        run(model)
    assert KEY not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize("key", ["se cret", "secret\nX: 1", "sécret"])
def test_a_key_that_cannot_be_one_is_not_sent(key, server, monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", key)
    before = server.seen()
    with pytest.raises(PermissionError, match="holds a blank, a line break or a letter") as refused:
        open_model("tiny/llama", remote=True)
    assert "cret" not in str(refused.value)
    assert server.seen() == before


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


LOST = r"connection was lost .* resume=, finished batches stay .* still be running there, and the"


def test_a_lost_connection_keeps_what_is_finished(server, folder, questions, tmp_path):
    remote, local = open_both("llama", folder)
    settings = {"batch_tokens": 150, "keep_residuals": [1]}
    server.plan(None, None, "hang up")
    with pytest.raises(ConnectionError, match=LOST):
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
