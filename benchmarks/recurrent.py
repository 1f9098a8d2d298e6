"""Recurrent replay (Kapturowski et al. 2019, R2D2): sequences of 80 steps, every 40, drawn by priority.

An update writes a block of 40 steps of 16 envs, and draws 32 batches of 32 sequences, each of which gives its rows new
priorities. Each step has a recurrent state of 64 floats beside it, which is wanted at a sequence's start alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxreplay as replay
from benchmarks import runs
from benchmarks.results import Goal, Result, micros
from benchmarks.timing import Run, interleave

NUM_ENVS, BLOCK, LENGTH, BATCH, DRAWS = 16, 40, 80, 32, 32
STATE, STEPS, EXPONENT = 64, 40 * 16 * 160, 0.9


def block_of(seed: int) -> dict[str, jax.Array]:
    """Random steps `[L, E, ...]`, in episodes of about 200."""
    rng, lead = np.random.default_rng(seed), (BLOCK, NUM_ENVS)
    return {
        "observation": jnp.asarray(rng.normal(size=(*lead, 4)), jnp.float32),
        "action": jnp.asarray(rng.integers(0, 2, lead), jnp.int32),
        "reward": jnp.asarray(rng.normal(size=lead), jnp.float32),
        "done": jnp.asarray(rng.random(lead) < 0.005),
        "state": jnp.asarray(rng.normal(size=(*lead, STATE)), jnp.float32),
    }


class Steps:
    """This library: a row is a step, and states lie apart."""

    name = "jaxreplay"

    def start(self) -> replay.Buffer:
        self.view = replay.views.sequence(LENGTH - BLOCK, burn_in=BLOCK, every=BLOCK, across=True, first="state")
        sampler = replay.samplers.prioritized(EXPONENT, view=self.view)
        example = jax.tree.map(lambda x: x[0, 0], block_of(0))
        return replay.create(example, STEPS, NUM_ENVS, sampler=sampler, episode_end="done", apart="state")

    def add(self, state: replay.Buffer, block: Any) -> replay.Buffer:
        return replay.extend(state, block)

    def draw(self, state: replay.Buffer, key: jax.Array) -> tuple[Any, Any]:
        batch = replay.sample(state, key, BATCH, self.view)
        return (batch.data.data, batch.probability), batch.rows

    def update(self, state: replay.Buffer, rows: Any, priorities: jax.Array) -> replay.Buffer:
        return replay.set_priorities(state, rows, priorities)


class Blocks(Steps):
    """This library: a row is a block of 40 steps with the state at its start; a sequence is two rows."""

    name = "jaxreplay, rows of 40 steps"

    def start(self) -> replay.Buffer:
        self.view = replay.views.sequence(2, first="state")
        sampler = replay.samplers.prioritized(EXPONENT, view=self.view)
        example = jax.tree.map(lambda x: x[0], self.row(block_of(0)))
        capacity = STEPS // BLOCK
        return replay.create(example, capacity, NUM_ENVS, sampler=sampler, episode_end=_never, apart="state")

    def row(self, block: Any) -> Any:
        rows = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), block)
        return rows | {"state": rows["state"][:, 0]}

    def add(self, state: replay.Buffer, block: Any) -> replay.Buffer:
        return replay.append(state, self.row(block))

    def draw(self, state: replay.Buffer, key: jax.Array) -> tuple[Any, Any]:
        batch = replay.sample(state, key, BATCH, self.view)
        return (batch.data.data, batch.probability), batch.rows


def _never(step: Any) -> jax.Array:
    return jnp.bool_(False)


class Flashbax:
    """flashbax's prioritised trajectory buffer, which reads across ends of episodes too."""

    name = "flashbax"

    def start(self) -> Any:
        make = importlib.import_module("flashbax").make_prioritised_trajectory_buffer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.buffer = make(
                add_batch_size=NUM_ENVS,
                sample_batch_size=BATCH,
                sample_sequence_length=LENGTH,
                period=BLOCK,
                min_length_time_axis=LENGTH,
                max_size=STEPS,
                priority_exponent=EXPONENT,
            )
        return self.buffer.init(jax.tree.map(lambda x: x[0, 0], block_of(0)))

    def add(self, state: Any, block: Any) -> Any:
        return self.buffer.add(state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), block))

    def draw(self, state: Any, key: jax.Array) -> tuple[Any, Any]:
        batch = self.buffer.sample(state, key)
        return (batch.experience, batch.probabilities), batch.indices

    def update(self, state: Any, rows: Any, priorities: jax.Array) -> Any:
        return self.buffer.set_priorities(state, rows, priorities)


def _update_scan(contestant: Any, state: Any, length: int) -> Run:
    """Write a block and draw, again and again in one compiled loop, in place."""
    block = block_of(1)

    def cycle(carry: tuple[Any, jax.Array], key: jax.Array, once: jax.Array) -> tuple[Any, None]:
        state, total = carry
        drawn, rows = contestant.draw(state, key)
        total += runs.peek(drawn, once)
        return (contestant.update(state, rows, jax.random.uniform(key, (BATCH,)) + 1e-3), total), None

    def run(state: Any, keys: jax.Array, once: jax.Array) -> tuple[Any, jax.Array]:
        def body(carry: tuple[Any, jax.Array], key: jax.Array) -> tuple[Any, None]:
            state = contestant.add(carry[0], block)
            keys = jax.random.split(key, DRAWS)
            return lax.scan(lambda carry, key: cycle(carry, key, once), (state, carry[1]), keys)[0], None

        return lax.scan(body, (state, jnp.float32(0)), keys)[0]

    compiled, held, keys = jax.jit(run, donate_argnums=0), [state], jax.random.split(jax.random.key(1), length)

    def once() -> Any:
        held[0], total = compiled(held[0], keys, jnp.int32(1))  # which the compiler does not know
        return total

    return once


def recurrent(rounds: int) -> list[Result]:
    """One update of R2D2's replay, and the bytes that each contestant's buffer takes."""
    contestants: list[Any] = [Steps(), Blocks()]
    if importlib.util.find_spec("flashbax") is not None:
        contestants.append(Flashbax())
    length, scans, sizes = 10, {}, {}
    for contestant in contestants:
        state = contestant.start()
        add = jax.jit(contestant.add, donate_argnums=0)
        for i in range(STEPS // NUM_ENVS // BLOCK):
            state = add(state, block_of(i))
        sizes[contestant.name] = [float(sum(x.nbytes for x in jax.tree.leaves(state))) / 2**20]
        scans[contestant.name] = _update_scan(contestant, state, length)
    title = "R2D2: write 40 steps of 16 envs, then 32 times draw 32 sequences of 80 and update them"
    times = micros(interleave(scans, rounds), length)
    return [
        Result(title, "in lax.scan, consumer included", times, Goal("flashbax", 1.0)),
        Result("memory of 102,400 steps", "64 floats of recurrent state", sizes, unit="MiB"),
    ]
