"""How one step of the user's structure is stored: small leaves packed into one record a row, large ones by themselves.

For small steps the number of gathers is the cost of a sample, so all leaves of at most `PACKED_BYTES` a row share one
array of 32-bit words, `[slots, E, R]`, and one gather reads them all. Packing is a bit cast, never a conversion: what
comes out is what went in, bit for bit. A leaf that follows from another one (`next_observation` from `observation`) is
not stored at all.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreplay._core import trees
from jaxreplay._core.next_of import resolve_next_of
from jaxreplay.types import PyTree

# A larger leaf costs less in a gather of its own than in a copy out of the record. Measured on a CPU with leaves of 16
# to 256 bytes: transitions and windows of 4 take 0.8 to 1.06 of the time, sequences of 80 1.04 to 1.3: see `apart`.
PACKED_BYTES = 256
OWN_WORDS = 2  # of each record: (episode, ordinal) in a step's, (start, newest) in an episode's


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of a step: its path, its shape and dtype for one step of one env, and where it is stored.

    `next_of` is the index of the leaf this one follows from, or None. A stored leaf is in the words
    `[word, word + num_words)` of the record, or, where `array` > 0, in an array of its own.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    next_of: int | None = None
    array: int = 0
    word: int = 0

    @functools.cached_property
    def raw(self) -> jax.ShapeDtypeStruct:
        """The leaf as `to_raw` gives it."""
        return jax.eval_shape(to_raw, jax.ShapeDtypeStruct(self.shape, self.dtype))

    @functools.cached_property
    def num_bytes(self) -> int:
        return math.prod(self.raw.shape) * self.raw.dtype.itemsize

    @functools.cached_property
    def num_words(self) -> int:
        return -(-self.num_bytes // 4)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The static description of a step: its structure, its leaves, and the arrays that store them.

    num_words: R, of a record. sources: the parts that others follow from, by path.
    episodic: whether steps form episodes, or are independent items.
    """

    treedef: Any
    leaves: tuple[Leaf, ...]
    num_words: int
    num_arrays: int
    sources: tuple[str, ...]
    episodic: bool

    @functools.cached_property
    def paths(self) -> list[str]:
        return [leaf.path for leaf in self.leaves]

    def one_step(self) -> PyTree:
        """Describe one step of one env by shapes and dtypes."""
        return jax.tree.unflatten(self.treedef, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.leaves])

    @functools.cached_property
    def followed(self) -> frozenset[int]:
        """The indices of the leaves that others follow from; only these have room for an episode's final value."""
        return frozenset(leaf.next_of for leaf in self.leaves if leaf.next_of is not None)

    @functools.cached_property
    def final_words(self) -> int:
        """How many words of a record those of episodes need: up to the last final value that is packed."""
        packed = [self.leaves[i] for i in self.followed if not self.leaves[i].array]
        return max((leaf.word + leaf.num_words for leaf in packed), default=OWN_WORDS)

    @property
    def record_bytes(self) -> int:
        """What the record of one episode of one env takes: its words, and the final value of large leaves."""
        return 4 * self.num_words + sum(self.leaves[i].num_bytes for i in self.followed if self.leaves[i].array)

    @functools.cached_property
    def large(self) -> list[tuple[int, Leaf]]:
        """The leaves that have an array of their own, in the order of these, with their indices."""
        return [(i, leaf) for i, leaf in enumerate(self.leaves) if leaf.array]


def make_layout(example: PyTree, next_of: Mapping[str, str], episodic: bool, apart: str | Sequence[str] = ()) -> Layout:
    """Describe how steps like `example` are stored. Raises for leaves that cannot be, a wrong `next_of` or `apart`."""
    named = trees.paths(example)
    if not named:
        raise ValueError("example: expected at least one array, got a structure without leaves")
    apart = (apart,) if isinstance(apart, str) else tuple(apart)
    for part in apart:
        if not any(trees.is_below(path, part) for path, _ in named):
            raise ValueError(f"apart: there is no {part!r}; there are: {', '.join(path for path, _ in named)}")
    sources = resolve_next_of(named, next_of)
    leaves, word, num_arrays = [], OWN_WORDS, 1
    for index, (path, value) in enumerate(named):
        shape, dtype = trees.shape_dtype(path, value)
        _check_dtype(path, dtype)
        leaf = Leaf(path, shape, dtype, sources.get(index))
        if leaf.next_of is None:
            if _is_packable(leaf) and not any(trees.is_below(path, part) for part in apart):
                leaf = dataclasses.replace(leaf, word=word)
                word += leaf.num_words
            else:
                leaf = dataclasses.replace(leaf, array=num_arrays)
                num_arrays += 1
        leaves.append(leaf)
    for leaf in leaves:
        if leaf.next_of is not None:
            source = leaves[leaf.next_of]
            if (leaf.shape, leaf.dtype) != (source.shape, source.dtype):
                raise ValueError(
                    f"{leaf.path}: expected {trees.describe(source.shape, source.dtype)} like {source.path}, whose "
                    f"next value it is, got {trees.describe(leaf.shape, leaf.dtype)}"
                )
    parts = tuple(dict.fromkeys(next_of.values()))
    return Layout(jax.tree.structure(example), tuple(leaves), word, num_arrays, parts, episodic)


def check_part(layout: Layout, part: PyTree, lead: tuple[int, ...], what: str, lead_is: str) -> dict[int, Any]:
    """Return the leaves of a part of the structure by their index, or raise naming the one that does not fit.

    Each must be stored, and be `[*lead, *shape]` in its own dtype.
    """
    index, values = {path: i for i, path in enumerate(layout.paths)}, {}
    for path, value in trees.paths(part):
        if path not in index:
            raise ValueError(f"{what}: there is no {path!r}; there are: {', '.join(index)}")
        if layout.paths.count(path) > 1:
            raise ValueError(f"{what}: two leaves have the path {path!r}; create the buffer with other names")
        leaf = layout.leaves[index[path]]
        if leaf.next_of is not None:
            source = layout.leaves[leaf.next_of].path
            raise ValueError(
                f"{what}: {path} of a row is {source} of the next row, and cannot be put; put that instead"
            )
        trees.check_leaf(path, value, (*lead, *leaf.shape), leaf.dtype, f"({lead_is.capitalize()} comes first.)")
        values[index[path]] = value
    return values


def _check_dtype(path: str, dtype: Any) -> None:
    if not trees.is_key_dtype(dtype) and jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise TypeError(
            f"{path}: the example has dtype {dtype}, and JAX's 64-bit types are switched off. Nothing is cast "
            f"silently: give the example as {jax.dtypes.canonicalize_dtype(dtype)}, or set jax_enable_x64."
        )
    try:
        jax.eval_shape(lambda: jnp.zeros((), dtype))
    except TypeError:  # of another byte order, structured, or longer than 64 bits
        raise TypeError(f"{path}: the example has dtype {dtype}, which JAX has not; convert it first") from None


def _is_packable(leaf: Leaf) -> bool:
    dtype = leaf.raw.dtype
    plain = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)
    return plain and leaf.num_bytes <= PACKED_BYTES


@functools.cache
def _form(dtype: Any) -> str:
    """Name the form in which values of a dtype are stored, see `to_raw`."""
    if trees.is_key_dtype(dtype):
        return "key"
    if dtype == jnp.bool_:
        return "bool"
    if jnp.issubdtype(dtype, jnp.integer):
        return "nibbles" if jnp.iinfo(dtype).bits < 8 else "plain"
    if not jnp.issubdtype(dtype, jnp.floating):
        return "plain"
    return {4: "bits of nibbles", 8: "bits", 16: "bits"}.get(jnp.finfo(dtype).bits, "plain")


def to_raw(value: jax.Array) -> jax.Array:
    """Give a leaf in the form it is stored in: keys as their words, bool and 4-bit numbers as bytes, else unchanged.

    Floats of at most 16 bits are stored as the integers of their bits: some compilers compute with them in 32 bits even
    to move them, which loses the payload of a NaN.
    """
    dtype = value.dtype
    match _form(dtype):
        case "key":
            return jax.random.key_data(value)
        case "bool":
            return value.astype(jnp.uint8)
        case "nibbles":
            return value.astype(jnp.uint8 if jnp.issubdtype(dtype, jnp.unsignedinteger) else jnp.int8)
        case "bits":
            return lax.bitcast_convert_type(value, np.dtype(f"uint{8 * dtype.itemsize}"))
        case "bits of nibbles":
            return lax.bitcast_convert_type(value, jnp.uint4).astype(jnp.uint8)
    return value


def from_raw(raw: jax.Array, dtype: Any) -> jax.Array:
    """Undo `to_raw`."""
    match _form(dtype):
        case "key":
            return jax.random.wrap_key_data(raw, impl=dtype._impl.name)
        case "bool":
            return raw != 0
        case "bits":
            return lax.bitcast_convert_type(raw, dtype)
        case "bits of nibbles":
            return lax.bitcast_convert_type(raw.astype(jnp.uint4), dtype)
    return raw.astype(dtype)


def to_bits(value: jax.Array) -> jax.Array:
    """Give a leaf as integers of its bits: `to_raw`, and what that leaves as floats as words, `[..., n]` if several."""
    raw = to_raw(value)
    if jnp.iscomplexobj(raw):
        raw = jnp.stack([raw.real, raw.imag], axis=-1)
    return raw if jnp.issubdtype(raw.dtype, jnp.integer) else lax.bitcast_convert_type(raw, jnp.uint32)


def from_bits(raw: jax.Array, dtype: Any) -> jax.Array:
    """Undo `to_bits`."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        parts = lax.bitcast_convert_type(raw, jnp.finfo(dtype).dtype)
        return lax.complex(parts[..., 0], parts[..., 1])
    is_wide_float = jnp.issubdtype(dtype, jnp.floating) and _form(dtype) == "plain"
    return lax.bitcast_convert_type(raw, dtype) if is_wide_float else from_raw(raw, dtype)


def arrange(x: Any, stack: int, axis: int, single: bool) -> Any:
    """Make a leaf of `[B, W * stack, ...]`, JAX's or NumPy's: take stacks apart, and drop the axis of a single one."""
    if stack:
        x = x.reshape(x.shape[0], x.shape[1] // stack, stack, *x.shape[2:])
        axes = [i for i in range(x.ndim) if i != 2]
        axes.insert(x.ndim + axis if axis < 0 else 2 + axis, 2)
        x = x if axes == sorted(axes) else x.transpose(axes)
    return x[:, 0] if single else x
