"""Running traced blocks on NDIF, where models live that fit on no machine of one's own::

    model = open_model("meta-llama/Llama-3.1-8B", remote=True)
    reading = read_layers(model, load_questions("mmlu"), resume="run")

nnsight ships a block's source with the values it reads, and the names of the model's parts; a
block can run there if it reads nothing but torch, numbers, tensors and parts of the model.
What can go wrong is told by four errors, all of them OSError:

- ``PermissionError``: there is no key, or the server refuses it;
- ``ConnectionError``: the server cannot be reached, or the connection was lost;
- ``TimeoutError``: the job was not done within its time limit;
- :class:`RemoteError`: the server answers that it could not do it, or answers what is no result.

Nothing that comes back is used before it is checked, and no message shows the key.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import closing, contextmanager
from importlib.metadata import version

import httpx
import websocket
from httpx import HTTPError, InvalidURL
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.intervention.backends.remote import RemoteError as JobError
from nnsight.schema.config import CONFIG
from nnsight.schema.response import ResponseModel
from websocket import WebSocketException

from calib.models._answers import Misunderstood, saved_names, understood

AGAIN = "call again: with resume=, a reading goes on where it was"


class RemoteError(OSError):
    """A job gave no result: the model is not there, the block failed, or what came is damaged."""


def api_key() -> str:
    """The key to NDIF, or PermissionError that says where to get one and where to put it."""
    key = (os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY or "").strip()
    if not key:
        raise PermissionError(
            "remote=True needs a key to NDIF and none is set: get one at https://login.ndif.us, "
            "and put it into the environment variable NDIF_API_KEY or call nnsight.login()"
        )
    if not re.fullmatch("[!-~]+", key):  # else the error of whoever sends it shows it
        raise PermissionError(
            "the key to NDIF holds a blank, a line break or a letter beyond ASCII, as no key does; "
            "copy it once more from https://login.ndif.us"
        )
    return key


class Job(RemoteBackend):
    """One traced block on NDIF: sent, waited for, and what it saved brought back.

    nnsight's own backend waits as long as it takes; this one has a limit to every wait.

    Parameters
    ----------
    traced : nnsight.TransformersModel
        Of a hub id.
    time_limit : float
        Most seconds from sending to the result, the server's queue included.

    Raises
    ------
    PermissionError
        If there is no key.
    """

    def __init__(self, traced, time_limit: float):
        super().__init__(
            traced.to_model_key(),
            host=os.environ.get("NDIF_HOST"),
            api_key=api_key(),
            env=traced._remoteable_get_env(),
        )
        self.time_limit = time_limit
        self.heard = "nothing yet"
        # A reading has a progress bar; a line more for each of its jobs would bury it.
        self.display.enabled = self.verbose

    def request(self, request, tracer) -> dict:
        """The saved values by name, or one of this module's errors."""
        blob = self._serialize(tracer)
        self.deadline = time.monotonic() + self.time_limit
        with explained(self):
            connection = websocket.create_connection(
                f"{self.ws_host}/subscribe",
                header={"ndif-api-key": self.api_key},
                timeout=self.left(),
            )
            with closing(connection):
                request.session_id = self.session_of(self.hear(connection))
                response = self._post(request, blob)
                while not self.note(response):
                    self.heard = f"{response.status.value}: {response.description}"
                    response = self.parse(self.hear(connection))
                values = self.download_result(response.data)
            missing = sorted(saved_names(tracer.node) - values.keys())
            if missing:
                raise Misunderstood(f"a result without {missing[0]!r}, which the block saves")
            return values

    def left(self) -> float:
        """Seconds to the deadline; TimeoutError if there are none."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def hear(self, connection) -> str | bytes:
        """The server's next message."""
        while True:
            # In small steps: a server that sends a ping now and then would restart a long wait.
            connection.settimeout(min(0.1, self.left()))
            try:
                message = connection.recv()
            except websocket.WebSocketTimeoutException:
                self.display.refresh()
                continue
            if not message:
                raise ConnectionResetError("the server closed it")
            return message

    def _post(self, request, blob: bytes) -> ResponseModel:
        headers = {
            "ndif-api-key": self.api_key,
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version,
        }
        answer = httpx.post(
            f"{self.host}/request",
            data={"data": request.metadata()},
            files={"blob": ("request", blob, "application/octet-stream")},
            headers=headers,
            timeout=self.left(),
        )
        return self.parse(answer.raise_for_status().text)

    def session_of(self, message) -> str:
        """The name that the server gives to a subscription."""
        with understood(message):
            session = json.loads(message)["session_id"]
            if not isinstance(session, str):
                raise TypeError
            return session

    def parse(self, message) -> ResponseModel:
        """A status message, or the error that tells what came in its place."""
        with understood(message):
            return super().parse(message)

    def download_result(self, result) -> dict:
        """What was saved, by name, from its bytes or from the address where they lie."""
        if result and isinstance(result, str):
            result = httpx.get(result, timeout=self.left()).raise_for_status().content
        with understood(result):
            values = self.finalize(result)
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise Misunderstood(f"a {type(values).__name__} where values by name were due")
        if not values:
            raise Misunderstood("a result without any value")
        return values

    def without_key(self, text) -> str:
        """In one line, whatever a server sends back: it may be what it was sent."""
        return " ".join(str(text).replace(self.api_key, "(the key)").split())


@contextmanager
def explained(job: Job):
    """Whatever happens on the way to the server and back, as one of this module's errors."""
    try:
        yield
    except Exception as error:
        explanation = _explanation(job, error)
        if explanation is None:
            raise
        # The cause would be printed too, and may quote what was sent.
        raise explanation from (None if job.api_key in str(error) else error)


def _explanation(job: Job, error: Exception) -> OSError | None:
    said = job.without_key(error)
    match error:
        case TimeoutError() | websocket.WebSocketTimeoutException() | httpx.TimeoutException():
            return TimeoutError(
                f"{job.host} was not done within {job.time_limit:g} seconds (last heard: "
                f"{job.without_key(job.heard)}); give open_model a longer time_limit, or {AGAIN}"
            )
        case JobError():
            return RemoteError(_failure(job, str(error)))
        case Misunderstood():
            return RemoteError(
                f"{job.host} answers what nnsight {version('nnsight')} does not understand: "
                f"{said[:200]}; check NDIF_HOST if it is set, and nnsight.compare() for other "
                f"versions there, or {AGAIN}"
            )
        case httpx.HTTPStatusError():
            return _refusal(job, error.response.status_code, error.response.text)
        case websocket.WebSocketBadStatusException():
            text = (error.resp_body or b"").decode(errors="replace")
            return _refusal(job, error.status_code, text)
        case OSError() | ValueError() | WebSocketException() | HTTPError() | InvalidURL():
            return ConnectionError(
                f"{job.host} cannot be reached or the connection was lost ({said}); check the "
                f"network, and NDIF_HOST if it is set, then {AGAIN}"
            )
    return None


def _failure(job: Job, told: str) -> str:
    if "Traceback (most recent call last)" in told:
        return f"the job failed on {job.host}: {job.without_key(told.strip().splitlines()[-1])}"
    return (
        f"{job.host} did not run the job: {job.without_key(told)}; nnsight.status() lists the "
        "models it serves"
    )


def _refusal(job: Job, status: int, text: str) -> OSError:
    try:
        text = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # not as NDIF says it: as it stands
    text = job.without_key(text)[:500]
    if status == 401:
        return PermissionError(
            f"{job.host} refuses the key ({text}); check NDIF_API_KEY, or get another at "
            "https://login.ndif.us"
        )
    return RemoteError(f"{job.host} refuses the job with HTTP status {status} ({text}); {AGAIN}")
