"""What came of making a data set from something else: nothing is left out without being counted here."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found and what was left out.

    episodes, steps: kept. terminated, truncated, unfinished: how the kept episodes end, the last for those that are
        neither terminated nor truncated (an episode that is both counts in both).
    dropped_rows: steps left out, as when what followed them is not known. dropped_episodes: of which nothing was kept.
    clipped_episodes: kept without their last steps. discontinuities: places where the recording does not go on, and an
        episode was cut in two. ignored: parts that were not read. skipped: `(file, reason)`.
    """

    episodes: int = 0
    steps: int = 0
    terminated: int = 0
    truncated: int = 0
    unfinished: int = 0
    dropped_rows: int = 0
    dropped_episodes: int = 0
    clipped_episodes: int = 0
    discontinuities: int = 0
    ignored: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: "Report") -> "Report":
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)}
        sums["ignored"] = tuple(dict.fromkeys(sums["ignored"]))
        return Report(**sums)

    def left_out(self) -> "Report":
        """Give the same without what says which episodes were kept."""
        return dataclasses.replace(self, episodes=0, steps=0, terminated=0, truncated=0, unfinished=0)

    def __str__(self) -> str:
        lines = [
            f"{self.episodes} episodes, {self.steps} steps",
            f"  ended: {self.terminated} terminated, {self.truncated} truncated, {self.unfinished} unfinished",
        ]
        for name in ("dropped_rows", "dropped_episodes", "clipped_episodes", "discontinuities"):
            if getattr(self, name):
                lines.append(f"  {name.replace('_', ' ')}: {getattr(self, name)}")
        lines += [f"  not read: {', '.join(self.ignored)}"] if self.ignored else []
        lines += [f"  skipped {file}: {reason}" for file, reason in self.skipped]
        return "\n".join(lines)
