"""The recorder behind the wrappers: what each step was, whichever way the environment resets itself.

It knows nothing of Gymnasium but its words, and the error that it raises where a reset is missing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxreplay.processes import envs_here, own_part
from jaxreplay.record.transitions.disk import StoreKeeper
from jaxreplay.record.transitions.ownership import Keeper, uninterrupted
from jaxreplay.record.transitions.staging import Staging
from jaxreplay.record.transitions.totals import Totals, begin_totals, describe_starts
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.storage.writer import Writer
from jaxreplay.types import PyTree, Transition


class BufferFull(RuntimeError):
    """A step was not taken, because recording it would overwrite an older one, and `on_full` is "raise"."""


class Standing(NamedTuple):
    """All that recording a step or a reset changes, but for values in rows that are not recorded before.

    It is replaced by one assignment, so that an interrupt, between whichever two instructions it comes, finds the one
    before or the one after. Flags of envs are `[]` or `[E]` bool.
    """

    time: int  # slices recorded
    num_steps: int
    num_episodes: int  # ended
    ended: np.ndarray  # the newest slice ended an episode
    running: np.ndarray  # an episode goes on behind the newest slice, or was left open in the buffer
    awaited: np.ndarray | None  # envs that must be reset before they are stepped; None if none must
    totals: Totals | None


class Recorder:
    """Records the steps of one env (`num_envs` None) or of E; flags of envs are `[]` or `[E]` bool.

    autoreset: a value of Gymnasium's `AutoresetMode`: when an env whose episode ended is reset: by the next step, which
        does nothing else; by the step that ends it; or by the user.
    agents: the envs are agents of one environment, of which each step's info tells which `acted`.
    """

    def __init__(
        self,
        buffer: Buffer | Writer,
        num_envs: int | None,
        autoreset: str,
        block: int | None,
        on_full: str,
        leave_out: Sequence[str],
        on_cut: str,
        agents: bool,
    ) -> None:
        keeper = StoreKeeper(buffer) if isinstance(buffer, Writer) else None
        if isinstance(buffer, Writer):  # what says how steps are to be staged is the same
            buffer = buffer.template
        _check_buffer(buffer, num_envs)
        for name, given, way in (("on_full", on_full, "overwrite"), ("on_cut", on_cut, "truncate")):
            if given not in (way, "raise"):
                raise ValueError(f"{name}: expected {way!r} or 'raise', got {given!r}")
        self.autoreset, self.on_full, self.on_cut, self.agents = autoreset, on_full, on_cut, agents
        self.lead: tuple[int, ...] = () if num_envs is None else (num_envs,)
        self.on_disk = keeper is not None
        self.num_slots = buffer.num_slots
        self.staging = Staging(buffer, self.lead, block, leave_out)
        self.every = np.ones(self.lead, np.bool_)
        part = own_part(buffer)
        running, totals = np.array(part.rings.envs.open).reshape(self.lead), begin_totals(part, num_envs or 1)
        self.standing = Standing(0, 0, 0, ~self.every, running, self.every, totals)
        self.only: np.ndarray | None = None  # envs whose steps are recorded; None for all
        self.under_way = False  # a step or reset that was begun; if it does not end, where the envs are is not known
        self.keeper = keeper or Keeper(buffer)
        if keeper is not None:
            keeper.writer.call_before_commit(self.flush)
        self.read_time = 0  # slices recorded when the buffer was last read
        self.full_time = self._free_slices(buffer)  # slices recorded when it is full
        self.checked_episodes = 0  # how many had ended when losses were last counted

    def begin_step(self, action: Any) -> None:
        """Make room for a step and stage its action, before the environment sees it; if it raises, nothing happened."""
        time, staging = self.standing.time, self.staging
        if self.under_way or self.standing.awaited is not None:
            from gymnasium.error import ResetNeeded

            envs, masked = np.flatnonzero(self._awaited()).tolist(), "reset(options={'reset_mask': mask})"
            what = f"envs {envs} must be reset before they are stepped, by reset() or {masked}"
            what = what if self.lead else "call reset() before step()"
            why = "no reset was recorded yet, or the episode ended, or the last step or reset failed"
            raise ResetNeeded(f"{what}: {why}")
        if time >= self.full_time:
            raise BufferFull(
                f"the buffer holds all of the {self.num_slots} steps that it has room for in each env; set "
                "env.buffer to one with room (replay.clear, replay.pop), or record with on_full='overwrite'"
            )
        if time - staging.first == staging.block:
            with uninterrupted():
                self.flush()
                staging.begin_block(time)
        staging.put_action(time, action)
        self.under_way = True

    def end_step(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Mapping[str, Any]) -> None:
        """Record what the environment answered: all of it, or nothing if this raises or is interrupted."""
        staging, now, valid = self.staging, self.standing, self.every
        ended = staging.put_answer(now.time, observation, reward, terminated, truncated)
        if self.agents:
            valid = info["acted"]
        elif self.autoreset == "NextStep":
            valid = ~now.ended
        if self.only is not None:
            valid = valid & self.only
        if valid is not self.every:
            ended = ended & valid
            staging.mask[now.time - staging.first] = valid
        some = bool(ended) if self.lead == () else bool(ended.any())
        replaced = ended if some and self.autoreset == "SameStep" else None
        if staging.extras or replaced is not None:
            staging.put_infos(now.time, valid, replaced, info)
        self.standing = Standing(
            now.time + 1,
            now.num_steps + (self.every.size if valid is self.every else int(np.count_nonzero(valid))),
            now.num_episodes + (int(np.count_nonzero(ended)) if some else 0),
            ended,
            valid & ~ended if some else valid,
            ended if some and self.autoreset == "Disabled" else None,
            None if now.totals is None else now.totals.add(valid, reward, ended, some),
        )
        self.under_way = False

    def begin_reset(self, seed: Any, options: Mapping[str, Any] | None) -> tuple[np.ndarray, Any, np.ndarray]:
        """Give, before the environment sees it, which envs a reset is of, what it begins, and the envs awaited.

        Raises ValueError or TypeError where the buffer cannot hold the seed or options, and RuntimeError where it would
        cut an episode and must not; nothing has happened then.
        """
        mask = (options or {}).get("reset_mask") if self.lead else None  # some environments take it out
        envs, starts = self.every if mask is None else np.array(mask, np.bool_), None
        cut = self.standing.running & envs & ~self._awaited()
        if self.on_cut == "raise" and cut.any():
            who, others = "the env is", ""
            if self.lead:
                who = f"envs {np.flatnonzero(cut).tolist()} are"
                others = "; reset the others alone, by reset(options={'reset_mask': mask})"
            raise RuntimeError(
                f"reset: {who} in mid-episode, and on_cut='raise' keeps a reset from cutting it short; step on until "
                f"it ends{others}, or record with on_cut='truncate'"
            )
        if self.standing.totals is not None:
            if not isinstance(seed, Sequence | np.ndarray):
                seed = [None if seed is None else seed + i * (not self.agents) for i in range(self.every.size)]
            starts = describe_starts(self.standing.totals.fields, list(seed), options)
        awaited, self.under_way = self._awaited(), True
        return envs, starts, awaited

    def end_reset(self, reset: tuple[np.ndarray, Any, np.ndarray], observation: Any) -> None:
        """Record that envs were reset. Running episodes of theirs are truncated at their newest step; no row is added.

        If this is interrupted, the next reset truncates them again, which changes nothing.
        """
        staging, now, (envs, starts, awaited) = self.staging, self.standing, reset
        cut, awaited = now.running & envs, awaited & ~envs
        if cut.any() and now.time > staging.written:
            staging.truncated.array[now.time - 1 - staging.first] |= cut
        elif cut.any():
            with uninterrupted():
                self.keeper.end_episodes(cut.reshape(staging.stored_lead))
        staging.put_start(now.time, observation, envs)
        self.standing = now._replace(
            num_episodes=now.num_episodes + int(np.count_nonzero(cut)),
            ended=now.ended & ~envs,
            running=now.running & ~envs,
            awaited=awaited if awaited.any() else None,
            totals=None if now.totals is None else now.totals.restart(cut, envs, starts),
        )
        self.under_way = False

    def show(self) -> tuple[PyTree, np.ndarray]:
        """Give the observation of every env as it will be stored, and the flags of envs where it begins an episode."""
        goes_on = self.standing.running | (self.standing.ended & (self.autoreset == "NextStep"))
        return self.staging.newest(self.standing.time), ~goes_on

    def record_only(self, envs: np.ndarray | None) -> None:
        """Record the steps of these envs, and void rows of the others; from None on of all, which must be reset."""
        self.only = envs
        if envs is None:
            self.standing = self.standing._replace(awaited=self.every)

    def read(self) -> Any:
        self.flush()
        self.read_time, num_episodes = self.standing.time, self.standing.num_episodes
        if self.checked_episodes != num_episodes:  # nothing else loses a row
            self.checked_episodes = num_episodes
            self.keeper.warn_of_losses()
        return self.keeper.hand_out()

    def adopt(self, buffer: Buffer) -> None:
        """Write into this buffer from now on, unless steps were written into the old one since it was read."""
        if isinstance(self.keeper, StoreKeeper):
            self.keeper.check(buffer)
            return
        time, written = self.standing.time, self.staging.written
        if written > self.read_time:
            raise ValueError(
                f"buffer: {written - self.read_time} slices were written since `.buffer` was last read, and would be "
                "lost; read it after the last step, change it, and set it before the next"
            )
        self.keeper.check(buffer)
        free = self._free_slices(buffer)
        if free < time - written:
            raise ValueError(
                f"buffer: {time - written} slices were recorded since `.buffer` was last read, and it has room for "
                f"{free}; make room in it (replay.pop), or record with on_full='overwrite'"
            )
        self.keeper.adopt(buffer)
        self.num_slots, self.full_time = buffer.num_slots, written + free

    def flush(self) -> None:
        """Write what is staged, and what is known of episodes."""
        with uninterrupted():  # what was written must not be written again
            now = self.standing
            self.staging.hand_on(now.time, self.keeper.extend)
            if now.totals is not None and (rows := now.totals.rows()) is not None:
                self.keeper.set_data(*rows)
                self.standing = now._replace(totals=now.totals._replace(ended=()))

    def _free_slices(self, buffer: Buffer) -> float:
        """Count the slices that may be recorded into a buffer; waits for the device where that has a bound."""
        if self.on_full != "raise" or self.on_disk:
            return math.inf
        return buffer.num_slots - int(np.max(own_part(buffer).rings.clock.held))

    def _awaited(self) -> np.ndarray:
        awaited = self.every if self.under_way else self.standing.awaited
        return ~self.every if awaited is None else awaited


def _check_buffer(buffer: Any, num_envs: int | None) -> None:
    """Raise unless the buffer holds `Transition` steps of so many envs."""
    check_buffer("buffer", buffer)
    held, example = envs_here(buffer), buffer.rings.layout.one_step()
    if not isinstance(example, Transition):
        raise ValueError(
            f"buffer: expected one of Transition steps, got {type(example).__name__}; "
            "create it with replay.create(replay.example_transition(env), ...)"
        )
    if held != (num_envs or 1):
        wanted = "None (or 1)" if num_envs is None else num_envs
        here = "" if held == buffer.num_envs else f", of which {held} lie with this process"
        raise ValueError(
            f"buffer: it was created with num_envs={buffer.num_envs}{here}, and the environment needs {wanted}"
        )
    for name in ("reward", "terminated", "truncated"):
        leaf, kind = getattr(example, name), "" if name == "reward" else " bool"
        if getattr(leaf, "shape", None) != () or (kind and leaf.dtype != np.bool_):
            raise ValueError(f"buffer: expected {name} to be a scalar{kind} for each step")
