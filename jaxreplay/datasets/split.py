"""Parting episodes at random so that each part has as many steps as was wished, as near as whole episodes allow."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxreplay._core import trees

EPSILON = 1e-9  # less than this is no gain
TRIES = 16


def assign(key: jax.Array, lengths: np.ndarray, wished: Sequence[int | float]) -> np.ndarray:
    """Say for each episode `[N]` which part it goes to, int64 `[N]`; see `Dataset.random_split`.

    The best parting is NP-hard to find (it is the partition problem), so this finds one that is locally best: a random
    order is cut where the wishes say, then episodes are moved and swapped, the best change first, until no move of one
    episode and no swap of two lowers the sum of absolute deviations. Few change hands, so the parts stay random: to
    fill them longest first would come as near, but leave only short episodes to small parts. The best of up to `TRIES`
    random orders counts; the first that misses by less than a step a part is taken.
    """
    trees.check_key(key)
    target = _targets(wished, int(lengths.sum()))
    best, least = np.zeros(len(lengths), np.int64), np.inf
    for attempt in range(TRIES):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, attempt), len(lengths)))
        shuffled = lengths[order]
        middle = np.cumsum(shuffled) - 0.5 * shuffled
        part = np.searchsorted(np.cumsum(target)[:-1], middle, side="right")
        while _improve(shuffled, part, target):
            pass
        missed = np.abs(_deviation(shuffled, part, target)).sum()
        if missed < least:
            best[order], least = part, missed
        if least < len(target):
            break
    return best


def _deviation(lengths: np.ndarray, part: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.bincount(part, weights=lengths, minlength=len(target)) - target


def _targets(wished: Sequence[int | float], total: int) -> np.ndarray:
    """Give the wished steps of each part, float64, or ValueError."""
    try:
        values = np.asarray(wished)
    except ValueError:  # of lists of several lengths
        values = np.empty(0)
    hint = f"expected ints that add up to {total} steps, or fractions that add up to 1"
    if values.ndim != 1 or not values.size or values.dtype.kind not in "iuf":
        raise ValueError(f"lengths: {hint}, got {wished!r}")
    whole = values.dtype.kind in "iu" and not (total != 1 and values.sum() == 1)
    wrong = values[~((values >= 0) & np.isfinite(values))]
    if wrong.size:
        raise ValueError(f"lengths: {hint}, got {list(wished)}: {wrong[0]} is no length; none may be negative")
    if abs(values.sum() - (total if whole else 1)) > 1e-6:
        raise ValueError(f"lengths: {hint}, got {list(wished)}, which add up to {values.sum()}")
    return values.astype(np.float64) if whole else values / values.sum() * total


def _improve(lengths: np.ndarray, part: np.ndarray, target: np.ndarray) -> bool:
    """Do the move or swap that lowers the deviations most, and tell whether there was one."""
    deviation = _deviation(lengths, part, target)
    kinds = []  # the lengths in each part, ascending, and the first episode of each; before them 0, which is no episode
    for p in range(len(target)):
        mine = np.flatnonzero(part == p)
        values, first = np.unique(lengths[mine], return_index=True)
        kinds.append((np.append(0, values), np.append(-1, mine[first])))
    best_gain, moves = EPSILON, []
    for p in np.flatnonzero(deviation > EPSILON):
        for q in np.flatnonzero(deviation < -EPSILON):
            given, taken, gain = _best_exchange(kinds[p][0], kinds[q][0], deviation[p], deviation[q])
            if gain > best_gain:
                best_gain, moves = gain, [(kinds[p][1][given], q), (kinds[q][1][taken], p)]
    for episode, to in moves:
        if episode >= 0:
            part[episode] = to
    return bool(moves)


def _best_exchange(mine: np.ndarray, theirs: np.ndarray, over: float, under: float) -> tuple[int, int, float]:
    """Say which length to give, and which to take back (0: none), and by how much that lowers `|over| + |under|`.

    Giving d steps in all leaves `|over - d| + |under + d|`, convex in d and lowest for all d between `over` and
    `-under`. So for each length given, the best to take is next to one of these two ends.
    """
    near = []
    for end in (over, -under):
        at = np.searchsorted(theirs, mine - end)
        near += [np.clip(at - 1, 0, len(theirs) - 1), np.clip(at, 0, len(theirs) - 1)]
    taken = np.stack(near)  # [4, len(mine)]
    given = mine - theirs[taken]
    gains = abs(over) + abs(under) - np.abs(over - given) - np.abs(under + given)
    row, column = np.unravel_index(np.argmax(gains), gains.shape)
    return int(column), int(taken[row, column]), float(gains[row, column])
