"""Prioritized experience replay (Schaul et al. 2016), on a sum tree that lies beside the rings."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxreplay._core import lookup, trees
from jaxreplay._core.clock import oldest, time_of_slot
from jaxreplay._core.memory import Memory
from jaxreplay._core.rings import Rings, Span
from jaxreplay._core.tiled import Tiled
from jaxreplay.samplers import env_trees, sum_tree
from jaxreplay.samplers.drawable import (
    follow,
    keep_slices,
    leaf_index,
    may_wait,
    place_of,
    weigh_newest,
    weights_of,
    write_appended,
    write_slices,
)
from jaxreplay.samplers.env_nodes import make_trees
from jaxreplay.samplers.redraw import CANDIDATES, ROUNDS, draw_until
from jaxreplay.samplers.sum_tree import AnyTree, EnvTrees
from jaxreplay.samplers.sums import unit
from jaxreplay.types import Rows
from jaxreplay.views import View
from jaxreplay.views.base import check_view

TINY = float(jnp.finfo(jnp.float32).tiny)  # what is smaller, compilers may take for zero
LARGEST = float(jnp.finfo(jnp.float32).max)
MADE_FOR = {"made_for": True}  # marks fields that say how the state lies: no setting of the user's, see `made_for`


def prioritized(
    exponent: float = 0.6,
    *,
    new_priority: float | None = None,
    stratified: bool = True,
    view: View | None = None,
) -> Prioritized:
    """Draw rows in proportion to `priority**exponent`, with replacement (Schaul et al. 2016, equation 1).

    Priorities are plain magnitudes, as `abs(td_error) + 1e-6`, set by `set_priorities`; the exponent is applied inside,
    once. A row of priority zero is never drawn; any other can be, however small (weights below 2**-100 count as that).
    exponent: 0 is uniform, 1 fully proportional.
    new_priority: of rows when they are appended; by default the largest that was ever set, 1 before. `clear` keeps it.
    stratified: draw one row from each of B equal parts of the total, which lowers the variance of a batch; False draws
        them independently. Each row's probability in a batch is the same either way.
    view: one that cannot start from every row, as `sequence(80)` or `n_step(3, 0.99, complete=True)`. Rows it cannot
        start from have weight zero until it can, so none is drawn in vain; use the same view for sampling. A row keeps
        the priority it has, or is given, meanwhile. Without it such a view is served by drawing again.

    Rows that cannot be read for another reason (their episode's record was overwritten) weigh nothing either.
    Raises ValueError for a negative exponent or priority, and TypeError for what is no number, or traced.

    >>> import jax, jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"x": jnp.int32(0)}, 8, sampler=replay.samplers.prioritized(1.0))
    >>> buffer = replay.extend(buffer, {"x": jnp.arange(4)})
    >>> rows = replay.Rows(time=jnp.arange(4), env=jnp.zeros(4, jnp.int32))
    >>> buffer = replay.set_priorities(buffer, rows, jnp.array([0.0, 3.0, 0.0, 1.0]))
    >>> batch = replay.sample(buffer, jax.random.key(0), 8)
    >>> batch.data["x"].tolist()
    [1, 1, 1, 1, 1, 1, 3, 3]
    >>> batch.probability[0].item(), replay.importance_weights(batch, beta=1.0)[0].item()
    (0.75, 0.3333333432674408)
    """
    power = trees.check_number("exponent", exponent)
    new = None if new_priority is None else trees.check_number("new_priority", new_priority)
    return Prioritized(
        power, new, trees.check_flag("stratified", stratified), None if view is None else check_view(view)
    )


class Priorities(struct.PyTreeNode):
    """The state of `prioritized`.

    tree: `priority**exponent` of all rows, 0 for those that cannot be drawn; slot by slot, or env by env where rows can
        lose their episode's record.
    kept: `[T*E]` float32, the same, also for rows that the view cannot start from yet; None where it always can.
    largest: float32, `priority**exponent` of the largest priority seen.
    """

    tree: AnyTree
    kept: jax.Array | None
    largest: jax.Array


@dataclasses.dataclass(frozen=True)
class Prioritized:
    """See `prioritized`."""

    exponent: float
    new_priority: float | None
    stratified: bool
    view: View | None
    tiled: bool = dataclasses.field(default=False, metadata=MADE_FOR)
    by_env: bool = dataclasses.field(default=False, metadata=MADE_FOR)
    by_child: bool = dataclasses.field(default=False, metadata=MADE_FOR)

    def made_for(self, memory: Memory, num_slots: int, stacked: bool = False) -> Prioritized:
        """Return this sampler with a state that lies as the platform wants it, and that can do what the rings need.

        stacked: it is to be read as one with those of other buffers.
        """
        by_env = stacked or 0 < memory.num_records < num_slots  # else no row ever loses its episode's record
        tiled = isinstance(memory, Tiled)
        return dataclasses.replace(self, tiled=tiled, by_env=by_env, by_child=by_env and memory.at_once and not tiled)

    def init(self, num_slots: int, num_envs: int) -> Priorities:
        count = num_slots * num_envs
        if self.by_env:
            tree = make_trees(num_slots, num_envs, self.tiled, self.by_child)
        else:
            tree = sum_tree.make_tree(count, self.tiled)
        kept = jnp.zeros((count,), jnp.float32) if may_wait(self.view) else None
        return Priorities(tree=tree, kept=kept, largest=jnp.ones((), jnp.float32))

    def on_write(self, state: Priorities, rings: Rings, slots: jax.Array, valid: jax.Array) -> Priorities:
        new = self._new_weight(state.largest, rings)
        weights, (tree, moved) = jnp.where(valid, new, 0.0), follow(state.tree, rings, slots.shape[0])
        if state.kept is None:
            return state.replace(tree=write_slices(tree, rings, slots, weights, moved))
        kept = keep_slices(tree, state.kept, rings, slots, weights)
        index, weights = weigh_newest(tree, kept, rings, slots.shape[0], self._waited_for)
        return state.replace(tree=write_appended(tree, rings, index, weights, moved), kept=kept)

    def on_write_member(
        self, state: Priorities, rings: Rings, member: jax.Array, slots: jax.Array, valid: jax.Array
    ) -> Priorities:
        one, num_envs = _as_one(state, rings), valid.shape[1]
        envs = member * num_envs + jnp.arange(num_envs, dtype=jnp.int32)
        weights, (tree, _) = (
            jnp.where(valid, self._new_weight(one.largest, rings), 0.0).ravel(),
            follow(one.tree, rings, slots.shape[0]),
        )
        slot, env = jnp.broadcast_arrays(slots[:, None], envs[None])
        index = leaf_index(tree, rings, slot, env, env < rings.num_envs).ravel()
        kept = one.kept
        if kept is not None:
            kept = kept.at[index].set(weights, mode="drop", wrap_negative_indices=False)
            index, weights = weigh_newest(tree, kept, rings, slots.shape[0], self._waited_for, envs)
        assert isinstance(tree, EnvTrees)
        tree = env_trees.set_of_envs(tree, index, weights, envs)
        return _apart(one.replace(tree=tree, kept=kept), state)

    def on_remove(self, state: Priorities, rings: Rings, rows: Rows) -> Priorities:
        tree = state.tree
        if state.kept is not None and self._waited_for.whole:
            reach = self._waited_for.reach
            earlier = rows.time[:, None] - jnp.arange(1, reach, dtype=jnp.int32)[None]
            before = Rows(earlier.ravel(), jnp.repeat(rows.env, reach - 1))
            tree = sum_tree.set_leaves(tree, *weights_of(tree, state.kept, rings, before, self._waited_for))
        # The rows themselves last: where they are consumed, the rings still hold them, and some are before others.
        slot, env, held = lookup.find_slots(rings, rows)
        index = leaf_index(tree, rings, slot, env, held)
        tree = sum_tree.set_leaves(tree, index, jnp.zeros(index.shape, jnp.float32))
        return state.replace(tree=tree)

    def on_clear(self, state: Priorities, rings: Rings) -> Priorities:
        """Empty the state, but for the largest priority seen."""
        return self._empty(rings).replace(largest=state.largest)

    def on_resize(self, state: Priorities, old: Rings, rings: Rings, rows: Rows) -> Priorities:
        fresh, known = self._empty(rings), lookup.is_valid(rings, rows)
        index, to = (
            leaf_index(tree, of, *lookup.find_slots(of, rows)[:2], known)
            for tree, of in ((state.tree, old), (fresh.tree, rings))
        )
        tree, kept = sum_tree.get_leaves(state.tree, index), state.kept
        tree = sum_tree.set_leaves(fresh.tree, to, jnp.minimum(tree, _most(rings)))
        if kept is not None and fresh.kept is not None:
            kept = kept.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)
            kept = fresh.kept.at[to].set(jnp.minimum(kept, _most(rings)), mode="drop", wrap_negative_indices=False)
        return fresh.replace(tree=tree, kept=kept, largest=state.largest)

    def to_weights(self, state: Priorities, rings: Rings) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """Read the weights of all slots, `[T, E]`: in the tree, and kept, if rows wait for a view; and `largest`."""
        slot, env = jnp.indices((rings.num_slots, rings.num_envs), jnp.int32)
        held = lookup.find_readable(rings, Rows(time=time_of_slot(rings.clock, slot, rings.num_slots), env=env))[-1]
        index = leaf_index(state.tree, rings, slot, env, held)
        kept = () if state.kept is None else (state.kept,)
        kept = tuple(x.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False) for x in kept)
        return (sum_tree.get_leaves(state.tree, index), *kept), state.largest

    def from_weights(self, rings: Rings, weights: tuple[jax.Array, ...], largest: jax.Array) -> Priorities:
        """Make the state of which `to_weights` gave the weights."""
        fresh, (in_tree, *kept) = self._empty(rings), weights
        slot, env = jnp.indices((rings.num_slots, rings.num_envs), jnp.int32)
        index = leaf_index(fresh.tree, rings, slot, env, slot >= 0).ravel()
        tree = sum_tree.set_leaves(fresh.tree, index, in_tree.ravel())
        if fresh.kept is not None:
            fresh = fresh.replace(kept=fresh.kept.at[index].set(kept[0].ravel(), unique_indices=True))
        return fresh.replace(tree=tree, largest=largest)

    def on_close(self, state: Priorities, rings: Rings) -> Priorities:
        """Take note that open episodes were closed without a write: rows may have waited for that."""
        if state.kept is None:
            return state
        index, weights = weigh_newest(state.tree, state.kept, rings, 1, self._waited_for)
        return state.replace(tree=sum_tree.set_leaves(state.tree, index, weights))

    def draw(
        self, state: Priorities, rings: Rings, key: jax.Array, batch_size: int, view: View
    ) -> tuple[Span, jax.Array]:
        state = _as_one(state, rings)

        def propose(key: jax.Array, stratified: bool = False) -> tuple[tuple[Span, jax.Array], jax.Array]:
            bits = jax.random.bits(key, (2, batch_size), jnp.uint32)
            position = unit(bits[0])
            if stratified:
                position = (jnp.arange(batch_size, dtype=jnp.float32) + position) / batch_size
            index, weight = sum_tree.draw(state.tree, position, bits[1])
            slot, env = place_of(state.tree, rings, index)
            span = view.find(rings, Rows(time=time_of_slot(rings.clock.of(env), slot, rings.num_slots), env=env))
            return (span, weight), span.valid & (weight > 0)

        (span, weight), found = propose(key, self.stratified)
        if view.refuses and view != self.view:  # else every row with a weight can be read, and the view can start there
            # What is drawn again is drawn from all, not from its own part, so that each row keeps its probability.
            again = lambda i: propose(jax.random.fold_in(key, i))  # noqa: E731
            (span, weight), found = draw_until(ROUNDS * CANDIDATES, again, (span, weight), found)
        # The weight comes from the draw: read anew, it could be read after the leaves are next written, and XLA would
        # copy them to be safe.
        return span.replace(valid=found), _share(state.tree, weight)

    def probability(self, state: Priorities, rings: Rings, span: Span) -> jax.Array:
        state = _as_one(state, rings)
        index = leaf_index(state.tree, rings, span.slot, span.env, span.valid)
        return _share(state.tree, sum_tree.get_leaves(state.tree, index))

    def set_priorities(self, state: Priorities, rings: Rings, rows: Rows, priorities: jax.Array) -> Priorities:
        stacked, state = state, _as_one(state, rings)
        if priorities.dtype.itemsize < 4:  # before they are compared with infinity, which some small floats lack
            priorities = priorities.astype(jnp.float32)
        slot, env, _ = lookup.find_slots(rings, rows)
        span = lookup.find(rings, rows)
        known = span.valid & (priorities >= 0) & (priorities < jnp.inf)
        index, weight = leaf_index(state.tree, rings, slot, env, known), self._weight(priorities, rings)
        largest = jnp.maximum(state.largest, jnp.max(jnp.where(known, weight, 0), initial=0))
        marked, last = sum_tree.mark_last(state.tree, index)
        index, kept, in_tree = jnp.where(last, index, sum_tree.nowhere(marked)), state.kept, weight
        if kept is not None:
            kept = kept.at[index].set(weight, mode="drop", wrap_negative_indices=False)
            in_tree = jnp.where(self._waited_for.find(rings, rows).valid, weight, 0.0)
        written = state.replace(tree=sum_tree.set_leaves(marked, index, in_tree), kept=kept, largest=largest)
        return _apart(written, stacked)

    def priorities(self, state: Priorities, rings: Rings, rows: Rows) -> jax.Array:
        state = _as_one(state, rings)
        slot, env, _, valid = lookup.find_readable(rings, rows)
        index = leaf_index(state.tree, rings, slot, env, valid)
        if state.kept is None:
            weight = sum_tree.get_leaves(state.tree, index)
        else:
            weight = state.kept.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        size = weight ** (1 / self.exponent) if self.exponent else jnp.ones_like(weight)
        return jnp.where(weight > 0, jnp.clip(size, TINY, LARGEST), 0.0)

    def _empty(self, rings: Rings) -> Priorities:
        """Make the state of rings of which nothing is lost."""
        state = self.init(rings.num_slots, rings.num_envs)
        if not isinstance(state.tree, EnvTrees):
            return state
        first = jnp.broadcast_to(oldest(rings.clock), state.tree.lost.shape)
        return state.replace(tree=state.tree.replace(lost=first))

    def _new_weight(self, largest: jax.Array, rings: Rings) -> jax.Array:
        """Return the number in the leaf of a new row."""
        if self.new_priority is None:
            return largest
        return self._weight(jnp.float32(self.new_priority and max(self.new_priority, TINY)), rings)

    @property
    def _waited_for(self) -> View:
        """The view that rows wait for, where there is one; see `may_wait`."""
        assert self.view is not None
        return self.view

    def _weight(self, priorities: jax.Array, rings: Rings) -> jax.Array:
        """Turn priorities into the numbers in leaves: bounded, so that the tree computes with normal numbers."""
        bits = lax.bitcast_convert_type(priorities, jnp.int32 if priorities.dtype == jnp.float32 else jnp.int64)
        size = jnp.maximum(priorities.astype(jnp.float32), TINY)
        weight = jnp.clip(size**self.exponent, sum_tree.LEAST, _most(rings))
        return jnp.where(bits > 0, weight, 0.0)  # by its bits: a compiler may take a subnormal number for zero


def _as_one(state: Priorities, rings: Rings) -> Priorities:
    """See the states of stacked buffers as that of one; rings: those of one buffer, or of a stack seen as one."""
    if not rings.clock.time.ndim:
        return state
    assert isinstance(state.tree, EnvTrees)
    kept = None if state.kept is None else state.kept.reshape(-1)
    return Priorities(tree=env_trees.as_one(state.tree), kept=kept, largest=jnp.max(state.largest))


def _apart(one: Priorities, like: Priorities) -> Priorities:
    """Undo `_as_one`, which made `one` of a state like this."""
    if not like.largest.ndim:
        return one
    assert isinstance(one.tree, EnvTrees)
    assert isinstance(like.tree, EnvTrees)
    num_buffers = like.largest.shape[0]
    return Priorities(
        tree=env_trees.apart(one.tree, like.tree),
        kept=None if one.kept is None else one.kept.reshape(num_buffers, -1),
        largest=jnp.broadcast_to(one.largest, like.largest.shape),
    )


def _most(rings: Rings) -> float:
    """Return what a leaf may come to."""
    return sum_tree.MOST / (rings.num_slots * rings.num_envs)


def _share(tree: AnyTree, weight: jax.Array) -> jax.Array:
    """Return the probability of leaves, given the numbers in them: above zero if they are."""
    share = weight / jnp.maximum(sum_tree.total(tree), TINY)
    return jnp.where(weight > 0, jnp.maximum(share, TINY), 0.0)
