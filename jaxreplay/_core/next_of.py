"""Which leaves of a step are the next step's value of which others."""

from collections.abc import Mapping
from typing import Any

from jaxreplay._core.trees import is_below


def resolve_next_of(named: list[tuple[str, Any]], next_of: Mapping[str, str]) -> dict[int, int]:
    """Map the index of each leaf that follows from another to that other's index."""
    if not isinstance(next_of, Mapping) or not all(isinstance(x, str) for x in (*next_of, *next_of.values())):
        raise TypeError(f"next_of: expected paths by path, the later first, as {{'next_obs': 'obs'}}, got {next_of!r}")
    index = {path: i for i, (path, _) in enumerate(named)}

    def below(part: str) -> dict[str, int]:
        return {path[len(part) :]: i for path, i in index.items() if is_below(path, part)}

    sources = {}
    for part, source in next_of.items():
        targets, origins = below(part), below(source)
        for name, found in ((source, origins), (part, targets)):
            if not found:
                raise ValueError(f"next_of: there is no such part {name!r}; the example's leaves: {', '.join(index)}")
        if targets.keys() != origins.keys():
            raise ValueError(
                f"next_of: {part!r} must have the structure of {source!r}, whose next value it is; "
                f"got leaves {sorted(part + p for p in targets)}, expected {sorted(part + p for p in origins)}"
            )
        if twice := [named[i][0] for i in targets.values() if i in sources]:
            raise ValueError(f"next_of: {', '.join(twice)} is said to be the next value of two parts; name one")
        sources |= {i: origins[path] for path, i in targets.items()}
    chained = [named[i][0] for i in sources.values() if i in sources]
    if chained:
        raise ValueError(f"next_of: {', '.join(chained)} cannot both follow from a part and be followed")
    for part, source in next_of.items():
        if "next" in source.lower() and "next" not in part.lower():
            raise ValueError(
                f"next_of: {{{part!r}: {source!r}}} says that {part!r} is the next value of {source!r}: the later "
                f"value is the key. Swap them: {{{source!r}: {part!r}}}"
            )
    return sources
