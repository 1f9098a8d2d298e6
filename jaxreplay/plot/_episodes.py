"""Returns and lengths of episodes, of a data set or a buffer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay import sampling
from jaxreplay import views as reading
from jaxreplay._core.clock import oldest
from jaxreplay._core.records import live_records
from jaxreplay.buffer import Buffer
from jaxreplay.datasets import select as choosing
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.plot import _axes
from jaxreplay.stacks import refuse_stack
from jaxreplay.state import check_buffer
from jaxreplay.types import Rows

MOST = 4000  # episodes that are drawn one by one; more are drawn as a band
CHUNK = 2**18  # rows whose rewards are read at a time
BANDS = 200


def episodes(source: Dataset | Buffer, ax: Any = None, *, reward: str = "reward") -> Any:
    """Draw the return and the length of each episode, one plot below the other.

    source: a data set, in its order; or a buffer, whose complete episodes are drawn, by the time of their first step.
    ax: two axes, for returns and lengths. reward: of a buffer, the path of the scalar leaf that is added up.
    Without rewards lengths alone are drawn, and one axes is taken. Of more than 4000 episodes, the median and the range
    from the 10th to the 90th percentile are drawn.
    Returns the axes, two in an array, or one. Raises TypeError for another source.
    """
    if isinstance(source, Dataset):
        values = _of_dataset(source)
        label = "episode of the data set"
    else:
        check_buffer("episodes", source)
        refuse_stack("episodes", source, "see replay.episodes")
        values = _of_buffer(source, reward)
        label = "first step of the episode [slices since the buffer was made]"
    at, length, returns, ended = values
    kinds = [("length [steps]", length)] if returns is None else [("return", returns), ("length [steps]", length)]
    plt = _axes.pyplot()
    if ax is None:
        size = {"figsize": (8, 1 + 2.1 * len(kinds)), "layout": "constrained"}
        _, ax = plt.subplots(len(kinds), 1, sharex=True, squeeze=False, **size)
    every = np.asarray(ax, object).ravel()
    if len(every) != len(kinds):
        raise ValueError(f"ax: expected {len(kinds)} axes, for {' and '.join(k for k, _ in kinds)}; got {len(every)}")
    for one, (name, numbers) in zip(every, kinds):
        _draw(one, at, numbers, ended)
        one.set(ylabel=name)
    every[-1].set(xlabel=label)
    left_out = source.num_episodes if isinstance(source, Dataset) else int(_count(source))
    every[0].set_title(
        f"{len(at):,} of {left_out:,} episodes{'' if isinstance(source, Dataset) else ', complete ones'}"
    )
    if len(at):
        every[0].legend(fontsize="small", frameon=False, loc="best")
    return every if len(every) > 1 else every[0]


def _draw(ax: Any, at: np.ndarray, values: np.ndarray, ended: np.ndarray) -> None:
    if len(at) > MOST:
        order = np.argsort(at, kind="stable")
        groups = np.array_split(order, BANDS)
        low, middle, high = np.array([np.quantile(values[group], (0.1, 0.5, 0.9)) for group in groups]).T
        centre = [at[group].mean() for group in groups]
        ax.fill_between(centre, low, high, color=_axes.BLUE, alpha=0.3, linewidth=0, label="10th to 90th percentile")
        ax.plot(centre, middle, color=_axes.BLUE, label="median")
        return
    marks = {
        "ended": ("o", _axes.BLUE),
        "terminated": ("o", _axes.BLUE),
        "truncated": ("s", _axes.ORANGE),
        "unfinished": ("^", _axes.PURPLE),
    }
    for kind, (marker, colour) in marks.items():
        if (chosen := ended == kind).any():
            ax.scatter(
                at[chosen], values[chosen], s=14, marker=marker, color=colour, alpha=0.8, label=kind, linewidth=0
            )


def _of_dataset(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    table = dataset._store.table
    rewarded = bool(dataset._store.chunks) and dataset._store.chunks[0].rewards is not None
    returns = choosing.returns(dataset._store, "episodes") if rewarded else None
    ended = np.where(table.terminated, "terminated", np.where(table.truncated, "truncated", "unfinished"))
    return np.arange(len(table.length)), np.asarray(table.length), returns, ended


def _of_buffer(buffer: Buffer, reward: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """List the complete episodes of a buffer, and add up their rewards, a bounded number of rows at a time."""
    rings = buffer.rings
    if not rings.num_records:
        raise ValueError("episodes: this buffer holds independent items; create it with episode_end to have episodes")
    found = jax.tree.map(np.asarray, _records(buffer))
    complete = found.mask & found.ended & (found.start - int(oldest(rings.clock)) >= 0)
    nth, env = np.nonzero(complete)
    start, length = found.start[nth, env], found.length[nth, env]
    leaves = {leaf.path: leaf for leaf in rings.layout.leaves}
    order = np.argsort(start, kind="stable")
    start, length, env = start[order], length[order], env[order]
    ended, returns = np.full(len(start), "ended"), None
    if reward in leaves and leaves[reward].shape == ():
        returns = _sums(buffer, reward, start, length, env)
    if all(flag in leaves and leaves[flag].shape == () for flag in ("terminated", "truncated")):
        last, one = start + length - 1, np.ones_like(length)
        died, late = (_sums(buffer, flag, last, one, env) > 0 for flag in ("terminated", "truncated"))
        ended = np.where(died, "terminated", np.where(late, "truncated", "unfinished"))
    return start, length, returns, ended


def _sums(buffer: Buffer, part: str, start: np.ndarray, length: np.ndarray, env: np.ndarray) -> np.ndarray:
    """Add up a scalar leaf over the steps of episodes, float64 `[N]`; removed steps count as 0."""
    episode = np.repeat(np.arange(len(start)), length)
    step = np.arange(len(episode)) - np.repeat(np.cumsum(length) - length, length)
    time, sums, view = start[episode] + step, np.zeros(len(start)), reading.select(part)
    size = min(CHUNK, max(1024, 1 << (len(time) - 1).bit_length()))  # few sizes, so that few programs are compiled
    for begin in range(0, len(time), size):
        piece = slice(begin, begin + size)
        pad = size - len(time[piece])
        rows = Rows(
            jnp.asarray(np.pad(time[piece], (0, pad)), jnp.int32),
            jnp.asarray(np.pad(env[episode[piece]], (0, pad), constant_values=-1), jnp.int32),
        )
        values = np.asarray(sampling.take(buffer, rows, view).data[part]).astype(np.float64)
        np.add.at(sums, episode[piece], values[: size - pad])
    return sums


@functools.partial(jax.jit)
def _records(buffer: Buffer) -> Any:
    return live_records(buffer.rings)


@functools.partial(jax.jit)
def _count(buffer: Buffer) -> jax.Array:
    return jnp.sum(live_records(buffer.rings).mask, dtype=jnp.int32)
