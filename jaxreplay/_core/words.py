"""Records of 32-bit words: how small leaves are packed into them, and taken out again.

XLA makes the same bits of several forms of this, at different prices. For CPUs it is best told that several values are
one word; of that GPUs make more kernels than of shifts, and a TPU moves more.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreplay._core.layout import Layout, Leaf, from_raw, to_raw

FUSED_PARTS = 8  # XLA for CPUs makes one kernel of a concatenation of so many parts and the write of it, not of more
FEW_RECORDS = 256  # for more, a kernel a part and two copies of the whole cost less than choosing word by word


def to_words(leaf: Leaf, value: jax.Array, at_once: bool = True) -> jax.Array:
    """Pack a leaf `[..., *shape]` into `[..., num_words]` uint32, bit for bit. at_once: see `Plain`."""
    raw = to_raw(value)
    lead = raw.shape[: raw.ndim - len(leaf.raw.shape)]
    flat = raw.reshape(*lead, math.prod(leaf.raw.shape))
    size = flat.dtype.itemsize
    if size >= 4:
        return lax.bitcast_convert_type(flat, jnp.uint32).reshape(*lead, leaf.num_words)
    if not leaf.num_words:
        return jnp.zeros((*lead, 0), jnp.uint32)
    narrow = lax.bitcast_convert_type(flat, np.dtype(f"uint{8 * size}"))
    per_word = min(4 // size, narrow.shape[-1]) if at_once or narrow.shape[-1] == 1 else 4 // size
    pad = leaf.num_words * per_word - narrow.shape[-1]
    narrow = jnp.pad(narrow, [(0, 0)] * len(lead) + [(0, pad)]) if pad else narrow
    narrow = narrow.reshape(*lead, leaf.num_words, per_word)
    if not at_once and per_word > 1:
        return lax.bitcast_convert_type(narrow, jnp.uint32)
    wide = narrow.astype(jnp.uint32)
    return functools.reduce(jnp.bitwise_or, (wide[..., i] << jnp.uint32(8 * size * i) for i in range(per_word)))


def from_words(leaf: Leaf, words: jax.Array, at_once: bool = True) -> jax.Array:
    """Undo `to_words`: `[..., num_words]` uint32 to `[..., *shape]`."""
    lead, size, dtype = words.shape[:-1], leaf.raw.dtype.itemsize, leaf.raw.dtype
    if size >= 4:
        words = words.reshape(*lead, leaf.num_words // (size // 4), size // 4) if size > 4 else words
        flat = lax.bitcast_convert_type(words, dtype)
    else:
        count, kind = math.prod(leaf.raw.shape), np.dtype(f"uint{8 * size}")
        per_word = max(1, min(4 // size, count))
        if at_once or per_word == 1:
            parts = jnp.stack([words >> jnp.uint32(8 * size * i) for i in range(per_word)], axis=-1).astype(kind)
        else:
            parts, per_word = lax.bitcast_convert_type(words, kind), 4 // size
        flat = lax.bitcast_convert_type(parts.reshape(*lead, leaf.num_words * per_word)[..., :count], dtype)
    return from_raw(flat.reshape(*lead, *leaf.raw.shape), leaf.dtype)


def pack(layout: Layout, own: jax.Array, values: Mapping[int, jax.Array], at_once: bool = True) -> jax.Array:
    """Make records `[..., R]` of the library's own words `[..., 2]` int32 and packed leaves, zeros if not given."""
    parts = [lax.bitcast_convert_type(own, jnp.uint32)]
    for index, leaf in enumerate(layout.leaves):
        if leaf.next_of is None and leaf.array == 0:
            if index in values:
                parts.append(to_words(leaf, values[index], at_once))
            else:
                parts.append(jnp.zeros((*own.shape[:-1], leaf.num_words), jnp.uint32))
    if not at_once and len(parts) > FUSED_PARTS and math.prod(own.shape[:-1]) <= FEW_RECORDS:
        fewer = _group(parts)  # for few records, each kernel costs more than all that is done in it
        parts = fewer if len(fewer) <= FUSED_PARTS else parts
    return jnp.concatenate(parts, axis=-1)


def decode_leaf(
    layout: Layout, index: int, rows: jax.Array, picked: tuple[int, ...] | None = None, at_once: bool = True
) -> jax.Array:
    """Give the values of a leaf in rows `[..., R]` of its array; of rows `[B, W, R]`, those that are picked of W.

    They are picked before they are decoded: moving integers changes no bit.
    """
    leaf = layout.leaves[index]
    bits = rows if leaf.array else rows[..., leaf.word : leaf.word + leaf.num_words]
    bits = bits if picked is None else _pick(bits, picked)
    return from_raw(bits, leaf.dtype) if leaf.array else from_words(leaf, bits, at_once)


def _pick(x: jax.Array, columns: tuple[int, ...]) -> jax.Array:
    """Pick columns of `[B, W, ...]`; neighbours are a slice, which costs nothing if it is fused."""
    first = columns[0]
    if columns == tuple(range(first, first + len(columns))):
        return x[:, first : first + len(columns)]
    return jnp.stack([x[:, c] for c in columns], axis=1)


def _group(parts: list[jax.Array]) -> list[jax.Array]:
    """Make one part of neighbours that are a word each, by choosing: XLA takes nested concatenations apart."""
    groups: list[list[jax.Array]] = []
    for part in parts:
        if part.shape[-1] == 1 and groups and groups[-1][-1].shape[-1] == 1:
            groups[-1].append(part)
        else:
            groups.append([part])
    return [group[0] if len(group) == 1 else _choose(group) for group in groups]


def _choose(words: list[jax.Array]) -> jax.Array:
    """Put words `[..., 1]` side by side."""
    shape = (*words[0].shape[:-1], len(words))
    place = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    joined = jnp.broadcast_to(words[-1], shape)
    for i in reversed(range(len(words) - 1)):
        joined = jnp.where(place == i, words[i], joined)
    return joined
