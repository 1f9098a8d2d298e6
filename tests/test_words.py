"""Small leaves packed into words: in the form that suits CPUs, and in that of accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreplay._core import words
from jaxreplay._core.layout import make_layout

RNG = np.random.default_rng(0)
STEP = {
    "halves": np.float16(RNG.normal(size=(2, 64))),
    "flags": RNG.random((2, 5)) < 0.5,
    "number": np.arange(2, dtype=np.int32),
    "bytes": RNG.integers(0, 256, (2, 3, 2), np.uint8),
    "flag": np.array([True, False]),
    "short": np.array([-3, 7], np.int16),
    "brain": np.asarray(RNG.normal(size=(2, 3)), jnp.bfloat16),
    "none": np.zeros((2, 0), np.uint8),
    "vector": np.float32(RNG.normal(size=(2, 4))),
    "reward": np.float32(RNG.normal(size=2)),
    "discount": np.float32(RNG.normal(size=2)),
}


@pytest.mark.parametrize("leaves", [list(STEP), ["number", "flag", "short", "vector", "reward"], [*"abcdefghijk"]])
def test_every_kind_of_device_packs_the_same_words_and_takes_the_same_values_out(leaves: list[str]) -> None:
    """Where many leaves are a word each, a CPU joins them otherwise."""
    step = {name: STEP.get(name, np.full(2, ord(name[0]), np.int32)) for name in leaves}
    layout = make_layout(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), step), {}, episodic=False)
    own = jnp.arange(4, dtype=jnp.int32).reshape(2, 2)
    values = dict(enumerate(map(jnp.asarray, jax.tree.leaves(step))))

    @jax.jit
    def packed_and_back(values: dict[int, jax.Array]) -> tuple[list[jax.Array], list[dict[int, jax.Array]]]:
        packed = [words.pack(layout, own, values, at_once) for at_once in (False, True)]
        back = [
            {i: words.decode_leaf(layout, i, packed[0], at_once=at_once) for i in values} for at_once in (False, True)
        ]
        return packed, back

    (cpu, other), back = packed_and_back(values)
    np.testing.assert_array_equal(cpu, other)
    for out in back:
        for index, value in values.items():
            assert out[index].dtype == value.dtype
            np.testing.assert_array_equal(np.asarray(out[index]), np.asarray(value))
