"""Blocks of steps of many envs, sorted by episode: each env's steps go on where its last block ended."""

from typing import NamedTuple

import numpy as np

from jaxreplay.storage.manifest import TERMINATED, TRUNCATED


class Block(NamedTuple):
    """L steps of E envs: columns by name, `[L, E, ...]`, the observations after them, and the flags, `[L, E]` bool.

    number: `[L, E]` int64, the number of each step's episode, -1 where an env recorded nothing.
    """

    columns: dict[str, np.ndarray]
    following: dict[str, np.ndarray]
    terminated: np.ndarray
    truncated: np.ndarray
    number: np.ndarray

    @property
    def num_bytes(self) -> int:
        return sum(x.nbytes for x in self.columns.values())


class Sorted(NamedTuple):
    """The steps of blocks as P pieces, env by env: rows of each column, and for each piece its episode and flags."""

    columns: dict[str, np.ndarray]
    episode: np.ndarray
    steps: np.ndarray
    flags: np.ndarray


class Streams:
    """E envs. open: `[E]` int64, the number of the episode that goes on in each, -1 if none does. recent: those of each
    env that began, up to the newest, as far as their data may still come."""

    def __init__(self, num_envs: int) -> None:
        self.open = np.full(num_envs, -1, np.int64)
        self.recent: list[list[int]] = [[] for _ in range(num_envs)]

    def number(self, valid: np.ndarray, ended: np.ndarray, first: int) -> tuple[np.ndarray, int]:
        """Number the episodes of a block, `[L, E]`: from `first` on in order of their first steps. Say what comes next.

        valid, ended: `[L, E]` bool, where an env recorded a step, and where that was its episode's last. A step that
        was not recorded closes the episode before it.
        """
        if not len(valid):
            return np.empty(valid.shape, np.int64), first
        before = np.concatenate([(self.open >= 0)[None], (valid & ~ended)[:-1]])
        begins = valid & ~before
        numbers = np.where(begins, first - 1 + np.cumsum(begins.reshape(-1)).reshape(begins.shape), -1)
        numbers[0] = np.where(valid[0] & ~begins[0], self.open, numbers[0])
        numbers = np.where(valid, np.maximum.accumulate(numbers, axis=0), -1)
        self.open = np.where(valid[-1] & ~ended[-1], numbers[-1], -1)
        for at, env in zip(*np.nonzero(begins)):
            self.recent[env].append(int(numbers[at, env]))
        return numbers, first + int(begins.sum())

    def find(self, env: int, behind: int) -> int:
        """Give the number of the episode of an env that so many later ones of it came after; -1 if it is not known."""
        found = self.recent[env]
        return found[-1 - behind] if 0 <= behind < len(found) else -1

    def forget(self) -> None:
        """Forget all episodes but the newest of each env."""
        self.recent = [numbers[-1:] for numbers in self.recent]


def sort_blocks(blocks: list[Block]) -> Sorted:
    """Sort the steps of blocks, in order of time, by env and episode; observations get the ones after each piece."""
    joined = [np.concatenate(each) if len(blocks) > 1 else each[0] for each in zip(*(b[2:] for b in blocks))]
    terminated, truncated, number = joined
    length, num_envs = number.shape
    by_env = number.T.reshape(-1)
    kept = np.flatnonzero(by_env >= 0)
    row = (kept % length) * num_envs + kept // length  # in order of time, where the block has it
    episode = by_env[kept]
    first = np.flatnonzero(np.diff(episode, prepend=-1))
    steps = np.diff(np.append(first, len(episode)))
    last = row[first + steps - 1]
    own = np.arange(len(row)) + np.repeat(np.arange(len(first)), steps)  # rows among those of observations
    after = first + steps + np.arange(len(first))
    columns = {}
    for name in blocks[0].columns:
        of_steps = _flat([block.columns[name] for block in blocks])
        if name not in blocks[0].following:
            columns[name] = np.take(of_steps, row, axis=0)
            continue
        out = np.empty((len(row) + len(first), *of_steps.shape[1:]), of_steps.dtype)
        out[own] = of_steps[row]
        out[after] = _flat([block.following[name] for block in blocks])[last]
        columns[name] = out
    flags = TERMINATED * terminated.reshape(-1)[last] + TRUNCATED * truncated.reshape(-1)[last]
    return Sorted(columns, episode[first], steps, flags.astype(np.int64))


def _flat(each: list[np.ndarray]) -> np.ndarray:
    """Join `[L, E, ...]` along time, and make time and env one axis."""
    whole = np.concatenate(each) if len(each) > 1 else each[0]
    return whole.reshape(whole.shape[0] * whole.shape[1], *whole.shape[2:])
