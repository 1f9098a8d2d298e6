"""How the rings lie in memory: the one place that knows the shapes of their arrays.

Everything else names a place by `(slot, env)`. The slots of an env are the T of the ring of steps, then one that stays
zero, then the K of its ring of episodes' records.

`Plain` lies as NumPy arrays do, `[T + 1 + K, E, ...]`, which suits CPUs and GPUs: one index into one array finds a step
and the record of an episode alike.

`Tiled` suits TPUs, whose memory is made of tiles of 128 lanes. Rows of any other width are copied whole to another form
before a program can index them. So all arrays are rows of a multiple of 128 lanes. Records of R words lie several to a
row: those of steps slice after slice, those of episodes env after env. So no two envs share a row of episodes, and one
append writes no row twice. Large leaves are padded to whole rows.
"""

from typing import TypeAlias

from jaxreplay._core.layout import Layout
from jaxreplay._core.plain import Plain
from jaxreplay._core.tiled import Tiled

Memory: TypeAlias = Plain | Tiled


def make_memory(platform: str, layout: Layout, num_slots: int, num_envs: int, num_records: int) -> Memory:
    """Choose how the rings of a buffer lie, for a platform as JAX names it."""
    if platform == "tpu":
        return Tiled(num_records, num_slots, num_envs, layout.num_words, layout.final_words)
    return Plain(num_records, at_once=platform != "cpu")
