"""What is installed imports, knows its version, and uses each extra, or names the one that is missing.

`.ci/release` runs it where no import finds the repository.
"""

import contextlib
import importlib.metadata
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay
from jaxreplay import convert, datasets, record, storage


def write_store(source: datasets.Dataset) -> None:
    """Write a compressed store and read it."""
    with storage.Writer("compressed", compress={"observation": "zarr3"}) as writer:
        writer.extend(source)
    assert datasets.Dataset.open("compressed", verify=True).equals(source)


EXTRAS = {  # the library that is imported at a call, the extra that brings it, and the call
    "torch": ("torch", lambda source: convert.to_torch_dataset(source)),
    "grain": ("grain", lambda source: convert.to_grain_source(source)),
    "minari": ("minari", lambda source: convert.to_minari(source, "cartpole/test-v0", path="minari")),
    "datasets": ("huggingface", lambda source: convert.to_hugging_face(source)),
    "imitation": ("imitation", lambda source: convert.to_imitation(source)),
    "tensorstore": ("tensorstore", write_store),
}


def refusal(call: Callable[[Any], Any], source: datasets.Dataset) -> str:
    """Give what a call says where its library is missing."""
    try:
        call(source)
    except ImportError as error:
        return str(error)
    return "its library is missing, and nothing was raised"


def main() -> None:
    root = pathlib.Path(replay.__file__).parent
    assert "site-packages" in root.parts, root
    assert importlib.metadata.version("jaxreplay") == replay.__version__
    assert (root / "py.typed").exists()
    steps = datasets.Trajectory(np.zeros((4, 2), "f4"), np.zeros(3, "i4"), np.ones(3, "f4"), terminated=True)
    source = datasets.Dataset([steps])
    batch = replay.sample(source.to_buffer(), jax.random.key(0), 8, replay.views.n_step(2, 0.99))
    assert batch.data.reward.dtype == jnp.float32
    assert batch.mask.all()
    source.save("episodes.npz")
    assert datasets.Dataset.load("episodes.npz").equals(source)
    for library, (extra, call) in EXTRAS.items():
        if importlib.util.find_spec(library):
            call(source)
            print(f"{extra}: used")
        else:
            said = refusal(call, source)
            assert f"[{extra}]" in said, said
            print(f"{extra}: {said}")
    for library in ("h5py", "pyarrow", "zarr", "PIL", "av", "gymnasium", "jaxreplay.plot"):
        importlib.import_module(library)
    assert all(hasattr(record, name) for name in record.__all__)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        main()
