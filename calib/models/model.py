"""An opened model: the traced module, where its parts are, and what is known of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch

from calib.models._gguf import GgufFile
from calib.models.ndif import Job
from calib.models.place import full_precision, memory_for

# Numbers that a called module may give at once: an unembedding's are those of a whole vocabulary.
MOST_NUMBERS = 2**25
# Largest difference of two ways to the same numbers, over the largest of them, by type.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


@dataclass(frozen=True, eq=False)  # two are the same only if they are one
class Model:
    """A model opened for reading; :func:`calib.open_model` makes one.

    Attributes
    ----------
    traced : nnsight.TransformersModel
        Everything nnsight offers stays available through it.
    tokenizer : transformers tokenizer
        A copy of its own, padding on the left.
    remote : bool
        Whether it runs on NDIF; its ``module`` then has no weights here.
    time_limit : float
        Most seconds that one traced pass of a remote model may take, the server's queue included.
    name, revision, architecture : str
        For provenance; ``revision`` is the hub's commit where there is one, of a remote model that
        of its configuration: the server tells none.
    file : GgufFile or None
        The GGUF file it was opened from: its name, SHA-256 and quantization.
    layers, norm, unembedding : str
        Paths of the parts inside ``traced``.
    n_layers, d_model, context : int
        Number of blocks, width of the residual stream, longest prompt in tokens.
    logit_scale, soft_cap : float or None
        What the model does to its logits after the unembedding.
    rope_switch : int or None
        Tokens beyond which a prompt is read with other rotary factors at *all* its positions
        (LongRoPE): such prompts share neither a batch nor a prefix with shorter ones.
    probe : tuple of int
        Token ids of a real question, to try things on.
    tuple_output : bool
        Whether a block returns a tuple whose first entry is the residual stream; found by running
        the model (``calib/models/proof.py``), as is all that follows.
    plain_head : bool
        Whether the unembedding is its weight and bias, so that single rows of it can be read.
    pads : bool
        Whether a prompt reads the same beside a longer one. In models that are not causal it does
        not, and only prompts of equal length share a batch.
    shares : bool
        Whether prompts of equal length may share a batch. Where activations are quantized as they
        run, they may not, and each is run by itself.
    dtype : torch.dtype
        Of the unembedding's weights, and so of the logits; residual streams may have another. Where
        the unembedding has to be called, that of the streams.
    """

    traced: Any
    tokenizer: Any
    remote: bool
    time_limit: float
    name: str
    revision: str
    architecture: str
    layers: str
    norm: str
    unembedding: str
    n_layers: int
    d_model: int
    context: int
    logit_scale: float | None
    soft_cap: float | None
    rope_switch: int | None
    probe: tuple[int, ...]
    tuple_output: bool | None = None
    plain_head: bool = True
    pads: bool = True
    shares: bool = True
    dtype: torch.dtype | None = None
    file: GgufFile | None = None
    _facts: dict = field(default_factory=dict, init=False, repr=False)

    @property
    def module(self) -> torch.nn.Module:
        """The model as transformers made it."""
        return self.traced._module

    @property
    def device(self) -> torch.device:
        """Where token ids have to be; a server moves them by itself."""
        if self.remote:
            return torch.device("cpu")
        return self.module.get_input_embeddings().weight.device

    @cached_property
    def spread(self) -> bool:
        """Whether its weights are spread over processes, all of which have to run every pass."""
        return any(hasattr(weight, "full_tensor") for weight in self.module.parameters())  # DTensor

    @cached_property
    def last_only(self) -> dict:
        """What has the model compute logits at the last position alone, where it can."""
        takes = inspect.signature(self.module.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @property
    def tolerance(self) -> float:
        """Largest difference that rounding may make in logits, over the largest of them."""
        return TOLERANCE[self.dtype]

    @property
    def vocabulary(self) -> int:
        """Tokens that the unembedding gives logits for."""
        return self.module.config.get_text_config().vocab_size

    @property
    def at_once(self) -> int:
        """How many vectors the unembedding takes at once where it has to be called."""
        return max(1, MOST_NUMBERS // self.vocabulary) if self.shares else 1

    def part(self, name: str) -> Any:
        """The traced ``layers`` (a list), ``norm`` or ``unembedding``, for use inside a trace."""
        part = attrgetter(getattr(self, name))(self.traced)
        # A list from the beginning: in a server's sandbox, layers do not know how many they are.
        return list(part) if name == "layers" else part

    def weights_of(self, name: str) -> torch.nn.Module:
        """The same part of the module itself, to be called or read outside any trace."""
        return attrgetter(getattr(self, name))(self.module)

    def require_weights(self, what: str) -> None:
        """Refuse a model whose weights are not all here; ValueError says what would take them.

        Parameters
        ----------
        what : str
            A clause: "its neurons are taken apart here".
        """
        if self.remote:
            raise ValueError(
                f"the weights of {self.name} are on the server, and {what}; open the model here"
            )
        if self.spread:
            raise ValueError(
                f"the weights of {self.name} are spread over processes, and this takes them whole; "
                'open the model without tensor_parallel, or with device="auto" on several GPUs'
            )

    def require_rows(self, what: str) -> None:
        """Refuse, in the same way, an unembedding that cannot be read row by row."""
        self.require_weights(what)
        if not self.plain_head:
            kind = type(self.weights_of("unembedding")).__name__
            raise ValueError(
                f"{self.unembedding} of {self.name} is a {kind}, no plain linear map, so its rows "
                f"cannot be read, and {what}; open the model without what wraps or quantizes it"
            )

    def check_ids(self, prompts) -> None:
        """Refuse token ids that the model has no embedding for; ValueError names the token."""
        n_tokens = getattr(self.module.get_input_embeddings(), "num_embeddings", self.vocabulary)
        for number, ids in enumerate(prompts):
            largest = max(ids)
            if largest >= n_tokens:
                raise ValueError(
                    f"prompt {number} has the token {self.tokenizer.decode([largest])!r} of id "
                    f"{largest}, and {self.name} embeds {n_tokens} tokens; open it with its own "
                    "tokenizer, or call module.resize_token_embeddings(len(tokenizer))"
                )

    @contextmanager
    def running(self):
        """Evaluation mode and full precision, by one thread at a time; put back afterwards.

        Whatever a trainer, a caller's autocast or TF32 left on would change what is read.
        """
        way_out = "use fewer questions, prompts or tokens at once, or another device or dtype"
        memory = memory_for(f"what {self.name} is asked for on {self.device}", way_out)
        with memory, full_precision(self.device.type):
            training = [part for part in self.module.modules() if part.training]
            for part in training:
                part.training = False
            try:
                yield
            finally:
                for part in training:
                    part.training = True

    def fact(self, name, find: Callable[[], Any]) -> Any:
        """What is found by running the model, once; open it again where its module was changed."""
        if name not in self._facts:
            with self.running():
                self._facts[name] = find()
        return self._facts[name]

    def trace(self, **inputs) -> Any:
        """Trace one forward pass wherever the model runs: ``with model.trace(input_ids=ids):``.

        A remote model's block is shipped with the values it reads. They may be torch, numbers,
        tensors and parts, bound to local names before; ``model.x`` would ship this class, which
        the server does not have. What is saved comes back: ``.detach().cpu().clone()`` it, or all
        that it is a view of comes along.
        """
        backend = Job(self.traced, self.time_limit) if self.remote else None
        return self.traced.trace(**inputs, backend=backend)
