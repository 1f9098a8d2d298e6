"""What a sampler is: it keeps a state beside the rings, told of every write, and draws rows from it."""

from typing import Protocol

import jax

from jaxreplay._core.rings import Rings, Span
from jaxreplay.types import PyTree, Rows
from jaxreplay.views import View


class Sampler(Protocol):
    """How rows are drawn. A sampler is a frozen dataclass of static settings; its state is a pytree of arrays.

    Every method is pure and is traced; none may branch on the state. These are optional:
    set_priorities(state, rings, rows, priorities): with `[B]` of each. Values that are no priorities, and rows that
        cannot be read, change nothing. If a row is given twice, the last value wins.
    priorities(state, rings, rows): those of rows, `[B]` float32; 0 where rows cannot be read.
    on_resize(state, old, rings, rows): called when the rings were copied to others, with the rows `[B]` that both have
        room for; without it, the state is made anew by `init`, and `on_write` is told of these rows.
    on_close(state, rings): called after `end_episodes` closed episodes without a write.
    on_write_member(state, rings, member, slots, valid): `on_write` for one buffer of a stack (`create(num_buffers=)`),
        whose states have an axis of buffers in front. A sampler with it draws from rings whose envs have a clock each.
    on_clear(state, rings): called when the buffer is cleared; without it, the state is made anew by `init`.
    """

    def init(self, num_slots: int, num_envs: int) -> PyTree:
        """Make the state of an empty buffer."""
        ...

    def on_write(self, state: PyTree, rings: Rings, slots: jax.Array, valid: jax.Array) -> PyTree:
        """Take note that slots `[L]`, neighbours round the ring, were overwritten: with a step where `valid` `[L, E]`,
        else with a void row. `rings` are as they are afterwards."""
        ...

    def on_remove(self, state: PyTree, rings: Rings, rows: Rows) -> PyTree:
        """Take note that rows `[B]` are gone: removed, or consumed. Some may not be held, or come twice."""
        ...

    def draw(self, state: PyTree, rings: Rings, key: jax.Array, batch_size: int, view: View) -> tuple[Span, jax.Array]:
        """Draw rows; return what `view.find(rings, rows)` says of them, `[B]`, with `valid` False where none was found,
        and the probability of each in one draw, `[B]` float32.

        `view.refuses` says whether there are rows that can be read and that the view cannot start from.
        """
        ...

    def probability(self, state: PyTree, rings: Rings, span: Span) -> jax.Array:
        """Return the probability of each row in one draw, `[B]` float32; it is not used where `valid` is False."""
        ...
