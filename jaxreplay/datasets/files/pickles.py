"""Pickled trajectories, without running anything: only NumPy's arrays and plain containers are made of a pickle.

What a pickle says of an array is kept as words until all is read, then checked, and the array made here. So neither a
class nor a function that the pickle names is ever called, and a pickle that names any other is refused by that name.
"""

import dataclasses
import io
import math
import pathlib
import pickle
import sys
from typing import Any, ClassVar

import numpy as np

from jaxreplay.datasets.files import imitation
from jaxreplay.datasets.files.values import EXTENDED
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store, make_store
from jaxreplay.datasets.trajectory import Trajectory

FIELDS = ("observations", "actions", "rewards", "terminated", "truncated", "extras", "infos", "episode_data")
MAKERS = {
    ("jaxreplay.datasets.trajectory", "Trajectory"): "record",
    ("imitation.data.types", "Trajectory"): "record",
    ("imitation.data.types", "TrajectoryWithRew"): "record",
    ("numpy._core.multiarray", "_reconstruct"): "_reconstruct",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy._core.numeric", "_frombuffer"): "_frombuffer",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("collections", "OrderedDict"): "dict",
    ("_codecs", "encode"): "encode",
    **{(module, name): name for module in ("builtins", "__builtin__") for name in ("bytes", "object")},
    **{(module, "_reconstructor"): "_reconstructor" for module in ("copyreg", "copy_reg")},
}
"""The classes and functions that a pickle may name, and what stands for each."""


def is_pickle(start: bytes, path: pathlib.Path) -> bool:
    """Tell whether a file begins as pickles of protocol 2 on; older ones, alike to text, go by their ending."""
    return (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05") or path.suffix in (".pkl", ".pickle")


def read(path: pathlib.Path) -> tuple[Store, Report]:
    """Read a trajectory, or a list or tuple of them: dicts or objects with our fields, or with `imitation`'s."""
    value = load(path)
    values = value if isinstance(value, list | tuple) else [value]
    return make_store(_trajectory(i, each) for i, each in enumerate(values)), Report()


def _trajectory(i: int, value: Any) -> Trajectory:
    if isinstance(value, dict) and {"observations", "actions"} <= value.keys() <= set(FIELDS):
        return Trajectory(**value)
    if isinstance(value, dict) and {"obs", "acts", "terminal"} <= value.keys():
        return imitation.trajectory_of(value)
    came, hint = type(value).__name__, ""
    if isinstance(value, dict):
        came = f"a dict of {', '.join(map(str, value))[:100] or 'nothing'}"
        inside = any(isinstance(inner, dict) and inner.keys() & {"observations", "obs"} for inner in value.values())
        hint = "; of a dict of episodes, pickle the list of its values" if inside else ""
    raise ValueError(
        f"trajectories.{i}: expected a dict or object with observations, actions, and any of {', '.join(FIELDS[2:])}; "
        f"or with imitation's obs, acts and terminal; got {came}{hint}"
    )


def load(path: pathlib.Path) -> Any:
    """Read the containers and arrays of a pickle. Raises `pickle.UnpicklingError` naming what else it holds."""
    with path.open("rb") as file:
        data = io.BytesIO(file.read())
    size = data.getbuffer().nbytes
    return _finish(_Reader(data).load(), _Done(left=size, text_left=size))


@dataclasses.dataclass
class _Done:
    """What was finished, by id, with what it was made of, so that no other gets that id; and how many bytes of arrays,
    and of bytes written as text, the file may still hold: one that says the same many times is not made larger."""

    left: int
    text_left: int
    values: dict[int, tuple[Any, Any]] = dataclasses.field(default_factory=dict)


class _Words:
    """What a pickle says of an array, a dtype or an object: the arguments it is made with, and its state."""

    def __init__(self, kind: str, args: Any) -> None:
        self.kind, self.args, self.state = kind, args, None


class _Maker:
    """What stands for a class or function that a pickle may name; calling it only keeps the arguments."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, *args: Any) -> Any:
        if self.kind != "dict":
            return _Words(self.kind, args)
        if args:  # each call would copy them; what an OrderedDict holds comes after it is made
            raise pickle.UnpicklingError("it holds an OrderedDict made of another container")
        return {}


# The reader written in Python: the one in C believes what a pickle says of sizes, and allocates as much. It is private
# to CPython, so its tests are run on each new version of Python.
class _Reader(pickle._Unpickler):  # type: ignore[name-defined]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if module == "ml_dtypes" and name in EXTENDED:
            return _Words("dtype", (name,))
        kind = MAKERS.get((module.replace("numpy.core", "numpy._core"), name))
        if kind is None:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, and only arrays and plain containers are read")
        return _Maker(kind)

    def _bytearray(self) -> None:
        length = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        raw = self.read(min(length, sys.maxsize))  # type: ignore[attr-defined]
        if len(raw) < length:
            raise pickle.UnpicklingError(f"it says that {length} bytes follow, and there are {len(raw)}")
        self.stack.append(bytearray(raw))

    def _build(self) -> None:
        state = self.stack.pop()
        words = self.stack[-1]
        if not isinstance(words, _Words):
            raise pickle.UnpicklingError("it sets the state of what has none")
        words.state = state

    def _new(self) -> None:
        args = self.stack.pop()
        maker = self.stack.pop()
        if not isinstance(maker, _Maker) or not isinstance(args, tuple):
            raise pickle.UnpicklingError("it makes an object of what is no class")
        self.stack.append(maker(*args))

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it holds an object of a kind that is not read")

    # Of all opcodes with a length, the only one that takes memory before it reads; the rest read what there is.
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.REDUCE[0]] = _new
    dispatch[pickle.NEWOBJ[0]] = _new
    for _code in (pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID):
        dispatch[_code[0]] = _refuse
    dispatch[pickle.BINPERSID[0]] = _refuse
    dispatch[pickle.NEXT_BUFFER[0]] = _refuse


def _finish(value: Any, done: _Done) -> Any:
    """Make arrays of words, in containers of any depth; what is there twice is made once."""
    if id(value) in done.values:
        return done.values[id(value)][1]
    out = value
    if isinstance(value, dict):
        out = {_finish(k, done): _finish(x, done) for k, x in value.items()}
    elif isinstance(value, list):
        out = [_finish(x, done) for x in value]
    elif isinstance(value, tuple):
        out = tuple(_finish(x, done) for x in value)
    elif isinstance(value, set | frozenset):
        raise pickle.UnpicklingError("it holds a set, and a trajectory has none")
    elif isinstance(value, _Words):
        out = _make(value, done)
    elif isinstance(value, _Maker):
        raise pickle.UnpicklingError(f"it holds a class or function ({value.kind}) where data are expected")
    done.values[id(value)] = (value, out)
    return out


def _make(words: _Words, done: _Done) -> Any:
    if words.kind == "record":
        if not isinstance(words.state, dict) or words.args:
            raise pickle.UnpicklingError("it holds a trajectory without fields")
        return _finish(words.state, done)
    if words.kind == "_reconstructor":  # how objects are written by protocols 0 and 1
        made = _Words(words.args[0].kind, ())
        made.state = words.state
        return _make(made, done)
    if words.kind == "bytes" and not words.args:
        return b""
    if words.kind == "encode":  # how bytes are written by protocols that had none
        text, codec = words.args
        done.text_left -= len(text)
        if done.text_left < 0:
            raise pickle.UnpicklingError("its bytes are more than the file's")
        return text.encode("latin1" if codec == "latin1" else "ascii")
    if words.kind == "_reconstruct":
        return _array_of_state(words.state, done)
    if words.kind == "_frombuffer":
        raw, dtype, shape, order = words.args
        return _array(_finish(raw, done), dtype, shape, order == "F", done)
    if words.kind == "scalar":
        dtype, raw = words.args
        return _array(_finish(raw, done), dtype, (), False, done)[()]
    raise pickle.UnpicklingError(f"it holds a {words.kind} where data are expected")


def _array_of_state(state: Any, done: _Done) -> np.ndarray:
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise pickle.UnpicklingError("it holds an array without a state")
    shape, dtype, fortran, raw = state[-4:]
    if isinstance(raw, list):  # of objects, as an array of infos is
        if not isinstance(dtype, _Words) or dtype.kind != "dtype" or dtype.args[:1] != ("O8",) or shape != (len(raw),):
            raise pickle.UnpicklingError("it holds an array of objects that is no list")
        out = np.empty(len(raw), object)
        for i, value in enumerate(raw):
            out[i] = _finish(value, done)
        return out
    return _array(_finish(raw, done), dtype, shape, bool(fortran), done)


def _array(raw: Any, words: Any, shape: Any, fortran: bool, done: _Done) -> np.ndarray:
    dtype = _dtype(words)
    if not isinstance(raw, bytes | bytearray) or not isinstance(shape, tuple):
        raise pickle.UnpicklingError("it holds an array without bytes or shape")
    if len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise pickle.UnpicklingError(f"it holds an array of shape {str(shape)[:40]}")
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise pickle.UnpicklingError(f"it holds an array {dtype}{list(shape)} of {len(raw)} bytes")
    done.left -= len(raw)
    if done.left < 0:
        raise pickle.UnpicklingError("its arrays are larger than the file")
    array = np.frombuffer(bytearray(raw), dtype).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False)).reshape(shape)


def _dtype(words: Any) -> np.dtype:
    """Return the dtype that `numpy.dtype(name, ...)` with a state names, with its byte order."""
    if not isinstance(words, _Words) or words.kind != "dtype" or not words.args:
        raise pickle.UnpicklingError("it holds an array without a dtype")
    name = words.args[0]
    if isinstance(name, _Words):  # an extension's type, named by itself
        name = name.args[0]
    plain = isinstance(name, str) and name[:1] in "biufc" and len(name) < 5
    dtype = np.dtype(name) if plain else EXTENDED.get(name)
    if dtype is None:
        raise pickle.UnpicklingError(f"it holds an array of dtype {name!r}")
    order = words.state[1] if isinstance(words.state, tuple) and len(words.state) > 1 else "|"
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype
