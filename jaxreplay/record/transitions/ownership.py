"""The keeper of a buffer that is written in place from the host, while others may hold what it handed out.

Writes donate the buffer, so nothing is copied, unless somebody still holds what was handed out: then the rings are
copied once. CPython's reference counts tell: a flag "handed out" would copy the rings at each step of a loop that
samples from `env.buffer`, and would not see who keeps one array out of a buffer.
"""

import contextlib
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxreplay._core.clock import slot_of_age
from jaxreplay._core.episode_numbers import number_limit
from jaxreplay._core.lookup import counts, own_word
from jaxreplay._core.rings import Rings
from jaxreplay._episodes import set_episode_data
from jaxreplay.buffer import extend
from jaxreplay.closing import end_episodes
from jaxreplay.inspection import stats
from jaxreplay.processes import over_mesh, own_part, whole_of
from jaxreplay.stacks import BUFFER, is_sharded, on_parts
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import PyTree, Rows

WARN_BYTES = 2**31  # copied in all before the user is told


def _set_data(buffer: Buffer, env: jax.Array, behind: jax.Array, data: PyTree) -> Buffer:
    """Set data of the episodes that are `behind` `[B]` before the newest of their `env` `[B]` (-1: of none)."""
    if buffer.stack is not None:
        one = lambda part, of, behind, data: _set_data(part, of.env, behind, data)  # noqa: E731
        return on_parts(one, buffer, (Rows(env, env), behind, data), (None,) * 3, BUFFER, each=True)
    number = buffer.rings.envs.number[jnp.maximum(env, 0)] - behind
    number += jnp.where(number < 0, number_limit(buffer.rings.num_records), 0)
    return set_episode_data(buffer, env, data, number)


EXTEND, CLOSE, SET_DATA = (jax.jit(write, donate_argnums=0) for write in (extend, end_episodes, _set_data))
ENVS_AXIS: dict[Any, int] = {EXTEND: 1, CLOSE: 0}  # of their arguments; those of SET_DATA have none


@jax.jit
def _still_open(new: Any, new_time: jax.Array, old: Any, old_time: jax.Array) -> jax.Array:
    """Tell which open episodes of a buffer are those that another had, and not of another stream; `[E]` bool.

    Of stacks of buffers everything has an axis more, of the buffers; of joined ones `[n * E]`, and their clocks `[n]`.
    """
    same_time = jnp.expand_dims(new_time == old_time, -1)
    if same_time.ndim > new.open.ndim:
        same_time = jnp.repeat(same_time[:, 0], new.open.shape[0] // same_time.shape[0])
    return new.open & old.open & (new.number == old.number) & (new.start == old.start) & same_time


@jax.jit
def count_lost(stored: Rings) -> jax.Array:
    """Count the held rows that lost their episode's record, an int32 scalar: `stats(buffer).lost`, by few reads."""
    held = jnp.maximum(stored.clock.held, 1)
    env = jnp.arange(stored.num_envs, dtype=jnp.int32)
    oldest = jnp.broadcast_to(slot_of_age(stored.clock, held, stored.num_slots), env.shape)
    recorded = stored.envs.recorded - own_word(stored, oldest, env, 1)
    return jnp.sum(jnp.where(stored.clock.held > 0, recorded - counts(stored), 0), dtype=jnp.int32)


class Keeper:
    """Keeps a buffer. Of one over the devices of several processes each writes its part, when it likes."""

    def __init__(self, buffer: Buffer) -> None:
        self._own, self._copied, self._losing = _anew(buffer), 0, False

    def hand_out(self) -> Buffer:
        return _anew(self._own)

    def warn_of_losses(self) -> None:
        """Warn where rows became unreadable because their episode's record was overwritten; once, until none are."""
        stored, num_slots = self._own.rings, self._own.num_slots
        if stored.num_records >= num_slots:  # an episode has at least a row
            return
        part, before = own_part(self._own), self._losing
        lost = int(count_lost(part.rings) if part.stack is None else stats(part).lost)
        self._losing = lost > 0
        if lost and not before:
            most = num_slots * self._own.num_envs
            warnings.warn(
                f"{lost} recorded rows can no longer be read: the buffer keeps the records of {stored.num_records} "
                "episodes an env, and so short ones came that it holds steps of more; create it with as many as come, "
                f"at most max_episodes={most}",
                stacklevel=4,
            )

    def check(self, buffer: Any) -> None:
        check_buffer("buffer", buffer)
        ours, theirs = self._own.rings, buffer.rings
        sizes = (buffer.num_envs, buffer.single), (self._own.num_envs, self._own.single)
        if theirs.layout != ours.layout or sizes[0] != sizes[1]:
            raise ValueError("buffer: expected one created with the same example and num_envs as that which was read")
        if buffer.stack != self._own.stack:
            raise ValueError(
                "buffer: expected one created with the same num_buffers and sharding as that which was read"
            )
        if (buffer.episode_data is None) != (self._own.episode_data is None):
            raise ValueError("buffer: expected one created with the same episode_data as that which was read")

    def adopt(self, buffer: Buffer) -> None:
        """Keep this buffer, which `check` let pass; its open episodes go on if the buffer kept so far has them too."""
        if not _is_donated((self._own.rings.envs, self._own.rings.clock.time)):  # if it is, this one was made of it
            ours, part = own_part(self._own).rings, own_part(buffer)
            theirs = part.rings
            still = _still_open(theirs.envs, theirs.clock.time, ours.envs, ours.clock.time)
            part = part.replace(rings=theirs.replace(envs=theirs.envs.replace(open=still)))
            buffer = whole_of(part, buffer)
        self._own = _anew(buffer)

    def extend(self, steps: PyTree, mask: Any) -> None:
        self.write(EXTEND, steps, mask)

    def end_episodes(self, mask: Any) -> None:
        self.write(CLOSE, mask)

    def set_data(self, env: Any, behind: Any, data: PyTree) -> None:
        self.write(SET_DATA, env, behind, data)

    def write(self, program: Callable[..., Buffer], *arguments: Any) -> None:
        """Run a program on the buffer, which it donates, or on a copy where others hold it, and keep the result.

        The caller holds interrupts back: one between the two would lose the buffer.
        """
        if _is_donated(self._own):
            raise RuntimeError(
                "the buffer that was handed out was donated to a jitted function, and is gone; give the recorder what "
                "came of it, env.buffer = ..., before the next step"
            )
        held, part = _most_references(self._own) > ALONE, own_part(self._own)
        if held:
            before, self._copied = self._copied, self._copied + sum(leaf.nbytes for leaf in part.rings.arrays)
            if before <= WARN_BYTES < self._copied:
                warnings.warn(
                    f"{self._copied / 2**30:.1f} GiB were copied because a buffer read from `.buffer` was still held "
                    "when steps were written; drop it (`del buffer`), or write `replay.sample(env.buffer, ...)`",
                    stacklevel=2,
                )
        with _mesh_of(part) if part.stack != self._own.stack else contextlib.nullcontext():
            if held:
                part = jax.tree.map(lambda leaf: leaf.copy(), part)
            if is_sharded(part) and program in ENVS_AXIS:
                arguments = over_mesh(part, arguments, ENVS_AXIS[program])
            self._own = whole_of(program(part, *arguments), self._own)


def _mesh_of(part: Buffer) -> Any:
    """Make the mesh of a process's part the current one, if another one is."""
    assert part.stack is not None
    assert part.stack.sharding is not None
    mesh: Any = part.stack.sharding.mesh
    return jax.set_mesh(mesh)


def _anew(buffer: Buffer) -> Buffer:
    """Put the same arrays in containers of their own, so that who else holds an array is seen by its references."""
    return jax.tree.map(lambda leaf: leaf, buffer)


def _is_donated(tree: PyTree) -> bool:
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))


def _most_references(tree: PyTree) -> int:
    """Count the most references to a leaf; JAX itself copies what NumPy and DLPack views look at."""
    return max((sys.getrefcount(leaf) for leaf in jax.tree.leaves(tree)), default=0)


ALONE = _most_references((object(),))  # what is counted of an object that one container alone refers to


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the end: between donating a buffer and keeping what came of it, it would lose it."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if came:
            signal.raise_signal(signal.SIGINT)
