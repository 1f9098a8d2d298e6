"""Action records as files: one an episode, data alone, written whole or not at all, and refused unless unaltered.

A file is an archive as `datasets.files.archive` writes it, so `numpy.load(path, allow_pickle=False)` reads it as well.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxreplay.datasets.files import archive, atomic, inside
from jaxreplay.datasets.files.values import pack, unpack
from jaxreplay.record.actions.record import FLAGS, ActionRecord, Environment, VectorActionRecord

KIND = "jaxreplay action record"
NUMBERED = re.compile(r"episode-(\d{9,})-[0-9a-f]{8}\.npz")
Record = ActionRecord | VectorActionRecord
PLAIN = {"seed": (int, type(None)), "terminated": (bool,), "truncated": (bool,), "not_replayable": (str,)}


def load_actions(path: str | os.PathLike[str]) -> Any:
    """Read an action record from a file, or a list of all in a directory, in the order in which they were recorded.

    Those of vector environments are `VectorActionRecord`, others `ActionRecord`.

    Of a directory the `.npz` files are read, and not what an interrupted write left behind: that is removed, with a
    warning, if its writer is dead. Nothing in a file is run.
    Raises ValueError naming the file where it is no whole, unaltered action record, or a link out of the directory.
    """
    path = pathlib.Path(path)
    atomic.remove_leftovers(path if path.is_dir() else path.parent)
    if not path.is_dir():
        return _load_file(path)
    files = sorted(file for file in path.glob("*.npz") if not file.name.startswith("."))
    for file in files:
        inside.check_entry(file, path)
    return [_load_file(file) for file in files]


def save_actions(record: Record, directory: str | os.PathLike[str]) -> str:
    """Write a record into a directory, made if need be, and return the new file's path.

    The file's name sorts behind those already there, which are left alone. It appears whole or not at all.
    Raises OSError naming the directory where it cannot be written.
    """
    return ActionDirectory(directory).write(record)


class ActionDirectory:
    """A directory, made if need be, that records are added to, each under a number above those already there."""

    def __init__(self, directory: str | os.PathLike[str]):
        self.path = os.path.abspath(directory)
        self._next_number, self._seen = 0, -1
        self._unwritten: list[Record] = []
        with self._naming("action records cannot be written to"):
            os.makedirs(self.path, exist_ok=True)
            with atomic.part_file(pathlib.Path(self.path, "probe")):
                pass
        atomic.remove_leftovers(self.path)

    def write_when_possible(self, *records: Record) -> None:
        """Write records, after those that could not be written before; what cannot be written is kept for next time."""
        self._unwritten += records
        while self._unwritten:
            self.write(self._unwritten[0])
            del self._unwritten[0]

    def write(self, record: Record) -> str:
        data = to_bytes(record)
        with self._naming("the action record was not written, and those before it are whole, in"):
            if os.stat(self.path).st_mtime_ns != self._seen:  # others write here too
                matches = map(NUMBERED.fullmatch, os.listdir(self.path))
                self._next_number = max([self._next_number, *(int(match[1]) + 1 for match in matches if match)])
            # A random word makes the name one that no other process writes to.
            path = pathlib.Path(self.path, f"episode-{self._next_number:09d}-{secrets.token_hex(4)}.npz")
            with atomic.new_file(path) as file:
                file.write(data)
            self._next_number += 1
            self._seen = os.stat(self.path).st_mtime_ns
        return str(path)

    @contextlib.contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise type(error)(error.errno, f"{error.strerror or error}: {what} {self.path}") from error


def to_bytes(record: Record) -> bytes:
    """Encode a record as the bytes of a file."""
    arrays: dict[str, np.ndarray] = {}
    stream = io.BytesIO()
    content = _encode("", record, arrays) if isinstance(record, ActionRecord) else _encode_vector(record, arrays)
    archive.write(stream, KIND, content, arrays)
    return stream.getvalue()


def _load_file(path: pathlib.Path) -> Record:
    data = path.read_bytes()
    try:
        return from_bytes(data)
    except Exception as error:  # whatever the content makes go wrong, the file is at fault
        raise ValueError(f"{path}: not a whole action record: {error}. Nothing was read from it.") from error


def from_bytes(data: bytes) -> Record:
    """Decode a record; raise some exception where the bytes are not those of one."""
    content, arrays = archive.read(io.BytesIO(data), KIND)
    record = _decode_vector(content, arrays) if "resets" in content else _decode("", content, arrays)
    if arrays:
        raise ValueError(f"it holds unknown arrays: {', '.join(arrays)}")
    return record


def _encode(prefix: str, record: ActionRecord, arrays: dict[str, np.ndarray]) -> Any:
    """Add the arrays of a record, and return the rest as JSON."""
    text = {
        "actions": pack(f"{prefix}actions", record.actions, arrays),
        "options": pack(f"{prefix}options", [record.options], arrays),
        **{name: getattr(record, name) for name in PLAIN},
        "environment": dataclasses.asdict(record.environment),
        "return": repr(record.episode_return),
        "base": None,
    }
    arrays[f"{prefix}rewards"] = record.rewards
    if record.base is not None and record.base_steps is not None:
        text["base"] = _encode(f"{prefix}base_", record.base, arrays)
        arrays[f"{prefix}base_steps"] = record.base_steps
    return text


def _decode(prefix: str, text: dict[str, Any], arrays: dict[str, np.ndarray]) -> ActionRecord:
    base, rewards = text["base"], arrays.pop(f"{prefix}rewards")
    (options,) = unpack(text["options"], arrays, 1)
    record = ActionRecord(
        actions=tuple(unpack(text["actions"], arrays, rewards.size)),
        rewards=rewards,
        **{name: _typed(text[name], *types) for name, types in PLAIN.items()},
        options=_typed(options, dict, type(None)),
        environment=_decode_environment(text["environment"]),
        base=None if base is None else _decode(f"{prefix}base_", base, arrays),
        base_steps=None if base is None else arrays.pop(f"{prefix}base_steps"),
    )
    if repr(record.episode_return) != text["return"]:
        raise ValueError(f"its rewards add up to {record.episode_return}, not to {text['return']}")
    return record


def _encode_vector(record: VectorActionRecord, arrays: dict[str, np.ndarray]) -> Any:
    text = {
        "actions": pack("actions", record.actions, arrays),
        "resets": pack("resets", [list(record.resets)], arrays),
        "environment": dataclasses.asdict(record.environment),
        "not_replayable": record.not_replayable,
    }
    arrays.update({name: getattr(record, name) for name in ("rewards", *FLAGS)})
    return text


def _decode_vector(text: dict[str, Any], arrays: dict[str, np.ndarray]) -> VectorActionRecord:
    rewards, flags = arrays.pop("rewards"), {name: arrays.pop(name) for name in FLAGS}
    (resets,) = unpack(text["resets"], arrays, 1)
    for reset in _typed(resets, list):
        _typed(_typed(reset, dict)["step"], int)
        _typed(reset["options"], dict, type(None))
        _typed(reset["seed"], int, list, type(None))
    return VectorActionRecord(
        actions=tuple(unpack(text["actions"], arrays, len(rewards))),
        rewards=rewards,
        **flags,
        resets=tuple(resets),
        environment=_decode_environment(text["environment"]),
        not_replayable=_typed(text["not_replayable"], str),
    )


def _decode_environment(text: dict[str, Any]) -> Environment:
    kwargs = {str(name): _typed(value, str) for name, value in text["kwargs"].items()}
    return Environment(
        kwargs=kwargs, **{x: _typed(text[x], str) for x in ("env_id", "action_space", "observation_space")}
    )


def _typed(value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise ValueError(f"expected {' or '.join(t.__name__ for t in types)}, got {value!r}")
    return value
