"""Who answers: decoder-only models, opened through nnsight and proved to be read rightly."""

from calib.models._gguf import GgufFile
from calib.models.logit_lens import lens
from calib.models.model import Model
from calib.models.ndif import RemoteError
from calib.models.open import open_model

__all__ = ["GgufFile", "Model", "RemoteError", "lens", "open_model"]
