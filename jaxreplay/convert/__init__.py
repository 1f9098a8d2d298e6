"""To other libraries and back: PyTorch, Grain, Minari, `imitation`, Hugging Face and NumPy, imported when called."""

from jaxreplay.convert.grain import to_grain_source
from jaxreplay.convert.hugging_face import from_hugging_face, to_hugging_face
from jaxreplay.convert.imitation import from_imitation, to_imitation
from jaxreplay.convert.minari import from_minari, to_minari
from jaxreplay.convert.numpy import from_numpy, to_numpy
from jaxreplay.convert.torch import collate, from_torch, to_tensors, to_torch_dataset

__all__ = [
    "collate",
    "from_hugging_face",
    "from_imitation",
    "from_minari",
    "from_numpy",
    "from_torch",
    "to_grain_source",
    "to_hugging_face",
    "to_imitation",
    "to_minari",
    "to_numpy",
    "to_tensors",
    "to_torch_dataset",
]
