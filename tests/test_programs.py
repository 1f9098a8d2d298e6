"""Guards of what the programs do, read off their text: gathers, scatters, and how they grow. No clock is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxreplay as replay
from benchmarks import programs
from benchmarks.program_list import Program
from jaxreplay import views
from jaxreplay.samplers import prioritized

KEY = jax.random.key(0)
WRITES = ("scatter", "dynamic_update_slice")


def structure(leaves: int, pixels: bool) -> dict[str, Any]:
    """Steps of so many small leaves, with an image or not."""
    step: dict[str, Any] = {f"leaf{i}": jnp.zeros(3, jnp.bfloat16 if i % 2 else jnp.float32) for i in range(leaves)}
    step |= {"obs": jnp.zeros(4), "next_obs": jnp.zeros(4), "end": jnp.bool_(False)}
    if pixels:
        step |= {"pixels": jnp.zeros((20, 20), jnp.uint8), "next_pixels": jnp.zeros((20, 20), jnp.uint8)}
    return step


def buffer_of(leaves: int = 18, pixels: bool = False, capacity: int = 640, **options: Any) -> replay.Buffer:
    next_of = {"next_obs": "obs"} | ({"next_pixels": "pixels"} if pixels else {})
    make = lambda: replay.create(  # noqa: E731
        structure(leaves, pixels), capacity, 4, next_of=next_of, episode_end="end", **options
    )
    return jax.eval_shape(make)


def operations(function: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """Every operation of a traced program, those inside its loops and calls included."""

    def walk(jaxpr: Any) -> Iterator[Any]:
        for equation in jaxpr.eqns:
            yield equation
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    yield from walk(jax.make_jaxpr(function)(*args).jaxpr)


def names(function: Callable[..., Any], *args: Any) -> Counter[str]:
    return Counter(operation.primitive.name for operation in operations(function, *args))


def stored_shapes(buffer: replay.Buffer, function: Callable[..., Any], *args: Any) -> list[tuple[str, int]]:
    """What writes to the rings: the operation, and how many bytes it writes at a time."""
    rings = {x.shape for x in buffer.rings.arrays}
    rings |= {(slots * envs, *shape) for slots, envs, *shape in rings}
    return [
        (op.primitive.name, op.invars[-1 if op.primitive.name.startswith("scatter") else 1].aval.size)
        for op in operations(function, buffer, *args)
        if op.primitive.name in WRITES and op.invars[0].aval.shape in rings
    ]


def steps_of(buffer: replay.Buffer, lead: tuple[int, ...]) -> Any:
    step = structure(18, len(buffer.rings.arrays) > 1)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), step)


@pytest.mark.compiler
@pytest.mark.parametrize("pixels", [False, True])
def test_twenty_small_leaves_are_read_by_one_gather_and_their_next_values_by_another(pixels: bool) -> None:
    buffer = buffer_of(pixels=pixels)
    program = jax.jit(lambda b, k: replay.sample(b, k, 32).data).lower(buffer, KEY).compile().as_text()
    assert program is not None
    width = buffer.rings.arrays[0].shape[-1]
    records = [line for line in program.splitlines() if " gather(" in line and f"slice_sizes={{1,{width}}}" in line]
    assert 1 <= len(records) <= 2
    images = [line for line in program.splitlines() if " gather(" in line and "slice_sizes={1,20,20}" in line]
    assert len(images) == (2 if pixels else 0)


@pytest.mark.parametrize("pixels", [False, True])
def test_an_append_writes_each_array_once_for_the_step_and_once_for_the_final_observation(pixels: bool) -> None:
    buffer = buffer_of(pixels=pixels)
    written = Counter(name for name, _ in stored_shapes(buffer, replay.append, steps_of(buffer, (4,))))
    arrays = 2 if pixels else 1
    assert written == {"dynamic_update_slice": arrays, "scatter": arrays}


def added_by_priorities(function: Callable[..., Any], lead: tuple[int, ...], **options: Any) -> Counter[str]:
    """What a prioritized write does beside what a plain one does."""
    plain, by_priority = (
        names(function, buffer_of(**options, **sampler), steps_of(buffer_of(), lead))
        for sampler in ({}, {"sampler": prioritized()})
    )
    by_priority.subtract(plain)
    return by_priority


@pytest.mark.parametrize("max_episodes", [None, 80])
def test_a_prioritized_append_of_a_slice_writes_each_level_of_the_tree_once_and_contiguously(
    max_episodes: int | None,
) -> None:
    added = added_by_priorities(replay.append, (4,), max_episodes=max_episodes)
    levels = len(buffer_of(sampler=prioritized()).sampler_state.tree)
    assert added["dynamic_update_slice"] == levels
    # A loop of one turn recomputes what rows weighed that lost their record. There are none where every slot has one.
    assert added["scatter"] == (levels - 2 if max_episodes else 0)
    assert added["while"] == bool(max_episodes)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_where_rows_can_lose_their_record_a_prioritized_write_writes_each_level_once_and_never_loops(
    platform: str,
) -> None:
    """However many rows an append makes unreadable."""
    options = {"max_episodes": 80, "platform": platform}
    tree = buffer_of(sampler=prioritized(), **options).sampler_state.tree
    for function, lead in ((replay.append, (4,)), (replay.extend, (7, 4))):
        added = added_by_priorities(function, lead, **options)
        assert added["dynamic_update_slice"] + added["scatter"] == len(tree.levels) + len(tree.roots)
        assert added["while"] == added["cond"] == 0


@pytest.mark.compiler
@pytest.mark.parametrize("length", [None, 7])
@pytest.mark.parametrize("view", [None, views.sequence(3)])
def test_where_rows_can_lose_their_record_no_prioritized_write_waits_for_the_data(
    view: Any, length: int | None
) -> None:
    buffer = buffer_of(leaves=2, max_episodes=80, platform="gpu", sampler=prioritized(view=view))
    lead, function = ((4,), replay.append) if length is None else ((length, 4), replay.extend)
    step = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), structure(2, False))
    program = Program("write", function, (buffer, step), donate=True)
    assert programs.compile_for(program, programs.device("cpu")).waits == 0


NAMES = {"observation": "obs", "next_observation": "next_obs", "action": "leaf1", "reward": "leaf0"}


@pytest.mark.parametrize(
    "make",
    [
        views.sequence,
        lambda n: views.window(n - 1, 0),
        lambda n: views.frame_stack(n, parts=("obs",)),
        lambda n: views.n_step(n, 0.9, terminated="end", **NAMES),
    ],
)
def test_programs_do_not_grow_with_the_steps_a_view_reads(make: Callable[[int], Any]) -> None:
    buffer = buffer_of(leaves=2)

    def count(n: int) -> int:
        return names(lambda b, k: replay.sample(b, k, 32, make(n)), buffer, KEY).total()

    assert count(64) == count(8)


@pytest.mark.compiler
def test_a_samples_temporaries_are_those_of_its_batch() -> None:
    buffer = buffer_of(pixels=True, capacity=6400)
    analysis = jax.jit(lambda b, k: replay.sample(b, k, 64)).lower(buffer, KEY).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not tell the memory of a compiled program")
    assert analysis.temp_size_in_bytes < 4 * analysis.output_size_in_bytes


@pytest.mark.compiler
def test_an_append_makes_no_copy_of_a_step_of_images() -> None:
    image = jax.ShapeDtypeStruct((84, 84), jnp.uint8)
    example = {"image": image, "next_image": image, "end": jax.ShapeDtypeStruct((), jnp.bool_)}
    options = {"next_of": {"next_image": "image"}, "episode_end": "end"}
    buffer = jax.eval_shape(lambda: replay.create(example, 640, 4, **options))
    step = jax.tree.map(lambda x: jax.ShapeDtypeStruct((4, *x.shape), x.dtype), example)
    analysis = jax.jit(replay.append, donate_argnums=0).lower(buffer, step).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not tell the memory of a compiled program")
    assert analysis.temp_size_in_bytes < 84 * 84


def test_a_draw_reads_each_level_of_the_tree_once_and_works_out_the_child_in_one_reduction() -> None:
    def count(capacity: int) -> Counter[str]:
        buffer = buffer_of(leaves=2, capacity=capacity, sampler=prioritized())
        found = names(lambda b, k: replay.sample(b, k, 32), buffer, KEY)
        return Counter({name: found[name] for name in ("gather", "reduce", "reduce_window_sum")})

    levels = 2  # more, of 64 times the leaves
    more = count(64 * 640)
    more.subtract(count(640))
    assert more == {"gather": levels, "reduce": levels, "reduce_window_sum": levels}
