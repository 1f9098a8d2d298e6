"""The index of pieces: whether it is one, and where the rows of its pieces lie."""

import numpy as np

from jaxreplay.storage import manifest
from jaxreplay.storage.manifest import TERMINATED, TRUNCATED, Manifest, Segment


def check_index(found: Manifest, segment: Segment, pieces: np.ndarray) -> None:
    """Raise ValueError unless the pieces of a segment are just what its files have."""
    episode, steps, flags, *texts = pieces.T
    if (pieces < 0).any() or (flags > TERMINATED + TRUNCATED).any() or (episode >= found.next_episode).any():
        raise ValueError(f"{segment.file('index')}: it has a piece that is none")
    total = total_of(steps)
    if total != segment.steps:
        raise ValueError(f"{segment.file('index')}: its pieces have {total} steps, the manifest {segment.steps}")
    for name, sizes in zip(("infos", "episode_data"), texts):
        if total_of(sizes) != segment.files[name].rows:
            raise ValueError(f"{segment.file(name)}: it has other bytes than the index says")
    rows = total + int(np.count_nonzero(steps))
    for kind in found.kinds.values():
        name = kind.name if kind.stored == "npy" else kind.name + manifest.SIZES
        expected = rows if kind.of_observations else total
        if segment.files[name].rows != expected:
            raise ValueError(f"{segment.file(name)}: expected {expected} rows, got {segment.files[name].rows}")


def total_of(counts: np.ndarray) -> int:
    """Add up counts that are not negative, or say -1 where they are more than any file holds."""
    return -1 if float(counts.sum(dtype=np.float64)) > manifest.MOST else int(counts.sum())


def check_sum(sizes: np.ndarray, total: int) -> np.ndarray:
    if (sizes < 0).any() or total_of(sizes) != total:
        raise ValueError("the sizes of its rows do not add up to the bytes that there are")
    return np.cumsum(sizes)


def offsets(counts: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Count what is before each piece in its own segment."""
    before = np.cumsum(counts)
    before -= counts
    if len(counts):
        first = np.searchsorted(segment, np.arange(int(segment[-1]) + 1))
        before -= before[first[segment]]
    return before


def observation_rows(first: np.ndarray, steps: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Count the rows of observations of each piece: one more than its steps in the last one of an episode with any."""
    if len(first) == len(steps):
        return steps + (steps > 0)
    used = np.flatnonzero(steps)
    last = np.zeros(len(first), np.int64)
    last[np.searchsorted(first, used, side="right") - 1] = used  # the last piece with steps wins
    rows = steps.copy()
    rows[last[length > 0]] += 1
    return rows


def check_ends(first: np.ndarray, steps: np.ndarray, flags: np.ndarray) -> None:
    """Raise ValueError where an episode goes on after a piece that ended it."""
    if not len(first):
        return
    ended = np.cumsum(flags > 0) - (flags > 0)  # how many pieces before each ended an episode
    begins = np.repeat(ended[first], np.diff(np.append(first, len(steps))))
    if ((steps > 0) & (ended > begins)).any():
        raise ValueError("an episode goes on after its end")
