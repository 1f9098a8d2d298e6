"""A block of steps on the host: preallocated arrays, a row a slice, on their way into the buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay.record.transitions.columns import Column, flattener
from jaxreplay.record.transitions.infos import final_observation, info_paths, look_up
from jaxreplay.types import PyTree

BLOCK_BYTES, LONGEST_BLOCK = 2**23, 256


class Staging:
    """Rows of `Transition` steps, of one env (`lead` `()`) or of E (`(E,)`).

    Row `count` is the next to be staged; rows before `written` were handed on. A row that was handed on is never
    changed or used again, because JAX may read it later. Row `count` of the observation is where the envs are now.
    """

    def __init__(self, layout: Layout, lead: tuple[int, ...], block: int | None, leave_out: Sequence[str] = ()) -> None:
        self.layout, self.lead, self.block = layout, lead, _block_length(layout.leaves, lead, block)
        self.count = self.written = 0
        self.mask = np.ones((self.block, *lead), np.bool_)
        self.columns: list[Column] = []
        for leaf in layout.leaves:
            if trees.is_key_dtype(leaf.dtype):
                raise TypeError(f"{leaf.path}: PRNG keys cannot be recorded from an environment; store their key data")
            rows = self.block + trees.is_below(leaf.path, "observation")
            self.columns.append(Column(leaf.path, rows, (*lead, *leaf.shape), leaf.dtype))
        example = jax.tree.unflatten(layout.treedef, list(range(len(layout.leaves))))

        def below(part: PyTree) -> list[Column]:
            return [self.columns[i] for i in jax.tree.leaves(part)]

        self.observation, self.action = below(example.observation), below(example.action)
        self.next_observation = below(example.next_observation)
        self.reward, self.terminated, self.truncated = (
            below(part)[0] for part in (example.reward, example.terminated, example.truncated)
        )
        self.extras = list(zip(info_paths(example.extras), below(example.extras), strict=True))
        left = [f"observation.{path}" for path in leave_out]
        self.flatten_observation = flattener("observation", example.observation, left)
        self.flatten_action = flattener("action", example.action)

    def put_action(self, action: Any) -> None:
        for column, leaf in zip(self.action, self.flatten_action(action), strict=True):
            column.put(self.count, leaf)

    def put_answer(self, observation: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Put what a step led to."""
        row = self.count
        for now, following, leaf in zip(
            self.observation, self.next_observation, self.flatten_observation(observation), strict=True
        ):
            now.put(row + 1, leaf)
            following.put(row, leaf)
        self.reward.put(row, reward)
        self.terminated.put(row, terminated)
        self.truncated.put(row, truncated)

    def put_start(self, observation: Any, envs: np.ndarray) -> None:
        """Put the first observation of the marked envs' episodes, `envs` in the shape of a flag."""
        for column, leaf in zip(self.observation, self.flatten_observation(observation), strict=True):
            kept = None if envs.all() else column.array[self.count].copy()
            column.put(self.count, leaf)
            if kept is not None:
                column.array[self.count][~envs] = kept[~envs]

    def put_finals(self, ended: np.ndarray, info: Mapping[str, Any]) -> None:
        """Put the final observations of envs that were reset within the step."""
        for env in map(int, np.flatnonzero(ended)):
            leaves = self.flatten_observation(final_observation(info, env))
            for column, leaf in zip(self.next_observation, leaves, strict=True):
                column.put_at(self.count, env, leaf)

    def put_extras(self, valid: np.ndarray, replaced: np.ndarray | None, info: Mapping[str, Any]) -> None:
        """Put the fields of the step's info; of envs reset within the step, those of `info["final_info"]`."""
        now = valid if replaced is None else valid & ~replaced
        for names, column in self.extras:
            if now.any():
                column.put(self.count, look_up(info, names, now))
            if replaced is not None:
                final = look_up(info, ("final_info", *names), replaced)
                for env in map(int, np.flatnonzero(replaced)):
                    column.put_at(self.count, env, final[env])

    def hand_on(self, write: Callable[[PyTree, np.ndarray], None], lead: tuple[int, ...]) -> None:
        """Write what is staged: a whole block at once, a part of one in lengths that are powers of two.

        So the programs that are compiled are few, and the buffer is exactly as if every slice had been appended.
        lead: the axes of envs in the buffer.
        """
        for length in _lengths(self.count - self.written, self.block):
            rows = slice(self.written, self.written + length)
            leaves = [
                column.array[rows].reshape(length, *lead, *leaf.shape)
                for column, leaf in zip(self.columns, self.layout.leaves, strict=True)
            ]
            write(jax.tree.unflatten(self.layout.treedef, leaves), self.mask[rows].reshape(length, *lead))
            self.written += length

    def begin_block(self) -> None:
        """Go on in new arrays, where the envs are now."""
        now = [column.array[self.count] for column in self.observation]
        for column in self.columns:
            column.renew()
        for column, leaf in zip(self.observation, now, strict=True):
            column.array[0] = leaf
        self.mask = np.ones_like(self.mask)
        self.count = self.written = 0


def _block_length(leaves: Sequence[Any], lead: tuple[int, ...], block: int | None) -> int:
    if block is not None:
        return trees.check_count("block", block)
    slice_bytes = max(1, sum(leaf.num_bytes for leaf in leaves) * (lead[0] if lead else 1))
    return 2 ** max(0, min(LONGEST_BLOCK, BLOCK_BYTES // slice_bytes).bit_length() - 1)


def _lengths(count: int, block: int) -> Iterator[int]:
    """Cut a count of slices, at most a block, into lengths that there is a program for."""
    if count == block:
        yield count
        return
    while count:
        yield (length := 1 << (count.bit_length() - 1))
        count -= length
