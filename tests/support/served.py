"""What the tests of NDIF share with the servers they run against: keys, models, NDIF's package."""

import json
import subprocess
import sys
import zipfile

import torch
from support.architectures import TOKENIZER, random_module
from support.book import ROOT
from transformers import AutoConfig

ARCHITECTURES = ["llama", "gpt2", "gemma2", "bloom"]
HALF = "llama-half"  # in bfloat16
UNCAPPED = "gemma2-uncapped"  # whose configuration on the hub does not tell of a cap
NOWHERE = "nowhere"  # which no server has

# Where a key's blocks run. In a sandbox the weights are not there: a part of the model is a module
# on the meta device or, if a server's runner cannot build one, nothing at all.
TRUSTED, SANDBOXED, BARE = "next to the weights", "in the sandbox", "in the sandbox, without parts"
KEYS = {
    TRUSTED: "b2f6c1d8-5e07-4c39-9a64-d7e813f0a5c2",
    SANDBOXED: "0c9e47ab-31f5-4d82-86be-5a7f20d96e13",
    BARE: "e5730b1f-a8c4-49d6-b02e-94f16c8d7ba0",
}
WHEEL = ROOT / "tests" / "environments" / "ndif" / "wheel.txt"
HERE = ROOT / "_build" / "ndif"


def save_models(folder):
    """The models ``tiny/…``, as a server holds them, in ``folder/owner/name``."""
    modules = {name: random_module(name) for name in ARCHITECTURES}
    modules[HALF] = random_module("llama").to(torch.bfloat16)
    modules[UNCAPPED] = modules["gemma2"]
    for name, module in modules.items():
        module.save_pretrained(folder / "tiny" / name)
        TOKENIZER.save_pretrained(folder / "tiny" / name)


def snapshot(hub, name):
    """The folder in which a cache of the hub keeps the files of ``tiny/name``."""
    cached = hub / f"models--tiny--{name}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    return cached / "snapshots" / ("0" * 40)


def cache_configurations(folder, hub):
    """A cache of the hub, as downloads leave it, with configurations and tokenizers alone."""
    for name in [*ARCHITECTURES, HALF, UNCAPPED, NOWHERE]:
        known = folder / "tiny" / (name if name != NOWHERE else "llama")
        files = snapshot(hub, name)
        AutoConfig.from_pretrained(known).save_pretrained(files)
        TOKENIZER.save_pretrained(files)
        if name == UNCAPPED:
            about = files / "config.json"
            told = json.loads(about.read_text()) | {"final_logit_softcapping": None}
            about.write_text(json.dumps(told))


def unzipped():
    """The folder of NDIF's package, known by its digest and fetched once; OSError says why not."""
    version = WHEEL.read_text(encoding="utf-8").partition("ndif==")[2].split()[0]
    folder = HERE / f"ndif-{version}"
    if not folder.exists():
        # It asks for Python 3.12, and its sandbox needs nothing that 3.11 lacks.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
        command += ["--only-binary=:all:", "--python-version=3.12", "--require-hashes"]
        command += ["--dest", str(HERE), "--requirement", str(WHEEL)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise OSError(f"NDIF's package cannot be had: {last}")
        (wheel,) = HERE.glob(f"ndif-{version}-*.whl")
        part = HERE / f"ndif-{version}.part"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
        part.rename(folder)
    return folder
