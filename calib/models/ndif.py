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

Nothing that comes back is used before it is checked, and no message shows the key. A job that is
no longer waited for goes on there, as far as the server knows: the next one waits behind it.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from importlib.metadata import version

import httpx
import websocket
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.config import CONFIG
from nnsight.schema.response import ResponseModel, Status

from calib.models._answers import Misunderstood, saved_names, understood
from calib.models._refusals import (
    NotServed,
    RemoteError,
    explanation,
    is_public,
    shows,
    without_key,
)
from calib.models._waiting import Waiting

__all__ = ["Job", "NotServed", "RemoteError", "api_key"]


def host() -> str:
    """The server's address: ``NDIF_HOST`` if it is set, else the public one."""
    return (os.environ.get("NDIF_HOST") or CONFIG.API.HOST).strip().rstrip("/")


def api_key() -> str:
    """The key to the server; PermissionError if it cannot be one, or the public NDIF needs one.

    A server of one's own may have no keys: there, none is an empty string, and the server says
    so if it needs one.
    """
    key = (os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY or "").strip()
    if not key and is_public(host()):
        raise PermissionError(
            "remote=True needs a key to NDIF and none is set: get one at https://login.ndif.us, "
            "and put it into the environment variable NDIF_API_KEY or call nnsight.login()"
        )
    if not re.fullmatch("[!-~]*", key):  # else the error of whoever sends it shows it
        raise PermissionError(
            "the key to NDIF holds a blank, a line break or a letter beyond ASCII, as no key does; "
            "copy it once more from https://login.ndif.us"
        )
    return key


class Job(RemoteBackend):
    """One traced block on NDIF: sent, waited for, and what it saved brought back.

    nnsight's own backend waits as long as it takes; this one has a limit to every wait, and says
    after some seconds what it waits for (``TQDM_DISABLE`` switches that off, as all such lines).

    Parameters
    ----------
    traced : nnsight.TransformersModel
        Of a hub id.
    time_limit : float
        Most seconds from sending to the result, the server's queue included.

    Raises
    ------
    PermissionError
        If there is no key where one is needed.
    """

    def __init__(self, traced, time_limit: float):
        key, env = api_key(), traced._remoteable_get_env()
        super().__init__(traced.to_model_key(), host=host(), env=env)
        self.api_key = key
        self.time_limit = time_limit
        self.posted = False  # from then on it may run, whether the server has said so or not
        self.heard = ""  # of what the server told last
        # Our own line says the same, and goes away.
        self.display.enabled = self.verbose

    def request(self, request, tracer) -> dict:
        """The saved values by name, or one of this module's errors."""
        blob = self._serialize(tracer)
        self.deadline = time.monotonic() + self.time_limit
        # Closed, the bytes are sent no further, whatever happens.
        with explained(self), Waiting() as self.waiting, io.BytesIO(blob) as body:
            header = {"ndif-api-key": self.api_key} if self.api_key else None
            address, timeout = f"{self.ws_host}/subscribe", self.left()
            connection = websocket.create_connection(address, header=header, timeout=timeout)
            with closing(connection):
                request.session_id = self.session_of(self.hear(connection))
                values = self.result(connection, self.sent(request, body))
            missing = sorted(saved_names(tracer.node) - values.keys())
            if missing:
                raise Misunderstood(f"a result without {missing[0]!r}, which the block saves")
            return values

    def result(self, connection, answer: Future) -> dict:
        """Values by name, as soon as the server says that they are there."""
        for response in self.statuses(connection, answer):
            if response.status is Status.LOG:
                self.waiting.say(without_key(response.description, self.api_key))
                continue
            if self.note(response):
                return self.download_result(response.data)
            self.waiting.show(response)
            self.heard = f"{response.status.value}: {response.description}"

    def statuses(self, connection, answer: Future) -> Iterator[ResponseModel]:
        """What the server tells of the job: first the answer to its request, whenever that comes.

        The connection is heard all the while: a server drops one that leaves its pings unanswered.
        """
        early = []
        while not answer.done():
            if (message := self.listen(connection, 0.02)) is not None:
                early.append(message)
        yield answer.result()
        yield from map(self.parse, early)
        while True:
            yield self.parse(self.hear(connection))

    def left(self) -> float:
        """Seconds to the deadline; TimeoutError if there are none."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def hear(self, connection) -> str | bytes:
        """The server's next message."""
        # In small steps: a server that sends a ping now and then would restart a long wait.
        while (message := self.listen(connection, 0.1)) is None:
            pass
        return message

    def listen(self, connection, seconds: float) -> str | bytes | None:
        """The server's next message, if it comes within so many seconds."""
        self.waiting.tick()
        self.display.refresh()
        connection.settimeout(min(seconds, self.left()))
        try:
            message = connection.recv()
        except websocket.WebSocketTimeoutException:
            return None
        if not message:
            raise ConnectionResetError("the server closed it")
        return message

    def sent(self, request, body: io.BytesIO) -> Future:
        """The answer to a request that is being sent, in a thread that nothing waits for."""
        answer: Future = Future()
        self.posted = True

        def send():
            try:
                answer.set_result(self._post(request, body))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=send, daemon=True).start()
        return answer

    def _post(self, request, body: io.BytesIO) -> ResponseModel:
        headers = {"ndif-api-key": self.api_key} if self.api_key else {}
        headers |= {
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version,
        }
        answer = httpx.post(
            f"{self.host}/request",
            data={"data": request.metadata()},
            files={"blob": ("request", body, "application/octet-stream")},
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


@contextmanager
def explained(job: Job):
    """Whatever happens on the way to the server and back, as one of this module's errors."""
    try:
        yield
    except Exception as error:
        told = explanation(job, error)
        if told is None:
            raise
        # The cause would be printed too, and may quote what was sent.
        raise told from (None if shows(error, job.api_key) else error)
