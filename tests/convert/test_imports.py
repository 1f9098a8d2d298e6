"""Other libraries are imported when they are needed, and asked for by the name of their extra when they are missing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from jaxreplay import convert
from tests.convert.streams import random_dataset

LIBRARIES = ("torch", "grain", "minari", "h5py", "imitation", "datasets", "gymnasium", "pyarrow")
CALLS: dict[str, tuple[str, str, Any]] = {
    "to_torch_dataset": ("torch", "torch", lambda x: convert.to_torch_dataset(x)),
    "collate": ("torch", "torch", lambda x: convert.collate([{}])),
    "to_tensors": ("torch", "torch", lambda x: convert.to_tensors({})),
    "to_grain_source": ("grain", "grain", lambda x: convert.to_grain_source(x)),
    "to_minari": ("minari", "minari", lambda x: convert.to_minari(x, "tests/none-v0")),
    "from_minari": ("minari", "minari", lambda x: convert.from_minari("tests/none-v0")),
    "to_imitation": ("imitation.data.types", "imitation", lambda x: convert.to_imitation(x)),
    "to_hugging_face": ("datasets", "huggingface", lambda x: convert.to_hugging_face(x)),
    "from_hugging_face": ("datasets", "huggingface", lambda x: convert.from_hugging_face(x)),
}


def test_importing_the_converters_imports_none_of_the_libraries() -> None:
    code = f"import sys, jaxreplay.convert; print([x for x in {LIBRARIES} if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", CALLS)
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, extra, call = CALLS[name]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{name} needs .*: pip install 'jaxreplay\[{extra}\]'"):
        call(random_dataset(0))
