"""Values of a step come back from arrays and text as they went in, and what is no plain data is refused by its path."""

from __future__ import annotations

import enum
import json
import re
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxreplay.datasets.files.values import FREE_TEXT, copy_value, pack, unpack

DTYPES = ["?", "u1", "i4", "i8", "f2", "f4", "f8", ">f4", "c8"]
EXTENDED = [np.dtype(x) for x in (ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn, ml_dtypes.int4)]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda d: npst.arrays(d, npst.array_shapes(min_dims=0, max_dims=2, max_side=3))
)
scalars = st.sampled_from(DTYPES).flatmap(lambda d: npst.arrays(d, ())).map(lambda x: x[()])
extended = st.sampled_from(EXTENDED).flatmap(
    lambda d: npst.arrays("i1", npst.array_shapes(min_dims=0, max_dims=2), elements=st.integers(-8, 7)).map(
        lambda x: x.astype(d)
    )
)
python = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3))
leaves = st.one_of(arrays, scalars, extended, extended.map(lambda x: x.ravel()[0]), python)
names = st.text("ab.~0/\0 é", min_size=1, max_size=3)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(names, inner, max_size=3),
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=5,
)


def assert_same(a: Any, b: Any) -> None:
    """Equal in structure, types, shapes, dtypes and bits."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, np.ndarray | np.generic):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, float):
        assert np.float64(a).tobytes() == np.float64(b).tobytes()
    else:
        assert a == b


def there_and_back(items: list[Any]) -> list[Any]:
    packed: dict[str, np.ndarray] = {}
    text = pack("actions", [copy_value("action", item) for item in items], packed)
    assert all(re.fullmatch(r"[\w.~#-]{1,100}", name, re.ASCII) for name in packed)
    values = unpack(json.loads(json.dumps(text)), packed, len(items))
    assert not packed
    return values


@settings(settings.get_profile("short"), max_examples=100)
@given(st.lists(values, max_size=4), st.integers(1, 3))
def test_any_values_come_back_bit_for_bit_in_their_order(items: list[Any], times: int) -> None:
    for a, b in zip(items * times, there_and_back(items * times), strict=True):
        assert_same(a, b)


def test_values_alike_are_stacked_under_names_one_can_read() -> None:
    packed: dict[str, np.ndarray] = {}
    pack("actions", [{"arm": np.array([1, 2], np.float32), "gripper": i} for i in range(3)], packed)
    assert {name: (x.dtype.name, x.shape) for name, x in packed.items()} == {
        "actions.arm": ("float32", (3, 2)),
        "actions.gripper": ("int64", (3,)),
    }


def test_a_copy_does_not_follow_the_original() -> None:
    array = np.zeros(2)
    copied = copy_value("action", {"arm": [array]})
    array[:] = 1
    assert copied["arm"][0].tolist() == [0, 0]


def test_members_of_an_enum_become_numbers_and_jax_arrays_numpy_arrays() -> None:
    class Move(enum.IntEnum):
        LEFT = 3

    assert_same(copy_value("action", Move.LEFT), 3)
    assert_same(copy_value("action", jnp.arange(2)), np.arange(2, dtype=np.int32))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"arm": {1: 2}}, r"action\.arm: a dict's keys must be strings to be recorded, got 1"),
        ([0, object()], r"action\.1: object cannot be recorded as plain data"),
        ({"arm": {1, 2}}, r"action\.arm: set cannot be recorded"),
        (np.array([None]), "action: expected an array of numbers or bools, got dtype object"),
        (np.array(["a"]), "got dtype <U1"),
        (np.array(["2000-01-01"], "M8[D]"), "got dtype datetime64.D.; convert it"),
    ],
)
def test_what_is_no_plain_data_is_refused_by_its_path(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        copy_value("action", value)


def test_values_that_all_differ_take_few_arrays() -> None:
    items: list[Any] = [{"path": list(range(i % 90)), "x": np.full(i % 7, np.nan, ">f4")} for i in range(900)]
    items += [{"x": float("inf"), "y": ml_dtypes.bfloat16(2), "z": (None, -0.0, np.float16(1))}, 5]
    packed: dict[str, np.ndarray] = {}
    pack("actions", items, packed)
    assert len(packed) < 10
    for a, b in zip(items, there_and_back(items), strict=True):
        assert_same(a, b)
    (one,) = there_and_back([list(range(1000))])
    assert one == list(range(1000))
    mixed = [*items[:200], *[{"arm": i} for i in range(100)]]
    for a, b in zip(mixed, there_and_back(mixed), strict=True):
        assert_same(a, b)


def test_values_of_containers_alone_come_back_however_many() -> None:
    """They have no arrays of their own, which what is read is bounded by."""
    items = [{"a": [None] * 20, "b": {}}] * 1000
    assert there_and_back(items) == items


def test_text_that_asks_for_more_than_its_arrays_hold_is_refused() -> None:
    packed: dict[str, np.ndarray] = {}
    text = pack("a", [1, 2], packed)
    for count, changed in ((3, text), (10**15, text | {"count": 10**15})):
        with pytest.raises(ValueError, match="expected"):
            unpack(changed, dict(packed), count)
    with pytest.raises(KeyError):
        unpack(text | {"groups": [["tuple", *text["groups"] * 2]]}, dict(packed), 2)
    for size in (10**15, FREE_TEXT // len("null") + 1):
        with pytest.raises(ValueError, match="more values than there is room for"):
            unpack(text | {"count": size, "groups": [None]}, {}, size)
