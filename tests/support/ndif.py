"""A stand-in for NDIF on this machine, speaking its protocol through nnsight's own classes.

``python -I ndif.py FOLDER PORT`` serves the models that lie in ``FOLDER/owner/name``, says its port
when it is ready (0: any), and takes orders that NDIF does not: ``POST /plan`` with a list of what
befalls the next jobs, ``GET /seen`` for what came and went. As on NDIF, calib is not installed.
"""

import asyncio
import io
import json
import os
import signal
import sys
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
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

KEY = "good-key"
MODELS = {}
SOCKETS = {}
RESULTS = {}
PLAN = []
SEEN = {"subscriptions": 0, "sent": [], "received": []}
WORKER = ThreadPoolExecutor(1)  # nnsight runs one trace at a time


class NoCalib:
    """Importing calib fails, wherever this server's packages came from."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "calib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def model_of(key):
    repo_id = json.loads(key.partition(":")[2])["repo_id"]
    folder = FOLDER / repo_id
    if not folder.exists():
        raise LookupError(
            f"Request removed from queue.\nYour request could not be processed because {repo_id} "
            "is currently unavailable for deployment.\nMake a post on https://discuss.ndif.us/"
        )
    if repo_id not in MODELS:
        MODELS[repo_id] = TransformersModel(
            str(folder),
            task="text-generation",
            tokenizer=AutoTokenizer.from_pretrained(folder),
            dtype="auto",
            dispatch=True,
        )
    return MODELS[repo_id]


def run(model, blob, compress, env) -> bytes:
    """What the traced block in a request saves, as a result's bytes."""
    SOURCES.clear()  # of the requests before: the same file and line may hold another block
    BLOCKS.clear()
    model._remoteable_set_env(env)
    tracer = RequestModel.deserialize(blob, model._remoteable_persistent_objects(), compress)
    inc()
    try:
        tracer.execute(tracer.info.code)
        values = tracer.info.frame.f_locals
        saved = {name: value for name, value in values.items() if id(value) in _saves()}
    finally:
        dec()
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    content = buffer.getvalue()
    return zstandard.ZstdCompressor().compress(content) if compress else content


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
    "the key": f"you sent {KEY}",
    "an error with the key": json.dumps({"id": "1", "status": "ERROR", "description": KEY}),
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


class Request(tornado.web.RequestHandler):
    async def post(self):
        if self.request.headers.get("ndif-api-key") != KEY:
            self.set_status(401)
            self.write({"detail": "Missing or invalid API key."})
            return
        data = json.loads(self.get_body_argument("data"))
        self.blob = self.request.files["blob"][0]["body"]
        SEEN["sent"].append(len(self.request.body))
        fault = PLAN.pop(0) if PLAN else None
        if fault == "no answer":
            await asyncio.Event().wait()
        if fault == "busy":
            self.set_status(503)
        if fault in ("busy", "nonsense"):
            self.write("come back tomorrow")
            return
        if fault == "refusal with the key":
            self.set_status(422)
            self.write(json.dumps({"detail": [{"input": dict(self.request.headers)}]}))
            return
        self.job = uuid.uuid4().hex
        self.socket = SOCKETS.pop(data["session_id"])
        self.task = asyncio.create_task(self.work(data, fault))
        self.set_header("Content-Type", "application/json")
        self.write(self.status(Status.RECEIVED).model_dump_json())

    def status(self, status, description="", **more):
        return ResponseModel(id=self.job, status=status, description=description, **more)

    def tell(self, *arguments):
        self.socket.write_message(self.status(*arguments).model_dump_json())

    async def work(self, data, fault):
        await asyncio.sleep(0.01)  # the answer to the request goes first
        self.tell(Status.QUEUED, "Position in queue: 1")
        try:
            model = model_of(data["model_key"])
        except LookupError as error:
            self.tell(Status.ERROR, str(error))
            return
        self.tell(Status.RUNNING, "Your job has started running.")
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang up":
            self.socket.close()
            return
        while fault == "hang" and self.socket.ws_connection:
            self.socket.ping()  # as servers do to keep a connection
            await asyncio.sleep(0.3)
        if fault in MESSAGES:
            message = MESSAGES[fault]
            self.socket.write_message(message, binary=isinstance(message, bytes))
            return
        loop = asyncio.get_running_loop()
        arguments = model, self.blob, data["compress"], data["env"]
        try:
            result = await loop.run_in_executor(WORKER, run, *arguments)
        except Exception as error:
            self.tell(Status.ERROR, "".join(traceback.format_exception(error)))
            return
        fault = fault or ""
        result = DAMAGE.get(fault.removesuffix(" elsewhere"), bytes)(result)
        if fault.endswith("elsewhere") or fault == "out of reach":  # where NDIF puts large results
            RESULTS[self.job] = result if fault != "out of reach" else None
            address = f"{self.request.protocol}://{self.request.host}/result/{self.job}"
            message = self.status(Status.COMPLETED, data=address).model_dump_json()
        else:
            message = self.status(Status.COMPLETED, data=result).pickle()
        SEEN["received"].append(len(message))
        self.socket.write_message(message, binary=isinstance(message, bytes))


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


async def main(port):
    routes = [
        ("/subscribe", Subscribe),
        ("/request", Request),
        ("/result/(.*)", Result),
        ("/(?:plan|seen)", Orders),
    ]
    sockets = bind_sockets(port, "127.0.0.1")
    HTTPServer(tornado.web.Application(routes)).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.meta_path.insert(0, NoCalib)
    torch.set_num_threads(1)
    disable_progress_bar()
    FOLDER = Path(sys.argv[1])
    asyncio.run(main(int(sys.argv[2])))
