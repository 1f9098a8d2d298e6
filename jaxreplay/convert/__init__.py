"""To other libraries and back: PyTorch, Grain, Minari, `imitation`, Hugging Face and NumPy, imported when called."""

from jaxreplay.convert.grain_source import to_grain_source
from jaxreplay.convert.hugging_face import from_hugging_face, to_hugging_face
from jaxreplay.convert.imitation_types import from_imitation, to_imitation
from jaxreplay.convert.minari_data import from_minari, to_minari
from jaxreplay.convert.numpy_arrays import from_numpy, to_numpy
from jaxreplay.convert.pytorch import collate, to_torch_dataset
from jaxreplay.convert.tensors import to_tensors

__all__ = [
    "collate",
    "from_hugging_face",
    "from_imitation",
    "from_minari",
    "from_numpy",
    "to_grain_source",
    "to_hugging_face",
    "to_imitation",
    "to_minari",
    "to_numpy",
    "to_tensors",
    "to_torch_dataset",
]
