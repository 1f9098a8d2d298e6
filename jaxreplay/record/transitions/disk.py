"""The keeper of a store that is recorded into: a writer in the place of a buffer."""

from typing import Any

from jaxreplay.storage.writer import Writer
from jaxreplay.types import PyTree


class StoreKeeper:
    """Hands what a recorder writes on to a writer, which is what is handed out."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def hand_out(self) -> Writer:
        return self.writer

    def warn_of_losses(self) -> None:
        """A store loses no episode's record."""

    def check(self, buffer: Any) -> None:
        if buffer is not self.writer:
            raise ValueError(f"buffer: this recorder writes to {self.writer}, which stays; make another for another")

    def extend(self, steps: PyTree, mask: Any) -> None:
        self.writer.extend(steps, mask)

    def end_episodes(self, mask: Any) -> None:
        self.writer.end_episodes(mask)

    def set_data(self, env: Any, behind: Any, data: PyTree) -> None:
        self.writer.set_episode_data(env, behind, data)
