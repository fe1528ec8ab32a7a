"""NDIF's controller and model actor where there is no GPU and no hub, through its own seams.

NDIF_DEFAULT_MODEL_ACTOR_CLASS=actors.Model and NDIF_CONTROLLER_IMPORT_PATH=actors.Controller name
them. None of ndif's files is changed. What differs from its own:

- weights are loaded on the CPU, and nothing is synchronized with a GPU afterwards;
- runners, too, look for a model's configuration in the cache alone;
- a checkpoint's size is not asked of the hub. (ndif 0.1.2 asks in a way that nnsight 0.8.1 does not
  know, so that the first request for any model fails.)
"""

import ray
import torch
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.sandbox import host
from ndif.services.ray.sandbox.model import SandboxModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import CheckpointInfo, Remotable

torch.cuda.synchronize = lambda *_: None
host.RUNNER_ENV += ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "NDIF_TEST")


def describe(key, *_, **__):
    """A small model that is there, or the error that says it is not."""
    model = Remotable.from_model_key(key)
    if model.repo_id.endswith("/nowhere"):  # of whose files a cache has the configuration alone
        raise OSError(f"{model.repo_id} is not a valid model identifier")
    return CheckpointInfo(size_bytes=1_000_000, config=model._module.config)


Remotable.describe_checkpoint = staticmethod(describe)
Remotable.max_tp_size = staticmethod(lambda *_, **__: None)


class OnCPU(SandboxModelDeployment):
    def load_from_disk(self):
        torch.set_num_threads(1)
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        return model


class HereToo(_ControllerActor):
    """Of this module, so that the actor's process imports it: ray ships the actor by value."""


@ray.remote(num_cpus=0, max_restarts=-1)
class Model(OnCPU):
    pass


@ray.remote(num_cpus=0, num_gpus=0, max_restarts=-1, resources={"head": 1})
class Controller(HereToo):
    pass
