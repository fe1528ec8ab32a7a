"""Running traced blocks on NDIF, where models live that fit on no machine of one's own::

    model = open_model("meta-llama/Llama-3.1-8B", remote=True)
    reading = read_layers(model, load_questions("mmlu"), resume="run")

nnsight ships a block's source with the values it reads, and the names of the model's parts; a
block can run there if it reads nothing but torch, numbers, tensors and parts of the model.
What can go wrong is told by four errors, all of them OSError:

- ``PermissionError``: there is no key, or the server refuses it;
- ``ConnectionError``: the server cannot be reached, or the connection was lost;
- ``TimeoutError``: the job was not done within its time limit;
- :class:`RemoteError`: the server answers, and says that it could not do it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing, contextmanager
from importlib.metadata import version

import httpx
import websocket
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.intervention.backends.remote import RemoteError as JobError
from nnsight.schema.config import CONFIG
from nnsight.schema.response import ResponseModel

AGAIN = "call again: with resume=, a reading goes on where it was"


class RemoteError(OSError):
    """The server could not run a job: the model is not there, or the block failed."""


def api_key() -> str:
    """The key to NDIF, or PermissionError that says where to get one and where to put it."""
    key = os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY
    if not key:
        raise PermissionError(
            "remote=True needs a key to NDIF and none is set: get one at https://login.ndif.us, "
            "and put it into the environment variable NDIF_API_KEY or call nnsight.login()"
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
                request.session_id = json.loads(self.hear(connection))["session_id"]
                response = self._post(request, blob)
                while not self.note(response):
                    self.heard = f"{response.status.value}: {response.description}"
                    response = self.parse(self.hear(connection))
                return self.download_result(response.data)

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
        return ResponseModel.model_validate_json(answer.raise_for_status().text)

    def download_result(self, result) -> dict:
        """What was saved, from its bytes or from the address where they lie."""
        if isinstance(result, str):
            result = httpx.get(result, timeout=self.left()).raise_for_status().content
        return super().download_result(result)


@contextmanager
def explained(job: Job):
    """Whatever happens on the way to the server and back, as one of this module's errors."""
    try:
        yield
    except (TimeoutError, websocket.WebSocketTimeoutException, httpx.TimeoutException) as error:
        raise TimeoutError(
            f"{job.host} was not done within {job.time_limit:g} seconds (last heard: {job.heard}); "
            f"give open_model a longer time_limit, or {AGAIN}"
        ) from error
    except JobError as error:
        raise RemoteError(_failure(job.host, str(error))) from error
    except httpx.HTTPStatusError as error:
        raise _refusal(job.host, error.response.status_code, error.response.text) from error
    except websocket.WebSocketBadStatusException as error:
        text = (error.resp_body or b"").decode(errors="replace")
        raise _refusal(job.host, error.status_code, text) from error
    except (OSError, websocket.WebSocketException, httpx.TransportError) as error:
        raise ConnectionError(
            f"{job.host} cannot be reached or the connection was lost ({error}); check the "
            f"network, and NDIF_HOST if it is set, then {AGAIN}"
        ) from error
    except (ValueError, KeyError) as error:
        raise RemoteError(
            f"{job.host} answers what nnsight {version('nnsight')} does not understand; check "
            "NDIF_HOST if it is set, and nnsight.compare() for other versions there"
        ) from error


def _failure(host: str, told: str) -> str:
    if "Traceback (most recent call last)" in told:
        return f"the job failed on {host}: {told.strip().splitlines()[-1]}"
    told = " ".join(told.split())
    return f"{host} did not run the job: {told}; nnsight.status() lists the models it serves"


def _refusal(host: str, status: int, text: str) -> OSError:
    try:
        text = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        pass  # not as NDIF says it: as it stands
    if status == 401:
        return PermissionError(
            f"{host} refuses the key ({text}); check NDIF_API_KEY, or get another at "
            "https://login.ndif.us"
        )
    return RemoteError(f"{host} refuses the job with HTTP status {status} ({text[:500]}); {AGAIN}")
