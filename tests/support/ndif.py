"""A stand-in for NDIF on this machine, speaking its protocol through nnsight's own classes.

``python -I ndif.py FOLDER PORT KEYS NDIF`` serves the models that lie in ``FOLDER/owner/name`` and
says its port when it is ready (0: any). KEYS is an object in JSON: for each key, how its blocks
run. ``trusted`` ones run next to the weights; ``sandboxed`` and ``bare`` ones in NDIF's own
sandbox, where parts of the model are without weights or are nothing. NDIF is the folder of its
package, unzipped; without it there are trusted blocks alone.

It takes orders that NDIF does not: ``POST /plan`` with a list of what befalls the next jobs,
``GET /seen`` for what came and went. As on NDIF, calib is not installed.
"""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import sys
import time
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import tornado.web
import tornado.websocket
import zstandard
from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.globals import BLOCKS, SOURCES
from nnsight.tracing.tracer import _saves, dec, inc
from nnsight.tracing.util import clean_traceback
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

LARGEST = 8 << 20  # bytes of a result that come on the socket
MODELS = {}
SOCKETS = {}
RESULTS = {}
PLAN = []
SEEN = {"subscriptions": 0, "sent": [], "received": [], "finished": 0}
WORKER = ThreadPoolExecutor(1)  # nnsight runs one trace at a time


class NoCalib:
    """Importing calib fails, wherever this server's packages came from."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "calib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class Refused(Exception):
    """A job that is not run; the message is what its client is told."""


def repo_of(key):
    return json.loads(key.partition(":")[2])["repo_id"]


def model_of(key):
    repo_id = repo_of(key)
    folder = FOLDER / repo_id
    if not folder.exists():
        try:
            raise OSError(f"{repo_id} is not a valid model identifier listed on the hub")
        except OSError as error:
            reason = f"{error}\n{''.join(traceback.format_exception(error)) * 9}"
        raise Refused(f"Could not deploy this model. {reason[:1500]}…")
    if repo_id not in MODELS:
        MODELS[repo_id] = TransformersModel(
            str(folder),
            task="text-generation",
            tokenizer=AutoTokenizer.from_pretrained(folder),
            dtype="auto",
            dispatch=True,
        )
        MODELS[repo_id]._module.requires_grad_(False)
    return MODELS[repo_id]


# How a block runs: what it saves, as bytes; what it prints is told line by line


def run_trusted(model, data, blob, tell) -> bytes:
    SOURCES.clear()  # of the requests before: the same file and line may hold another block
    BLOCKS.clear()
    try:
        parts = model._remoteable_persistent_objects()
        tracer = RequestModel.deserialize(blob, parts, data["compress"])
    except Exception as error:
        raise Refused(UNREADABLE.format(type(error).__name__, error)) from error
    printed = io.StringIO()
    inc()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            tracer.execute(tracer.info.code)
        values = tracer.info.frame.f_locals
        saved = {name: value for name, value in values.items() if id(value) in _saves()}
    except Exception as error:
        shown = clean_traceback(error.__traceback__.tb_next)
        raise Refused("".join(traceback.format_exception(type(error), error, shown))) from error
    finally:
        dec()
        for line in printed.getvalue().splitlines():
            tell(line)
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


UNREADABLE = (
    "Your request payload could not be read ({}: {}). It may be truncated or corrupted in "
    "transit, or compressed differently than the request declared. Re-sending it usually resolves "
    "this; if it persists, check that the client and server nnsight versions match."
)


def run_sandboxed(model, data, blob, tell, parts=True) -> bytes:
    """The same in a fresh runner, driven by NDIF's driver."""
    from ndif.services.ray.sandbox.driver import RunnerError, SandboxDriver
    from ndif.services.ray.sandbox.host import Connection

    ours, theirs = socket.socketpair()
    key = data["model_key"] if parts else "-"
    socket.send_fds(RUNNERS, [key.encode()], [theirs.fileno()])
    theirs.close()
    connection, dtype = Connection(ours), model._module.dtype
    try:
        connection.send((blob, data["compress"], str(dtype), None, data["env"]))
        return SandboxDriver(model, dtype, tell).pump(connection)[0]
    except RunnerError as error:
        raise Refused(str(error)) from error
    finally:
        connection.close()
        model.interleaver.cancel()


def run_bare(model, data, blob, tell) -> bytes:
    return run_sandboxed(model, data, blob, tell, parts=False)


WAYS = {"trusted": run_trusted, "sandboxed": run_sandboxed, "bare": run_bare}


def runners() -> socket.socket:
    """Begin a process that forks a runner for each job; the socket asks it for one.

    NDIF starts each anew, which takes some seconds. What runs in it is NDIF's own. Like NDIF's,
    they end with whoever asks, also if that is killed: they see their socket close, or themselves
    left alone.
    """
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    from ndif.services.ray.sandbox import nns, runner  # they change nnsight for good: not above

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    models = {"-": None}
    while True:
        key, sockets, *_ = socket.recv_fds(theirs, 1 << 16, 1)
        if not sockets:
            os._exit(0)
        if (key := key.decode()) not in models:  # built once, and given to each in a copy
            nns.load_meta_model(key)
            models[key] = nns.META_MODEL
        if os.fork():
            os.close(sockets[0])
            continue
        theirs.close()
        runner.die_with_parent()
        nns.META_MODEL = models[key]
        nns.PERSISTENT_OBJECTS = {}
        if nns.META_MODEL is not None:
            nns.PERSISTENT_OBJECTS |= nns.META_MODEL._remoteable_persistent_objects()
        with contextlib.suppress(OSError):  # the job was given up
            connection = runner.Connection(socket.socket(fileno=sockets[0]))
            object.__new__(runner.Runner).handle([connection])
        os._exit(0)


def packed(value) -> bytes:
    """A value as a result's bytes, of a server that compresses."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return zstandard.ZstdCompressor().compress(buffer.getvalue())


# What befalls a finished job: it comes back as other bytes than it was.
DAMAGE = {
    "cut off": lambda result: result[: len(result) // 2],
    "nothing": lambda result: b"",
    "page": lambda result: b"<!doctype html><title>502 Bad Gateway</title>",
    "not compressed": lambda result: zstandard.ZstdDecompressor().decompress(result),
    "no archive": lambda result: zstandard.ZstdCompressor().compress(b"logits"),
    "list": lambda result: packed([1, 2]),
    "numbers for names": lambda result: packed({1: 2}),
    "no values": lambda result: packed({}),
    "other names": lambda result: packed({"loss": torch.zeros(3)}),
}
# Or a message comes that tells nothing.
MESSAGES = {
    "no JSON": "soon",
    "no object": "[1]",
    "no status": json.dumps({"id": "1"}),
    "unknown status": json.dumps({"id": "1", "status": "PONDERING"}),
    "no archive for a message": b"soon",
    "no data": json.dumps({"id": "1", "status": "COMPLETED"}),
    "empty address": json.dumps({"id": "1", "status": "COMPLETED", "data": ""}),
    "number for data": json.dumps({"id": "1", "status": "COMPLETED", "data": 7}),
}
# Or the subscription is answered by something else than a session.
GREETINGS = {"no session id": '{"hello": 1}', "number for a session": '{"session_id": 1}',
             "list for a session": "[]", "no JSON for a session": "<html>"}  # fmt: skip


class Subscribe(tornado.websocket.WebSocketHandler):
    def open(self):
        SEEN["subscriptions"] += 1
        if PLAN and PLAN[0] in GREETINGS:
            self.write_message(GREETINGS[PLAN.pop(0)])
            return
        self.session_id = uuid.uuid4().hex
        if PLAN[:1] != ["no session"]:
            SOCKETS[self.session_id] = self
            self.write_message(json.dumps({"session_id": self.session_id}))

    async def ask_for_signs_of_life(self):
        """Drop a client that leaves pings without a pong, as servers do."""
        self.pong = time.monotonic()
        while self.ws_connection:
            self.ping()
            await asyncio.sleep(0.2)
            if time.monotonic() - self.pong > 0.8:
                self.ws_connection.stream.close()
                return

    def on_pong(self, data):
        self.pong = time.monotonic()


class Request(tornado.web.RequestHandler):
    async def post(self):
        self.key = self.request.headers.get("ndif-api-key")
        data = json.loads(self.get_body_argument("data"))
        blob = self.request.files["blob"][0]["body"]
        SEEN["sent"].append(len(self.request.body))
        fault = PLAN.pop(0) if PLAN else ""
        if not self.knows_key(fault) or not self.takes(fault):
            return
        self.job = uuid.uuid4().hex
        self.socket = SOCKETS.pop(data["session_id"])
        if fault == "no answer":
            await asyncio.Event().wait()
        if fault == "slow":  # to read what is sent
            self.life = asyncio.create_task(self.socket.ask_for_signs_of_life())
            await asyncio.sleep(2)
        self.task = asyncio.create_task(self.work(data, blob, fault or ""))
        if fault == "hasty":  # all that is to be told comes before the answer
            await self.task
        self.set_header("Content-Type", "application/json")
        self.write(self.status(Status.RECEIVED).model_dump_json())

    def knows_key(self, fault):
        if fault == "no keys":  # a server of one's own has none
            self.key = next(iter(KEYS))
        if self.key in KEYS:
            return True
        if not self.key:
            self.refuse(401, "Missing or invalid API key. Please visit https://login.ndif.us/")
        try:
            uuid.UUID(self.key)
            self.refuse(403, "Invalid API key.")
        except (TypeError, ValueError):
            if self.key:
                written = {"quoted": self.key.replace("-", "%2d"), "in part": self.key[:9] + "…"}
                written = written.get(fault, self.key)
                self.refuse(400, f"Invalid API key format: '{written}'. API keys must be of hex.")
        return False

    def takes(self, fault):
        if fault == "busy":
            self.refuse(503, "Service temporarily unavailable: compute backend is reconnecting.")
        elif fault == "old":
            self.refuse(400, "Client nnsight version 0.8.1 is below the minimum supported 0.9.")
        elif fault == "nonsense":
            self.write("come back tomorrow")
        elif fault == "refusal with the key":
            self.refuse(422, [{"input": dict(self.request.headers)}])
        else:
            return True
        return False

    def refuse(self, status, detail):
        self.set_status(status)
        self.write({"detail": detail})

    def status(self, status, description="", **more):
        return ResponseModel(id=self.job, status=status, description=description, **more)

    def tell(self, *arguments, **more):
        self.send(self.status(*arguments, **more).model_dump_json())

    def send(self, message):
        with contextlib.suppress(tornado.websocket.WebSocketClosedError):  # the client has left
            self.socket.write_message(message, binary=isinstance(message, bytes))

    async def work(self, data, blob, fault):
        """Run a job and tell its client, who may have left."""
        if repo_of(data["model_key"]) in MODELS:
            self.tell(Status.QUEUED, "Added to Queue at position 1.")
        else:
            self.tell(Status.PROVISIONING, "Model Provisioning...")
            self.tell(Status.DEPLOYING, "Model Deploying...")
            self.tell(Status.QUEUED, "Moved to position 1 in Queue.")
        if fault.startswith("wait "):
            self.tell(Status.QUEUED, "Added to Queue at position 7.")
            await asyncio.sleep(float(fault.removeprefix("wait ")))
        try:
            model = model_of(data["model_key"])
            self.tell(Status.DISPATCHED, "Your job has been sent to the model deployment.")
            self.tell(Status.RUNNING, "Your job has started running.")
            if not await self.fails(fault):
                self.hand_over(await self.run(model, data, blob), fault)
        except Refused as refused:
            self.tell(Status.ERROR, str(refused))
        SEEN["finished"] += 1

    async def run(self, model, data, blob) -> bytes:
        loop = asyncio.get_running_loop()
        model._remoteable_set_env(data["env"])

        def tell(line):
            loop.call_soon_threadsafe(self.tell, Status.LOG, line)

        way = WAYS[KEYS[self.key]]
        result = await loop.run_in_executor(WORKER, way, model, data, blob, tell)
        return zstandard.ZstdCompressor().compress(result) if data["compress"] else result

    async def fails(self, fault) -> bool:
        """Whether a fault ends a running job."""
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang up":
            self.socket.close()
        while fault == "hang" and self.socket.ws_connection:
            self.socket.ping()  # as servers do to keep a connection
            await asyncio.sleep(0.3)
        if fault.startswith("says "):
            raise Refused(fault.removeprefix("says ").replace("KEY", self.key))
        if fault == "the key":
            self.send(f"you sent {self.key}")
        if fault in MESSAGES:
            self.send(MESSAGES[fault])
        return fault in ("hang up", "hang", "the key", *MESSAGES)

    def hand_over(self, result, fault):
        result = DAMAGE.get(fault.removesuffix(" elsewhere"), bytes)(result)
        elsewhere = fault.endswith("elsewhere") or fault == "out of reach"
        if elsewhere or len(result) > LARGEST:
            RESULTS[self.job] = result if fault != "out of reach" else None
            address = f"{self.request.protocol}://{self.request.host}/result/{self.job}"
            message = self.status(Status.COMPLETED, data=address).model_dump_json()
        else:
            message = self.status(Status.COMPLETED, data=result).pickle()
        SEEN["received"].append(len(message))
        self.send(message)


class Result(tornado.web.RequestHandler):
    async def get(self, job):
        if RESULTS[job] is None:
            await asyncio.Event().wait()
        SEEN["received"][-1] += len(RESULTS[job])
        self.write(RESULTS.pop(job))


class Orders(tornado.web.RequestHandler):
    def get(self):
        self.write(SEEN)

    def post(self):
        PLAN[:] = json.loads(self.request.body)


class Unknown(tornado.web.RequestHandler):
    """Any other address."""

    def get(self, _):
        self.set_status(403)


async def main(port):
    routes = [
        ("/subscribe", Subscribe),
        ("/request", Request),
        ("/result/(.*)", Result),
        ("/(?:plan|seen)", Orders),
        ("/(.*)", Unknown),
    ]
    sockets = bind_sockets(port, "127.0.0.1")
    HTTPServer(tornado.web.Application(routes), max_buffer_size=1 << 30).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.meta_path.insert(0, NoCalib)
    torch.set_num_threads(1)
    disable_progress_bar()
    FOLDER, KEYS = Path(sys.argv[1]), json.loads(sys.argv[3])
    if sys.argv[4]:
        sys.path.append(sys.argv[4])
        RUNNERS = runners()
    asyncio.run(main(int(sys.argv[2])))
