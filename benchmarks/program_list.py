"""The programs that `python -m benchmarks programs` compiles: the library's, and flashbax's beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay

BATCH = 256


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to compile, its abstract arguments, and whether the first of them is donated."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donate: bool


SMALL = (np.zeros(4, np.float32), 128, (2**16, 2**20, 2**24))
FRAMES = (np.zeros((84, 84), np.uint8), 16, (2**12, 2**16, 2**18))


def transition(observation: Any) -> replay.Transition:
    """One step with such an observation."""
    flag = jnp.zeros((), jnp.bool_)
    return replay.Transition(observation, jnp.int32(0), jnp.float32(0), flag, flag, observation)


def buffer_programs(platform: str, capacities: slice = slice(None)) -> Iterator[Program]:
    """The library's programs, at some of the three capacities."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    views = replay.views
    read = {
        "small": {"transition": views.transition(), "n-step of 5": views.n_step(5, 0.99)},
        "frames": {"stacks of 4": views.frame_stack(4)},
    }
    for size, (observation, num_envs, sizes) in (("small", SMALL), ("frames", FRAMES)):
        example = transition(observation)
        for capacity in sizes[capacities]:
            for kind, sampler in (("", replay.samplers.uniform()), ("prioritized ", replay.samplers.prioritized())):
                buffer, step = _abstract(example, capacity, num_envs, platform, sampler)
                where = f"{size} {capacity}"
                yield Program(f"{where}: {kind}append", replay.append, (buffer, step), donate=True)
                if not kind:
                    yield Program(f"{where}: extend by 8", replay.extend, (buffer, _stacked(step, 8)), donate=True)
                for name, view in read[size].items():
                    yield Program(f"{where}: {kind}sample, {name}", _sample(view, BATCH), (buffer, key), donate=False)
                if not kind and size == "small":
                    sequence = _sample(views.sequence(80), 64)
                    yield Program(f"{where}: sample, sequences of 80, 64", sequence, (buffer, key), donate=False)
                name, view = [*read[size].items()][-1]
                cycle = _cycle(view, bool(kind))
                yield Program(f"{where}: {kind}cycle, {name}", cycle, (buffer, step, key), donate=True)


def other_programs(platform: str) -> Iterator[Program]:
    """Cycles at the largest capacity: in a scan of 16 iterations, under vmap over 4 seeds, and of other structures."""
    views = replay.views
    key = jax.eval_shape(lambda: jax.random.key(0))
    nested = {
        "arm": {"angles": jnp.zeros(7, jnp.bfloat16), "camera": jnp.zeros((64, 64), jnp.uint8)},
        "goal": jnp.zeros(3),
    }
    keyed = transition(jnp.zeros(4)).replace(extras={"key": jax.random.key(0)})
    small, frames = (transition(observation) for observation, _, _ in (SMALL, FRAMES))
    n_step, stacks = views.n_step(5, 0.99), views.frame_stack(4)
    for name, example, num_envs, capacity, view in (
        ("17 floats", transition(jnp.zeros(17)), 128, 2**24, n_step),
        ("frames of 96x80", transition(jnp.zeros((96, 80), jnp.uint8)), 16, 2**18, stacks),
        ("nested", transition(nested), 128, 2**18, n_step),
        ("with keys", keyed, 128, 2**24, n_step),
        ("one env", small, None, 2**24, n_step),
        ("4096 envs", small, 4096, 2**24, n_step),
    ):
        buffer, step = _abstract(example, capacity, num_envs, platform)
        yield Program(f"{name} {capacity}: cycle", _cycle(view, False), (buffer, step, key), donate=True)
    for name, example, num_envs, capacity, view in (
        ("small", small, 128, 2**24, n_step),
        ("frames", frames, 16, 2**18, stacks),
    ):
        for is_prioritized in (False, True):
            sampler = replay.samplers.prioritized() if is_prioritized else replay.samplers.uniform()
            cycle, kind = _cycle(view, is_prioritized), "prioritized " * is_prioritized
            buffer, step = _abstract(example, capacity, num_envs, platform, sampler)
            steps, keys = _stacked((step, key), 16)
            title = f"{name} {capacity}: {kind}cycle, 16 in a scan"
            yield Program(title, _scan(cycle), (buffer, steps, keys), donate=True)
            buffer, _ = _abstract(example, capacity // 4, num_envs, platform, sampler)
            title = f"{name} {capacity}: {kind}cycle, 4 under vmap"
            yield Program(title, jax.vmap(cycle), _stacked((buffer, step, key), 4), donate=True)


def _abstract(example: Any, capacity: int, num_envs: int | None, platform: str, sampler: Any = None) -> tuple[Any, Any]:
    """Describe a buffer, and a step for it."""
    sampler = sampler or replay.samplers.uniform()
    buffer = jax.eval_shape(lambda: replay.create(example, capacity, num_envs, sampler=sampler, platform=platform))
    one = jax.eval_shape(lambda: example)
    return buffer, one if num_envs is None else _stacked(one, num_envs)


def _stacked(x: Any, count: int) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), x)


def _scan(cycle: Callable[..., Any]) -> Callable[..., Any]:
    def run(buffer: replay.Buffer, steps: Any, keys: jax.Array) -> Any:
        """Run a cycle after the other, and use all of each batch."""

        def one(buffer: replay.Buffer, each: Any) -> Any:
            buffer, data = cycle(buffer, *each)
            return buffer, sum(jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(data))

        return jax.lax.scan(one, buffer, (steps, keys))

    return run


def _sample(view: replay.views.View, batch_size: int) -> Callable[..., Any]:
    return lambda buffer, key: replay.sample(buffer, key, batch_size, view).data


def _cycle(view: replay.views.View, is_prioritized: bool) -> Callable[..., Any]:
    def cycle(buffer: replay.Buffer, step: Any, key: jax.Array) -> Any:
        """Append a step, sample a batch, and update its priorities."""
        buffer = replay.append(buffer, step)
        batch = replay.sample(buffer, key, BATCH, view)
        if is_prioritized:
            buffer = replay.set_priorities(buffer, batch.rows, jnp.ones(BATCH))
        return buffer, batch.data

    return cycle


def flashbax_programs() -> Iterator[Program]:
    """flashbax's at its largest: the same small steps, and stored stacks of 4 frames in a ring of as many bytes."""
    try:
        import flashbax
    except ImportError:
        return
    key, flag = jax.eval_shape(lambda: jax.random.key(0)), jnp.zeros((), jnp.bool_)
    for size, shape, dtype, num_envs, capacity in (
        ("small", (4,), jnp.float32, 128, 2**24),
        ("frames", (84, 84, 4), jnp.uint8, 16, 2**16),
    ):
        example = {"obs": jnp.zeros(shape, dtype), "action": jnp.int32(0), "reward": jnp.float32(0), "done": flag}
        step = jax.tree.map(lambda x, n=num_envs: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), example)
        makes = {"": flashbax.make_flat_buffer, "prioritized ": flashbax.make_prioritised_flat_buffer}
        for kind, make in makes.items():
            buffer = make(capacity, BATCH, BATCH, add_batch_size=num_envs)
            state = jax.eval_shape(buffer.init, example)

            def cycle(state: Any, step: Any, key: Any, buffer: Any = buffer, kind: str = kind) -> Any:
                state = buffer.add(state, step)
                batch = buffer.sample(state, key)
                if kind:
                    state = buffer.set_priorities(state, batch.indices, jnp.ones(BATCH))
                return state, batch.experience

            where = f"flashbax, {size} {capacity}"
            yield Program(f"{where}: {kind}append", buffer.add, (state, step), donate=True)
            yield Program(f"{where}: {kind}sample", buffer.sample, (state, key), donate=False)
            yield Program(f"{where}: {kind}cycle", cycle, (state, step, key), donate=True)
