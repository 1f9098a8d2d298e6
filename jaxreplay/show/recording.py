"""What a page shows: episodes from anything that can be read, a data set or a record of actions."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay._display.panel import bytes_text
from jaxreplay._display.trajectories import end_of
from jaxreplay.datasets import select as choosing
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.files import archive
from jaxreplay.datasets.trajectory import PARTS
from jaxreplay.record.actions.files import KIND, load_actions
from jaxreplay.record.actions.record import ActionRecord, VectorActionRecord
from jaxreplay.storage.converting import is_store

Facts = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode: named arrays over its steps, `[T, ...]` or `[T + 1, ...]`, and what else there is to say of it."""

    leaves: dict[str, np.ndarray]
    infos: Sequence[dict[str, Any]] | None = None
    data: Any = None


@dataclasses.dataclass(frozen=True)
class Recording:
    """N episodes: what they are, `[N]` lengths, returns (None without rewards) and ends in words, and each by number.

    leaves: `(path, shape and dtype)` of a step.
    """

    kind: str
    facts: Facts
    leaves: Facts
    length: np.ndarray
    returns: np.ndarray | None
    end: Sequence[str]
    episode: Callable[[int], Episode]


def of_dataset(dataset: Dataset, kind: str = "data set") -> Recording:
    """Show a data set. Here its rewards are read; other arrays of an episode, when the page asks for it."""
    store = dataset._store
    table, chunks = store.table, store.chunks
    report = [] if dataset.report is None else str(dataset.report.left_out()).splitlines()[2:]
    columns = chunks[0].columns() if chunks else []

    def episode(i: int) -> Episode:
        found = dataset.episode(i)
        named = [pair for part in PARTS for pair in trees.paths({part: getattr(found, part)})]
        return Episode(dict(named), found.infos, found.episode_data)

    return Recording(
        kind=kind,
        facts=[("bytes", bytes_text(dataset.nbytes)), *(("report", line.strip()) for line in report)],
        leaves=[(path, trees.describe(x.shape[1:], x.dtype)) for path, x in columns],
        length=np.asarray(table.length),
        returns=choosing.returns(store, "show") if chunks and chunks[0].rewards is not None else None,
        end=[end_of(*flags) for flags in zip(table.terminated.tolist(), table.truncated.tolist())],
        episode=episode,
    )


def is_actions(path: pathlib.Path) -> bool:
    """Tell whether a file, or the first `.npz` file of a folder, is a record of actions."""
    if path.is_dir():
        files = sorted(file for file in path.glob("*.npz") if not file.name.startswith("."))
        return bool(files) and is_actions(files[0])
    try:
        if not archive.is_own(path):
            return False
        with zipfile.ZipFile(path) as file, file.open(archive.MANIFEST) as manifest:
            return manifest.read(64).startswith(f'{{"format": "{KIND}"'.encode())
    except (OSError, KeyError, zipfile.BadZipFile):
        return False


def of_actions(path: pathlib.Path) -> Recording:
    """Show a record of actions, or all of a folder; of vector environments, the episodes of each env one by one."""
    loaded = load_actions(path)
    records = loaded if isinstance(loaded, list) else [loaded]
    pieces = [piece for record in records for piece in _pieces(record)]
    ids = dict.fromkeys(record.env_id for record in records)
    spaces = dict.fromkeys(record.environment.action_space for record in records)
    replayable = sum(record.replayable for record in records)
    facts = [
        ("environment", ", ".join(ids)),
        ("action space", ", ".join(spaces)),
        ("records", f"{len(records):,}, of which {replayable:,} can be played again"),
    ]
    first = pieces[0].episode().leaves if pieces else {}
    return Recording(
        kind="action recording",
        facts=facts,
        leaves=[(path, trees.describe(x.shape[1:], x.dtype)) for path, x in first.items()],
        length=np.array([len(piece.rewards) for piece in pieces], np.int64),
        returns=np.array([float(piece.rewards.sum()) for piece in pieces]),
        end=[piece.end for piece in pieces],
        episode=lambda i: pieces[i].episode(),
    )


@dataclasses.dataclass(frozen=True)
class _Piece:
    """An episode of a record: its actions, its rewards, how it ended, and what it was reset with."""

    actions: Sequence[Any]
    rewards: np.ndarray
    end: str
    data: dict[str, Any]

    def episode(self) -> Episode:
        try:
            stacked = dict(trees.paths({"actions": jax.tree.map(lambda *x: np.stack(x), *self.actions)}))
        except (ValueError, TypeError):  # they differ in structure or shape
            stacked = {}
        numbers = {path: x for path, x in stacked.items() if x.dtype.kind in "biuf"}
        texts = None if numbers and len(numbers) == len(stacked) else [{"action": x} for x in self.actions]
        return Episode({"rewards": self.rewards, **numbers}, texts, self.data)


def _pieces(record: ActionRecord | VectorActionRecord) -> list[_Piece]:
    """Give the episodes of a record."""
    if isinstance(record, ActionRecord):
        found = {"seed": record.seed, "options": record.options, "not replayable": record.not_replayable}
        data = {name: value for name, value in found.items() if value not in (None, "")}
        return [_Piece(record.actions, record.rewards, record.end, data)] if len(record) else []
    pieces = []
    for env in range(record.rewards.shape[1]):
        steps = np.flatnonzero(record.taken[:, env])
        ended = (record.terminated | record.truncated)[steps, env]
        for piece in np.split(steps, np.flatnonzero(ended) + 1):
            if len(piece):
                last = piece[-1], env
                end = end_of(bool(record.terminated[last]), bool(record.truncated[last]))
                actions = [_of_env(record.actions[t], env) for t in piece]
                pieces.append(
                    _Piece(actions, record.rewards[piece, env], end, {"env": env, "first step": int(piece[0])})
                )
    return pieces


def _of_env(action: Any, env: int) -> Any:
    """Give the action of one env of a batch; the whole where it is no batch of arrays."""
    try:
        return jax.tree.map(lambda x: x[env], action)
    except (IndexError, KeyError, TypeError):
        return action


READERS: tuple[tuple[Callable[[pathlib.Path], bool], Callable[[pathlib.Path], Recording]], ...] = (
    (is_actions, of_actions),
    (is_store, lambda path: of_dataset(Dataset.open(path), "store")),
    (lambda path: True, lambda path: of_dataset(Dataset.load(path))),
)
"""`(is it this?, read it)`, tried in order: a new kind of file is one more line before the last."""


def read(path: pathlib.Path) -> Recording:
    """Read whatever a path holds. Raises FileNotFoundError, or ValueError naming what cannot be read."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    return next(read for is_it, read in READERS if is_it(path))(path)
