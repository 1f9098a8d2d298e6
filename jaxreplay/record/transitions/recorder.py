"""The recorder behind the wrappers: what each step was, whichever way the environment resets itself.

It knows nothing of Gymnasium but its words, and the error that it raises where a reset is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxreplay.record.transitions.infos import listed
from jaxreplay.record.transitions.ownership import Keeper, uninterrupted
from jaxreplay.record.transitions.staging import Staging
from jaxreplay.record.transitions.totals import make_tally
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Transition

Autoreset = Literal["next step", "same step", "disabled"]
"""When an env whose episode ended is reset: by the next step, which does nothing else; by the step that ends it; or by
the user."""


_FLAGS = (np.False_, np.True_)


class BufferFull(RuntimeError):
    """A step was not taken, because recording it would overwrite an older one, and `on_full` is "raise"."""


class Recorder:
    """Records the steps of one env (`num_envs` None) or of E; flags of envs are `[]` or `[E]` bool."""

    def __init__(
        self,
        buffer: Buffer,
        num_envs: int | None,
        autoreset: Autoreset,
        block: int | None,
        on_full: str,
        leave_out: Sequence[str] = (),
    ) -> None:
        _check_buffer(buffer, num_envs)
        if on_full not in ("overwrite", "raise"):
            raise ValueError(f"on_full: expected 'overwrite' or 'raise', got {on_full!r}")
        self.autoreset, self.on_full = autoreset, on_full
        self.lead: tuple[int, ...] = () if num_envs is None else (num_envs,)
        self.stored_lead = () if buffer.single else (buffer.rings.num_envs,)
        self.num_slots = buffer.rings.num_slots
        self.staging = Staging(buffer.rings.layout, self.lead, block, leave_out)
        self.tally = make_tally(buffer, num_envs or 1)
        self.keeper = Keeper(buffer)
        self.since_read = 0  # slices staged since the buffer was last read
        self.num_steps = self.num_episodes = 0  # recorded, and ended, in all
        self.checked_episodes = 0  # how many had ended when losses were last counted
        self.every = np.ones(self.lead, np.bool_)
        self.awaited, self.ready = self.every, False  # envs that must be reset before they can be stepped
        self.ended = self.running = ~self.every  # the newest slice ended an episode; has a step of one that goes on
        self.dangling = np.array(buffer.rings.envs.open).reshape(self.lead)  # episodes that others left open
        self.free = self._free_slices(buffer)
        self._before: Any = None  # what a commit that has not come to its end has changed

    def prepare(self, action: Any) -> None:
        """Make room for a step and stage its action, before the environment sees it.

        Raises BufferFull, ValueError or TypeError, or Gymnasium's ResetNeeded; nothing has happened then.
        """
        self._mend()
        if not self.ready:
            raise self._reset_needed()
        if self.on_full == "raise" and self.free <= 0:
            raise BufferFull(
                f"the buffer holds all of the {self.num_slots} steps that it has room for in each env; set "
                "env.buffer to one with room (replay.clear, replay.pop), or record with on_full='overwrite'"
            )
        if self.staging.count == self.staging.block:
            with uninterrupted():
                self.flush()
                self.staging.begin_block()
        self.staging.put_action(action)

    def commit(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Mapping[str, Any]) -> None:
        """Stage what the environment answered: all of it, or none if this is left early and `break_off` follows."""
        staging, valid = self.staging, self.every
        staging.put_answer(observation, reward, terminated, truncated)
        ended: Any
        if self.lead == ():
            ended = _FLAGS[bool(terminated) or bool(truncated)]
        else:
            ended = staging.terminated.array[staging.count] | staging.truncated.array[staging.count]
        if self.autoreset == "next step":
            valid = ~self.ended
            ended = ended & valid
            staging.mask[staging.count] = valid
        some = bool(ended) if self.lead == () else bool(ended.any())
        replaced = ended if some and self.autoreset == "same step" else None
        if replaced is not None:
            staging.put_finals(replaced, info)
        if staging.extras:
            staging.put_extras(valid, replaced, info)
        self._before = self._standing()
        if self.tally is not None:
            self.tally.add(valid.reshape(-1), np.asarray(reward, np.float64).reshape(-1))
            if some:
                self.tally.end(ended.reshape(-1))
                self.tally.begin(ended.reshape(-1))
        self.num_steps += self.every.size if valid is self.every else int(np.count_nonzero(valid))
        self.ended, self.running = ended, valid
        if some:
            self.running = valid & ~ended
            self.num_episodes += int(np.count_nonzero(ended))
            if self.autoreset == "disabled":
                self.awaited, self.ready = self.awaited | ended, False
        self.free -= 1
        self.since_read += 1
        staging.count += 1
        self._before = None  # only now is the step recorded: Ctrl-C can come between any two lines

    def restart(self, observation: Any, envs: np.ndarray, starts: Any) -> None:
        """Take note that the marked envs were reset; episodes that this cuts short become truncated.

        starts: from `describe`.
        """
        self._mend()
        with uninterrupted():  # what was cut must not be cut again
            self._cut(envs)
            self.staging.put_start(observation, envs)
            if self.tally is not None:
                self.tally.begin(envs.reshape(-1), starts)
            self.ended, self.awaited = self.ended & ~envs, self.awaited & ~envs
            self.ready = not self.awaited.any()

    def _cut(self, envs: np.ndarray) -> None:
        """End the running episodes of the marked envs as truncated, at their newest step; no row is written."""
        if not (self.running.any() or self.dangling.any()):
            return
        staging, cut, written = self.staging, envs & self.running, envs & self.dangling
        if staging.count > staging.written:
            staging.truncated.array[staging.count - 1] |= cut
        else:
            written = written | cut
        if written.any():
            self.keeper.close(written)
        if self.tally is not None:
            self.tally.end(cut.reshape(-1))
        self.num_episodes += int(np.count_nonzero(cut))
        self.running, self.dangling = self.running & ~envs, self.dangling & ~envs

    def describe(self, seed: Any, options: Mapping[str, Any] | None) -> Any:
        """What to keep of the episodes that a reset with this seed begins: Gymnasium gives env i the seed + i."""
        if self.tally is None:
            return None
        count = range(math.prod(self.lead))
        seeds = (
            list(seed)
            if isinstance(seed, Sequence | np.ndarray)
            else [None if seed is None else seed + i for i in count]
        )
        return self.tally.describe(seeds, options)

    def break_off(self) -> None:
        """Take note that a step or reset did not come to its end: where the environment is now is not known."""
        self.awaited, self.ready = self.every, False
        if self._before is not None:
            *plain, self.staging.count, mark = self._before
            self.ended, self.running, self.num_steps, self.num_episodes, self.free, self.since_read = plain
            if self.tally is not None:
                self.tally.go_back(mark)
            self._before = None

    def _mend(self) -> None:
        """Break off what an interrupt left half done, if another one came before it was broken off."""
        if self._before is not None:
            self.break_off()

    def _standing(self) -> tuple[Any, ...]:
        """What `commit` changes beside the staged row, but for `awaited` and `ready`; the last two are of others."""
        return (
            self.ended,
            self.running,
            self.num_steps,
            self.num_episodes,
            self.free,
            self.since_read,
            self.staging.count,
            None if self.tally is None else self.tally.mark(),
        )

    def read(self) -> Buffer:
        """The buffer, with every step in it."""
        self._mend()
        self.flush()
        self.since_read = 0
        if self.checked_episodes != self.num_episodes:  # nothing else loses a row
            self.checked_episodes = self.num_episodes
            self.keeper.warn_of_losses()
        return self.keeper.hand_out()

    def adopt(self, buffer: Buffer) -> None:
        """Write into this buffer from now on, beginning with the slices that are staged and not yet written.

        Raises ValueError where recorded steps would be lost by that.
        """
        self._mend()
        staged = self.staging.count - self.staging.written
        if self.since_read > staged:
            raise ValueError(
                f"buffer: {self.since_read - staged} slices were written since `.buffer` was last read, and would be "
                "lost; read it after the last step, change it, and set it before the next"
            )
        self.keeper.check(buffer)
        free = self._free_slices(buffer) - staged
        if self.on_full == "raise" and free < 0:
            raise ValueError(
                f"buffer: {staged} slices were recorded since `.buffer` was last read, and it has room for "
                f"{free + staged}; make room in it (replay.pop), or record with on_full='overwrite'"
            )
        self.keeper.adopt(buffer)
        self.num_slots, self.free = buffer.rings.num_slots, free

    def flush(self) -> None:
        """Write what is staged, and what is known of episodes."""
        with uninterrupted():  # what was written must not be written again
            self.staging.hand_on(self.keeper.extend, self.stored_lead)
            if self.tally is not None and (data := self.tally.take()) is not None:
                self.keeper.set_data(*data)

    def _free_slices(self, buffer: Buffer) -> int:
        """How many slices a buffer has room for, if that is asked for; waits for the device."""
        return buffer.rings.num_slots - int(buffer.rings.clock.held) if self.on_full == "raise" else 0

    def _reset_needed(self) -> Exception:
        from gymnasium.error import ResetNeeded

        why = "no reset was recorded yet, or the episode ended, or the last step or reset failed"
        if not self.lead:
            return ResetNeeded(f"call reset() before step(): {why}")
        return ResetNeeded(
            f"envs {listed(self.awaited)} must be reset before they are stepped: {why}; call reset(), or "
            "reset(options={'reset_mask': mask})"
        )


def _check_buffer(buffer: Any, num_envs: int | None) -> None:
    """Raise unless the buffer holds `Transition` steps of so many envs."""
    check_buffer("buffer", buffer)
    stored = buffer.rings
    example = jax.tree.unflatten(stored.layout.treedef, list(range(len(stored.layout.leaves))))
    if not isinstance(example, Transition):
        raise ValueError(
            f"buffer: expected one of Transition steps, got {type(example).__name__}; "
            "create it with replay.create(replay.example_transition(env), ...)"
        )
    if stored.num_envs != (num_envs or 1):
        wanted = "None (or 1)" if num_envs is None else num_envs
        raise ValueError(f"buffer: it was created with num_envs={stored.num_envs}, and the environment needs {wanted}")
    for name in ("reward", "terminated", "truncated"):
        part = getattr(example, name)
        leaf = stored.layout.leaves[part] if isinstance(part, int) else None
        if leaf is None or leaf.shape != () or (name != "reward" and leaf.dtype != np.bool_):
            raise ValueError(
                f"buffer: expected {name} to be a scalar{'' if name == 'reward' else ' bool'} for each step"
            )
