"""Blocks of steps that wait to be sorted by episode and written, with what is said of their episodes afterwards."""

from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.storage import streams
from jaxreplay.storage.growing import Pieces
from jaxreplay.storage.manifest import TRUNCATED
from jaxreplay.storage.streams import Block, Streams
from jaxreplay.storage.structure import Structure, to_host
from jaxreplay.storage.texts import encode, index_of, store_rows
from jaxreplay.types import PyTree, Transition

OF_STEP = {"observations": "observation", "actions": "action", "rewards": "reward", "extras": "extras"}


def parts_of(step: Transition) -> dict[str, Any]:
    """Give the parts of steps by their names in a `Trajectory`."""
    parts: dict[str, Any] = {part: getattr(step, name) for part, name in OF_STEP.items()}
    return parts | ({} if jax.tree.leaves(parts["extras"]) else {"extras": None})


class Blocks:
    """The blocks that wait, of E envs or of a single stream."""

    def __init__(self, structure: Structure, num_envs: int, single: bool) -> None:
        self.structure, self.num_envs, self.single = structure, num_envs, single
        self.streams, self.waiting = Streams(num_envs), list[Block]()
        self.flags: dict[int, int] = {}  # by the number of an episode, of which it was said after its steps
        self.data: dict[int, np.ndarray] = {}

    @property
    def num_bytes(self) -> int:
        return sum(block.num_bytes for block in self.waiting)

    @property
    def num_rows(self) -> int:
        return sum(block.number.size for block in self.waiting)

    @property
    def num_steps(self) -> int:
        return sum(int((block.number >= 0).sum()) for block in self.waiting)

    def add(self, steps: Transition, mask: Any, first: int) -> int:
        """Take a block, see `Writer.extend`; its episodes are numbered from `first` on. Return the next number."""
        lead = 1 if self.single else 2
        shape = self._check_axes(steps, lead)
        leaves = self.structure.leaves(parts_of(steps), lead)
        following = self.structure.leaves(parts_of(steps) | {"observations": steps.next_observation}, lead)
        grid = shape[0], self.num_envs
        as_block = lambda leaf: _copy(to_host(leaf), lead, grid)  # noqa: E731
        flags = [as_block(_flag(name, getattr(steps, name), shape)) for name in ("terminated", "truncated")]
        valid = np.ones(grid, np.bool_) if mask is None else as_block(_flag("mask", mask, shape))
        columns = {name: as_block(leaf) for name, leaf in leaves.items()}
        after = {name: as_block(leaf) for name, leaf in following.items() if name.startswith("observations")}
        numbers, following_number = self.streams.number(valid, flags[0] | flags[1], first)
        if len(numbers):
            self.waiting.append(Block(columns, after, flags[0], flags[1], numbers))
        return following_number

    def _check_axes(self, steps: Transition, lead: int) -> tuple[int, ...]:
        named = trees.paths(steps)
        shape = trees.shape_dtype(*named[0])[0][:lead]
        for path, leaf in named:
            came = trees.shape_dtype(path, leaf)[0]
            if came[:lead] != shape or len(came) < lead or (not self.single and came[1] != self.num_envs):
                axes = "[L]" if self.single else f"[L, E = {self.num_envs}]"
                raise ValueError(f"extend: {path}: expected {axes} first, the same L in all, got {list(came)}")
        return shape

    def end_episodes(self, mask: Any) -> None:
        """End the open episodes of the envs in a mask as truncated; see `Writer.end_episodes`."""
        chosen = np.ones(self.num_envs, np.bool_)
        if mask is not None:
            chosen = np.array(_flag("mask", mask, () if self.single else (self.num_envs,))).reshape(self.num_envs)
        for env in np.flatnonzero(chosen & (self.streams.open >= 0)).tolist():
            self.flags[int(self.streams.open[env])] = TRUNCATED
            self.streams.open[env] = -1

    def set_data(self, envs: list[int], behind: list[int], data: PyTree) -> None:
        """Set data of episodes; see `Writer.set_episode_data`."""
        host = jax.tree.map(to_host, data)
        for i, (env, later) in enumerate(zip(envs, behind, strict=True)):
            number = self.streams.find(env, later) if 0 <= env < self.num_envs else -1
            if number >= 0:
                text = encode("episode_data", jax.tree.map(lambda x, i=i: x[i, ...], host))
                assert text is not None
                self.data[number] = text
        self.streams.forget()

    def take(self) -> Pieces | None:
        """Give what waits as pieces, and forget it. What is said of an episode that was written is a piece too."""
        files: dict[str, list[np.ndarray]] = {}
        episode, steps, flags = (np.empty(0, np.int64) for _ in range(3))
        if self.waiting:
            found = streams.sort_blocks(self.waiting)
            episode, steps, flags = found.episode, found.steps, found.flags
            files = store_rows(self.structure, found.columns) if len(episode) else {}
        late = sorted((self.flags.keys() | self.data) - set(episode.tolist()))
        numbers = [*episode.tolist(), *late]
        texts = [self.data.get(number) for number in numbers]
        sizes = [0 if text is None else len(text) for text in texts]
        said = np.array([self.flags.get(number, 0) for number in numbers], np.int64)
        files["episode_data"] = [text for text in texts if text is not None]
        self.waiting, self.flags, self.data = [], {}, {}
        if not numbers:
            return None
        none = np.zeros(len(late), np.int64)
        return Pieces(index_of(numbers, np.append(steps, none), np.append(flags, none) | said, 0, sizes), files)


def _flag(name: str, flag: Any, shape: tuple[int, ...]) -> Any:
    trees.check_leaf(name, flag, shape, np.dtype(bool), "(A bool for each step.)")
    return flag


def _copy(leaf: np.ndarray, lead: int, grid: tuple[int, ...]) -> np.ndarray:
    return np.array(leaf).reshape(*grid, *leaf.shape[lead:])
