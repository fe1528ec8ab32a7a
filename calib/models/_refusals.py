"""What went wrong on a server, in this library's words and without the key."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from urllib.parse import unquote, urlsplit

import httpx
import websocket
from httpx import HTTPError, InvalidURL
from nnsight.intervention.backends.remote import RemoteError as JobError
from websocket import WebSocketException

from calib.models._answers import Misunderstood

AGAIN = "call again: with resume=, finished batches stay and a reading goes on where it was"
GOES_ON = ". The job may still be running there, and the next one then waits behind it"
TRACEBACK = "Traceback (most recent call last)"
MODULES = "a block can name torch, numbers, tensors and parts of the model"


class RemoteError(OSError):
    """A job gave no result: the model is not there, the block failed, or what came is damaged."""


class NotServed(RemoteError):
    """The server has no such model."""


def explanation(job, error: Exception) -> OSError | None:
    """Whatever happens on the way to the server and back, as an error of the library's own.

    Parameters
    ----------
    job : calib.models.ndif.Job
        With its ``host``, ``api_key``, ``time_limit``, whether it was ``posted``, and what it
        ``heard`` last, if anything.
    error : Exception

    Returns
    -------
    OSError or None
        None for what is a mistake of this library.
    """
    host, said = job.host, without_key(error, job.api_key)
    goes_on = GOES_ON if job.posted else ""
    match error:
        case TimeoutError() | websocket.WebSocketTimeoutException() | httpx.TimeoutException():
            heard = without_key(job.heard or "nothing yet", job.api_key)
            return TimeoutError(
                f"{host} was not done within {job.time_limit:g} seconds (last heard: {heard}); "
                f"give open_model a longer time_limit, or {AGAIN}{goes_on}"
            )
        case JobError():
            return failure(host, str(error), job.api_key)
        case Misunderstood():
            return RemoteError(
                f"{host} answers what nnsight {version('nnsight')} does not understand: "
                f"{said[:200]}; check NDIF_HOST if it is set, and nnsight.compare() for other "
                f"versions there, or {AGAIN}"
            )
        case httpx.HTTPStatusError():
            return refusal(host, error.response.status_code, error.response.text, job.api_key)
        case websocket.WebSocketBadStatusException():
            text = (error.resp_body or b"").decode(errors="replace")
            return refusal(host, error.status_code, text, job.api_key)
        case OSError() | ValueError() | WebSocketException() | HTTPError() | InvalidURL():
            return ConnectionError(
                f"{host} cannot be reached or the connection was lost ({said}); check the "
                f"network, and NDIF_HOST if it is set, then {AGAIN}{goes_on}"
            )
    return None


def failure(host: str, told: str, key: str = "") -> RemoteError:
    """The error for a job that a server says has failed.

    >>> failure("NDIF", "Could not deploy this model. There is none.")
    NotServed('NDIF did not run the job: Could not deploy this model. There is none.; \
nnsight.status() lists the models it serves')
    """
    sentence = told.partition(TRACEBACK)[0].strip()
    said = without_key(gist(told), key)[:1000]
    if TRACEBACK in told and not sentence:
        return RemoteError(f"the job failed on {host}: {said}")
    said = f"{host} did not run the job: {said}"
    if "CANT_ACCOMMODATE" in sentence:
        return RemoteError(f"{said}; it has no room for the model now: {AGAIN}")
    if sentence.startswith("Could not deploy") or "unavailable for deployment" in sentence:
        return NotServed(f"{said}; nnsight.status() lists the models it serves")
    if "payload could not be read" in sentence:
        return RemoteError(f"{said}; {MODULES}")
    if "architecture" in sentence:
        return RemoteError(said)  # it says what to compare
    if "execution timeout" in sentence:
        return RemoteError(f"{said}; ask for less in one pass (batch_tokens=), or {AGAIN}")
    return RemoteError(f"{said}; {AGAIN}")


def gist(told: str) -> str:
    """The sentence before a traceback if there is one, else all lines after its last frame.

    >>> frame = '  File "block.py", line 3, in <module>\\n    1 / 0\\n'
    >>> gist(f"{TRACEBACK}:\\n{frame}ZeroDivisionError: division by zero\\n  as ever")
    'ZeroDivisionError: division by zero\\n  as ever'
    >>> gist(f"There is no such model.\\n{TRACEBACK}:\\n{frame}")
    'There is no such model.'
    """
    sentence, found, rest = told.partition(TRACEBACK)
    if sentence.strip() or not found:
        return sentence.strip()
    lines = rest.splitlines()[1:]
    frames = [n for n, line in enumerate(lines) if re.match(r'\s+File ".*", line \d+', line)]
    begin = frames[-1] + 1 if frames else 0
    while begin < len(lines) and lines[begin][:1].isspace():  # the frame's source, and its marks
        begin += 1
    return "\n".join(lines[begin:]).strip() or "its traceback was cut off"


def refusal(host: str, status: int, text: str, key: str = "") -> OSError:
    """The error for a request that a server does not take.

    >>> refusal("NDIF", 503, '{"detail": "busy"}').args[0][:45]
    'NDIF refuses the job with HTTP status 503 (bu'
    """
    try:
        text = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # not as NDIF says it: as it stands
    said = without_key(text, key)[:500]
    said = f" ({said})" if said else ""
    if status == 401 or (status in (400, 403) and re.search(r"\bkey\b", str(text), re.I)):
        return _refused_key(host, status, "" if shows(text, key, 5) else said, key)
    if status in (403, 404, 405):
        way_out = "; check NDIF_HOST if it is set"
    else:
        way_out = f"; {AGAIN}" if status >= 500 or status in (408, 429) else ""
    return RemoteError(f"{host} refuses the job with HTTP status {status}{said}{way_out}")


def _refused_key(host, status, said, key) -> PermissionError:
    another = "ask whoever runs that server for another"
    if is_public(host):
        another = "get another at https://login.ndif.us"
    if not key:
        return PermissionError(
            f"{host} needs a key and none is set{said}; put one into the environment variable "
            f"NDIF_API_KEY, or {another}"
        )
    form = ", whose form is no key's" if status == 400 else ""
    return PermissionError(
        f"{host} refuses the key{form}{said}; check NDIF_API_KEY or what nnsight.login() was "
        f"given, or {another}"
    )


def is_public(host: str) -> bool:
    """Whether a host is NDIF's own, which takes no job without a key.

    >>> is_public("https://api.ndif.us"), is_public("http://127.0.0.1:18000")
    (True, False)
    """
    name = urlsplit(host).hostname or ""
    return name == "ndif.us" or name.endswith(".ndif.us")


def without_key(text, key: str) -> str:
    """A text in one line, the key in it only named; nothing if it shows a part of the key.

    >>> without_key("the key\\n0c9e47ab-31f5 is unknown", "0c9e47ab-31f5")
    'the key (the key) is unknown'
    >>> without_key("the key 0C9E47AB%2d31... is unknown", "0c9e47ab-31f5")
    'what it says repeats a part of the key'
    """
    line = " ".join(str(text).split())
    line = line.replace(key, "(the key)") if key else line
    return "what it says repeats a part of the key" if shows(line, key) else line


def shows(text, key: str, least: int = 8) -> bool:
    """Whether a text holds the key, or as many letters and digits of it in a row as are given.

    However it is quoted: only letters and digits count.
    """
    letters, secret = (re.sub(r"[\W_]", "", unquote(str(t))).lower() for t in (text, key))
    width = min(least, len(secret))
    parts = {secret[i : i + width] for i in range(len(secret) - width + 1)}
    return bool(secret) and any(part in letters for part in parts)
