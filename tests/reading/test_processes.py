"""One run over several processes, real ones: equal to one process, lost, refused, started again."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from support import together

from calib import Reading, load_questions, open_model, read_layers
from calib.__main__ import main

MODULE = [sys.executable, "-m"]
ENVIRONMENT = os.environ | {
    "TQDM_DISABLE": "",  # progress is looked at
    "PYTHONPATH": str(Path(together.__file__).parents[1]), "OMP_NUM_THREADS": "1",
}  # fmt: skip


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return str(some.getsockname()[1])


def by_hand(size, *arguments):
    """Processes that nobody looks after; their errors are to be read."""
    where = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        subprocess.Popen(
            [*MODULE, *arguments], env=ENVIRONMENT | where | {"RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def torchrun(size, *arguments):
    command = ["torch.distributed.run", "--nproc_per_node", str(size), "--master_port", free_port()]
    return subprocess.Popen(
        [*MODULE, *command, "-m", *arguments],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def errors_of(processes, seconds=120):
    """What each says in the end; a failure if one does not end by itself in this time."""
    late = time.monotonic() + seconds
    try:
        return [process.communicate(timeout=late - time.monotonic())[1] for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process ends with."""
    folder = tmp_path_factory.mktemp("alone")
    together.everything(folder)
    return np.load(folder / "everything-0.npz")


def finished(folder):
    return {file.name: file.stat().st_mtime_ns for file in Path(folder).glob("*.safetensors")}


def check_all(folder, size, alone):
    """Each process has ended with what one alone ends with."""
    for rank in range(size):
        found = np.load(folder / f"everything-{rank}.npz")
        assert set(found) == {"logits", "residuals", "branches", "reads", "answers", "bars"}
        for name in set(found) - {"bars"}:
            np.testing.assert_array_equal(found[name], alone[name])
        # Shown by the first, which counts what all have done.
        assert found["bars"].tolist() == ([] if rank else [59, 31, 31, 31])


def test_where_one_is_killed_the_others_end_and_another_number_goes_on(tmp_path, alone):
    processes = by_hand(2, "support.together", "killed", str(tmp_path))
    (said,) = errors_of(processes[:1])
    assert said.splitlines()[-1].endswith(  # torch tells its rank before
        "ConnectionError: another of the 2 processes has ended or cannot be reached; finished "
        f"batches stay in {tmp_path}/layers; start again, with any number of processes"
    )
    assert processes[0].wait() == 1
    assert processes[1].wait() == -9

    before = finished(tmp_path / "layers")
    assert 1 <= len(before) < 15
    launch = torchrun(3, "support.together", "everything", str(tmp_path))
    (said,) = errors_of([launch])
    assert launch.returncode == 0, said
    assert "Warning" not in said
    after = finished(tmp_path / "layers")
    assert before.items() <= after.items()  # nothing finished was read again
    assert len(after) == 15 and not list(tmp_path.glob("layers/*.partial"))
    check_all(tmp_path, 3, alone)


@pytest.fixture(scope="module")
def launch_of_two(tmp_path_factory):
    """A script of everything that goes well, and then of everything that does not."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "held").mkdir()
    with FileLock(folder / "held" / "run.lock"):  # another run
        launch = torchrun(2, "support.together", "refused", str(folder))
        (said,) = errors_of([launch])
    assert launch.returncode == 0, said
    return folder


@pytest.fixture
def refusals(launch_of_two):
    return [json.loads((launch_of_two / f"refused-{i}.json").read_text()) for i in range(2)]


def test_two_processes_end_with_what_one_does(launch_of_two, alone):
    check_all(launch_of_two, 2, alone)
    assert not list(launch_of_two.rglob("*.partial"))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ("questions", "ValueError", r"ask for different things: prompts is '\w+' in process 0 and"),
        ("settings", "ValueError", r"keep_residuals is \[0\] in process 0 and \[1\] in process 1"),
        ("at work", "ValueError", r"another run is at work in .*held; wait .* torchrun"),
        ("foreign", "ValueError", r"there holds files but no run.json"),
        ("not seen", "ValueError", r"process 1 does not see in .* as resume, or as TMPDIR"),
    ],
)
def test_what_cannot_be_run_together_is_refused_in_all_alike(call, kind, words, refusals):
    first, second = (said[call] for said in refusals)
    assert first == second
    assert first[0] == kind
    assert re.search(words, first[1])


def test_where_one_fails_it_says_why_and_the_others_that_it_has_ended(refusals):
    first, second = (said["failed"] for said in refusals)
    assert second == ["KeyError", "'of its own'"]
    assert first[0] == "ConnectionError"
    assert "another of the 2 processes has ended" in first[1]


def test_after_a_failure_the_next_call_is_as_any(refusals):
    assert all("none" not in said for said in refusals)


def test_one_that_is_silent_counts_as_lost(refusals):
    kind, words = refusals[0]["silent"]
    assert kind == "ConnectionError"
    assert "another of the 2 processes has ended or cannot be reached" in words


def test_a_call_that_others_do_not_make_is_not_waited_for_for_ever(refusals):
    kind, words = refusals[0]["alone"]
    assert kind == "ConnectionError"
    assert "not all of the 2 processes have come here within 2 s" in words
    assert "call this in every process" in words


# The command


def children_of(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="tells no children of a process")
def test_a_report_whose_process_is_killed_ends_in_a_line_and_one_process_goes_on(tmp_path):
    command = "calib", "report", "almanac", "--limit", "1500", "--batch-tokens", "500", "--out"
    launch = torchrun(3, *command, str(tmp_path / "out"))
    late = time.monotonic() + 120
    while len(finished(tmp_path / "out" / "run")) < 5 and time.monotonic() < late:
        time.sleep(0.05)
    os.kill(int(children_of(launch)[2]), signal.SIGKILL)
    (said,) = errors_of([launch])
    assert launch.returncode == 1
    told = [line for line in said.splitlines() if line.startswith("calib: ")]
    assert len(told) == 2
    for line in told:
        assert re.search(r"has ended or cannot be reached; finished|was ended \(SIGTERM\)", line)
    assert "calib/" not in said  # no traceback but torchrun's own

    assert finished(tmp_path / "out" / "run")
    main([*command[1:], str(tmp_path / "out")])
    found = Reading.load(tmp_path / "out" / "reading")
    whole = read_layers(
        open_model("almanac"), load_questions("almanac", limit=1500), batch_tokens=500
    )
    np.testing.assert_array_equal(found.logits, whole.logits)


def test_a_fault_of_the_input_is_told_once(tmp_path):
    (tmp_path / "out").mkdir()
    processes = by_hand(2, "calib", "report", str(tmp_path / "none"), "--out", f"{tmp_path}/out")
    first, second = errors_of(processes)
    assert re.fullmatch(r"calib: model '.*none' is no folder here .*\n", first)
    assert second == ""
    assert [process.returncode for process in processes] == [2, 2]


def test_a_launcher_that_does_not_say_where_to_meet_is_told_how(monkeypatch, unused):
    for name, value in (("PROCID", "0"), ("STEP_NUM_TASKS", "2"), ("LOCALID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(
        ValueError, match=r"before srun, export MASTER_ADDR=\$\(hostname\) MASTER_P"
    ):
        read_layers(unused, load_questions("almanac", limit=3))
