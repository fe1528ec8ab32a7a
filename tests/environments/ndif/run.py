"""Run a command beside a real server of NDIF on this machine's CPU, and stop the server.

``PYTHONPATH=tests python run.py COMMAND...``: it finds the server's address in NDIF_SERVER.

It needs redis-server (the Debian package of that name), the environment that `make ndif` makes in
_build/ndif/venv, the ports 18000 to 18012 and 18100 to 18999 on 127.0.0.1, and some 3 GB of memory.
What it writes is in _build/ndif/run; ray's sockets are elsewhere: their paths must be short.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from support.served import (
    ARCHITECTURES,
    HALF,
    KEYS,
    SANDBOXED,
    TRUSTED,
    UNCAPPED,
    save_models,
    snapshot,
)
from support.served import HERE as BUILD

HERE = Path(__file__).resolve().parent
RUN, BIN = BUILD / "run", BUILD / "venv" / "bin"
API, STORE, REDIS, GCS, CLIENT, BOARD, *MORE = range(18000, 18013)


def environment(mark):
    """What every process of the server gets; none of this one's settings for the model hub."""
    address = "127.0.0.1"
    return os.environ | {
        "NDIF_TEST": mark,  # by which its processes are known in the end
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(HERE),
        "HF_HUB_CACHE": str(RUN / "hub"),
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": address,
        "no_proxy": address,
        "OMP_NUM_THREADS": "1",
        "NDIF_TEST_KEYS": json.dumps({KEYS[TRUSTED]: ["trusted"], KEYS[SANDBOXED]: []}),
        "NDIF_SERVICE": "api",
        "NDIF_API_URL": f"http://{address}:{API}",
        "NDIF_REDIS_URL": f"redis://{address}:{REDIS}",
        "NDIF_OBJECT_STORE_URL": f"http://{address}:{STORE}",
        "NDIF_OBJECT_STORE_ACCESS_KEY": "any",
        "NDIF_OBJECT_STORE_SECRET_KEY": "any",
        "NDIF_RAY_ADDRESS": f"ray://{address}:{CLIENT}",
        "NDIF_DEFAULT_MODEL_ACTOR_CLASS": "actors.Model",
        "NDIF_CONTROLLER_IMPORT_PATH": "actors.Controller",
        "NDIF_DEFAULT_DTYPE": "float32",
        "NDIF_DEFAULT_PADDING_BIAS": "1000000",
        "NDIF_SANDBOX_POOL_SIZE": "1",
        "NDIF_MINIMUM_DEPLOYMENT_TIME_SECONDS": "0",
        "NDIF_QUEUE_FETCH_TIMEOUT_S": "1",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_AUTO_CONNECT": "0",  # a server without ray starts none of its own
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else it takes this machine's address
        "RAY_enable_metrics_collection": "0",
    }


def serve(mark, sockets, started):
    """Start everything, in the order in which one needs the other; what is started is noted."""
    env = environment(mark)

    def begin(name, *command, port=None):
        log = (RUN / f"{name}.log").open("w")
        process = subprocess.Popen(
            list(map(str, command)), env=env, cwd=RUN, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        if port:
            wait_for(name, lambda: is_open(port), process)
        return process

    here = "127.0.0.1"
    begin("redis", "redis-server", "--bind", here, "--port", REDIS, "--save", "", port=REDIS)
    begin("store", BIN / "moto_server", "-H", here, "-p", STORE, port=STORE)
    # The controller gives models to nodes with a GPU's memory alone.
    resources = {"head": 10, "cuda_memory_bytes": 8e9, "cpu_memory_bytes": 8e9}
    ports = dict(zip(("object-manager", "node-manager", "dashboard-agent-grpc", "metrics-export",
        "dashboard-agent-listen", "runtime-env-agent"), MORE, strict=False))  # fmt: skip
    ray = begin(
        "ray", BIN / "ray", "start", "--head", "--block", f"--node-ip-address={here}",
        f"--port={GCS}", f"--ray-client-server-port={CLIENT}", "--include-dashboard=true",
        f"--dashboard-host={here}", f"--dashboard-port={BOARD}", f"--temp-dir={sockets}",
        "--min-worker-port=18100", "--max-worker-port=18999", "--num-cpus=2", "--num-gpus=1",
        "--object-store-memory=150000000", f"--resources={json.dumps(resources)}",
        *(f"{'--' + name}-port={port}" for name, port in ports.items()), port=CLIENT,
    )  # fmt: skip
    log = RUN / "ray.log"
    wait_for("ray", lambda: "Ray runtime started" in log.read_text() and is_open(BOARD), ray)
    env |= {"RAY_ADDRESS": f"{here}:{GCS}"}
    begin("controller", BIN / "python", "-m", CONTROLLER).wait()
    del env["RAY_ADDRESS"]
    settings = "python:ndif.services.api.gunicorn_conf"
    api = begin("api", BIN / "gunicorn", "-c", settings, "-b", f"{here}:{API}", "api:app")
    wait_for("api", is_connected, api)


CONTROLLER = "ndif.services.ray.deployments.controller.controller"


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_connected():
    if not is_open(API):
        return False
    with socket.create_connection(("127.0.0.1", API)) as one:
        one.sendall(b"GET /connected HTTP/1.0\r\n\r\n")
        return b" 200 " in one.recv(100)


def wait_for(name, there, process, seconds=120):
    end = time.monotonic() + seconds
    while not there():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{name} did not start; see {RUN / name}.log")
        time.sleep(0.2)


def fill(hub):
    """The models of the tests in a cache of the hub, weights and all."""
    folder = RUN / "models"
    save_models(folder)
    for name in (*ARCHITECTURES, HALF, UNCAPPED):
        shutil.copytree(folder / "tiny" / name, snapshot(hub, name))


def stop(mark, started):
    """End all processes that were started, and those that carry the mark: ray's are its children's.

    redis-server writes its title over its environment, and the mark.
    """
    for process in reversed(started):
        process.terminate()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        end = time.monotonic() + 10
        while time.monotonic() < end and (
            processes(mark) or any(p.poll() is None for p in started)
        ):
            time.sleep(0.2)
    for process in started:
        process.kill()
        process.wait()


def processes(mark):
    """Ids of the server's processes."""
    found, setting = [], f"NDIF_TEST={mark}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if setting in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(int(pid))
    return found


def main(command):
    if not shutil.which("redis-server"):
        raise SystemExit("the server needs redis-server: install the Debian package of that name")
    if taken := [port for port in (API, STORE, REDIS, GCS, CLIENT, BOARD, *MORE) if is_open(port)]:
        raise SystemExit(f"the server needs ports that are taken: {taken}")
    shutil.rmtree(RUN, ignore_errors=True)
    fill(RUN / "hub")
    mark = f"{os.getpid()}-{time.time():.0f}"
    start = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = []
    with tempfile.TemporaryDirectory(prefix="ndif-", ignore_cleanup_errors=True) as sockets:
        try:
            serve(mark, sockets, started)
            print(f"the server runs after {time.monotonic() - start:.0f} s", flush=True)
            env = os.environ | {"NDIF_SERVER": f"http://127.0.0.1:{API}"}
            return subprocess.run(command, env=env).returncode
        finally:
            stop(mark, started)


if __name__ == "__main__":
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    sys.exit(main(sys.argv[1:]))
