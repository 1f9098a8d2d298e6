"""Running a policy in a functional JAX environment as one compiled program that ends in one write."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxreplay._core import trees
from jaxreplay.buffer import extend
from jaxreplay.closing import end_episodes
from jaxreplay.stacks import lay_envs
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import PyTree, Transition
from jaxreplay.views import Frames, View, init_frames, push_frames


class RolloutState(struct.PyTreeNode):
    """Where the envs are, `[E, ...]` each: their states, what they show, and int32 steps in the running episode.

    frames: the stacks that the policy sees, of a rollout with `frames`.
    """

    env: PyTree
    observation: PyTree
    elapsed: jax.Array
    frames: Frames | None = None


def rollout(
    env: Any,
    policy: Callable[[Any, jax.Array], Any],
    buffer: Buffer,
    key: jax.Array,
    num_steps: int,
    state: RolloutState | None = None,
    *,
    params: PyTree = None,
    time_limit: int | None = None,
    frames: View | None = None,
) -> tuple[Buffer, RolloutState]:
    """Step functional envs with a policy and append what happened; return the buffer, and the state to go on with.

    env: a `gymnasium.experimental.functional.FuncEnv`, or one with gymnax's `reset` and `step`; of one env, as many of
        them as the buffer has are stepped together. An episode that ends is followed by another in the next step;
        `next_observation` at its end is the true final one.
    policy: `policy(observation, key) -> action`, on observations `[E, ...]` (`[...]` for a single stream). The arrays
        in a `functools.partial(act, params)` are arguments of the program: new parameters do not compile it anew.
    buffer: of `Transition` steps; its extras, by name, are fields of the step's info.
    num_steps: over all envs, so a multiple of their number. state: from the last call; None resets every env.
    params: the environment's, if not its default. time_limit: truncate episodes of so many steps, beside the limits of
        the environment's own.
    frames: `views.frame_stack(n)`: the policy sees stacks `[E, n, ...]`, as this view reads them of the single frames
        that are stored. Give it in each call.

    A pure function: outside jit it copies the buffer, as `append` does; donate it in a jitted function of your own.
    Raises ValueError or TypeError for counts that do not divide, and for what does not fit the buffer.

    >>> import jax, jaxreplay as replay
    >>> from jaxreplay import record
    >>> from gymnasium.envs.phys2d.cartpole import CartPoleFunctional
    >>> env = CartPoleFunctional()
    >>> buffer = replay.create(replay.example_transition(env), 1024, num_envs=4)
    >>> policy = lambda observation, key: jax.random.randint(key, observation.shape[:1], 0, 2)
    >>> buffer, state = record.rollout(env, policy, buffer, jax.random.key(0), 400, time_limit=500)
    >>> replay.size(buffer).item(), state.observation.shape
    (400, (4, 4))
    """
    check_buffer("rollout", buffer)
    if not isinstance(step := buffer.rings.layout.one_step(), Transition):
        raise ValueError(f"buffer: expected one of Transition steps, got {type(step).__name__}")
    trees.check_key(key)
    num_steps, num_envs = trees.check_count("num_steps", num_steps), buffer.num_envs
    if num_steps % num_envs:
        below, above = num_steps // num_envs * num_envs, -(-num_steps // num_envs) * num_envs
        raise ValueError(
            f"num_steps: {num_steps} is not a multiple of num_envs={num_envs}; try {below or above} or {above}"
        )
    limit = None if time_limit is None else trees.check_count("time_limit", time_limit)
    if state is not None and frames != (state.frames and state.frames.view):
        had = "none" if state.frames is None else state.frames.view
        raise ValueError(f"frames: the state was made with {had}, got {frames}; give the same in each call")
    if isinstance(policy, functools.partial):
        policy = jax.tree_util.Partial(policy.func, *policy.args, **policy.keywords)
        policy = jax.tree.map(lambda x: x if isinstance(x, jax.Array | np.ndarray | float) else _Static(x), policy)
    else:
        policy = jax.tree_util.Partial(policy)
    return _rollout(env, policy, buffer, key, state, params, num_steps // num_envs, limit, frames)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """An argument of a policy that shapes the program, as a flag or a name."""

    value: Any


@functools.partial(jax.jit, static_argnames=("env", "length", "time_limit", "frames"), inline=True)
def _rollout(
    env: Any,
    policy: Any,
    buffer: Buffer,
    key: jax.Array,
    state: RolloutState | None,
    params: PyTree,
    length: int,
    time_limit: int | None,
    frames: Any,
) -> tuple[Buffer, RolloutState]:
    is_static = lambda x: isinstance(x, _Static)  # noqa: E731
    act = jax.tree.map(lambda x: x.value if is_static(x) else x, policy, is_leaf=is_static)
    functional, lead = _as_functional(env, params), () if buffer.single else (buffer.num_envs,)
    over = (lambda f: f) if buffer.single else jax.vmap
    keys_of = lambda key: lay_envs(buffer, jax.random.split(key, lead)) if lead else key  # noqa: E731
    reset_key, key = jax.random.split(key)
    example = buffer.rings.layout.one_step()

    def show(state: RolloutState, frames: Frames | None) -> RolloutState:
        """Push what the envs show now onto their frames, as the buffer stores it."""
        if frames is None:
            return state
        stored = _cast("the environment's observation", state.observation, example.observation)
        return state.replace(frames=push_frames(frames, stored, state.elapsed == 0))

    if state is None:
        buffer = end_episodes(buffer)
        env_state, observation = over(functional.reset)(keys_of(reset_key))
        begun = None if frames is None else init_frames(frames, example.observation, lead[0] if lead else None)
        begun, elapsed = lay_envs(buffer, (begun, jnp.zeros(lead, jnp.int32)))
        state = show(RolloutState(env_state, observation, elapsed), begun)

    def one(step_key: jax.Array, again_key: jax.Array, state: RolloutState, action: PyTree) -> Any:
        """Step one env, and begin the next episode where this one ended."""
        going, final, reward, terminated, truncated, info = functional.step(step_key, state.env, action)
        terminated, truncated = (jnp.asarray(x).astype(jnp.bool_) for x in (terminated, truncated))
        late, elapsed = jnp.zeros_like(terminated), state.elapsed + 1
        if time_limit is not None:
            late = (elapsed >= time_limit) & ~terminated & ~truncated
        extras = _keep("extras", example.extras, info)
        steps = Transition(state.observation, action, reward, terminated, truncated | late, final, extras)
        ended = terminated | truncated | late
        again = late if functional.resets_itself else ended
        fresh = functional.reset(again_key)
        env_state, observation = jax.tree.map(lambda a, b: jnp.where(again, a, b), fresh, going)
        return RolloutState(env_state, observation, jnp.where(ended, 0, elapsed)), _cast(
            "the environment's step", steps, example
        )

    def body(state: RolloutState, key: jax.Array) -> tuple[RolloutState, Transition]:
        act_key, step_key, again_key = jax.random.split(key, 3)
        action = act(state.observation if state.frames is None else state.frames.stacked, act_key)
        action, state = lay_envs(buffer, (action, state))
        after, steps = over(one)(keys_of(step_key), keys_of(again_key), state.replace(frames=None), action)
        return show(after, state.frames), steps

    state, steps = jax.lax.scan(body, lay_envs(buffer, state), jax.random.split(key, length))
    return extend(buffer, steps), state


def _keep(path: str, wanted: PyTree, info: Any) -> PyTree:
    """Give the fields of an info that the buffer keeps."""
    if not isinstance(wanted, dict):
        return info
    missing = [name for name in wanted if not isinstance(info, dict) or name not in info]
    if missing:
        has = sorted(map(str, info)) if isinstance(info, dict) else "no fields"
        raise ValueError(f"{path}: the step's info has no {missing}, but {has}; leave it out of the buffer's extras")
    return {name: _keep(f"{path}.{name}", inner, info[name]) for name, inner in wanted.items()}


def _cast(what: str, tree: PyTree, example: PyTree) -> PyTree:
    """Round floats to the buffer's dtypes, and widen what they hold exactly; `extend` refuses the rest by name."""
    treedef = jax.tree.structure(example)
    leaves, cast = trees.check_structure(what, tree, treedef, [path for path, _ in trees.paths(example)]), []
    for leaf, value in zip(jax.tree.leaves(example), map(jnp.asarray, leaves), strict=True):
        floats = jnp.issubdtype(value.dtype, jnp.floating) and jnp.issubdtype(leaf.dtype, jnp.floating)
        plain = leaf.dtype.kind in "biuf" and value.dtype.kind in "biuf"
        fits = floats or (plain and np.can_cast(value.dtype, leaf.dtype, "safe"))
        cast.append(value.astype(leaf.dtype) if fits else value)
    return jax.tree.unflatten(treedef, cast)


class OfFuncEnv:
    """`gymnasium.experimental.functional.FuncEnv`: it never truncates."""

    resets_itself = False

    def __init__(self, env: Any, params: PyTree) -> None:
        self.env, self.more = env, {} if params is None else {"params": params}

    def reset(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        state_key, seen_key = jax.random.split(key)
        state = self.env.initial(state_key, **self.more)
        return state, self.env.observation(state, seen_key, **self.more)

    def step(self, key: jax.Array, state: PyTree, action: PyTree) -> tuple[Any, ...]:
        """Give `(state, observation)` to go on with, final observation, reward, terminated, truncated, and info."""
        keys = jax.random.split(key, 4)
        after = self.env.transition(state, action, keys[0], **self.more)
        seen = self.env.observation(after, keys[1], **self.more)
        reward = self.env.reward(state, action, after, keys[2], **self.more)
        terminated = self.env.terminal(after, keys[3], **self.more)
        info = self.env.transition_info(state, action, after, **self.more)
        return (after, seen), seen, reward, terminated, jnp.zeros_like(terminated), info


class OfGymnax:
    """gymnax from 1.0: `step` resets, tells termination from truncation, and gives `info["final_observation"]`."""

    resets_itself = True

    def __init__(self, env: Any, params: PyTree) -> None:
        given, params = params is not None, getattr(env, "default_params", None) if params is None else params
        self.env = env
        self.of_reset = (params,) if _takes(env.reset, 2) else ()
        self.of_step = (params,) if _takes(env.step, 4) else ()
        if given and not (self.of_reset or self.of_step):
            raise TypeError(f"params: given, but neither reset nor step of {type(env).__name__} takes them")

    def reset(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        observation, state = self.env.reset(key, *self.of_reset)
        return state, observation

    def step(self, key: jax.Array, state: PyTree, action: PyTree) -> tuple[Any, ...]:
        answer = self.env.step(key, state, action, *self.of_step)
        if len(answer) != 6:
            raise TypeError(
                f"env: step gives {len(answer)} values, expected the 6 of gymnax 1.0; gymnax before 1.0 gives 5, and "
                "loses the final observation: pip install 'gymnax>=1.0'"
            )
        observation, state, *ends, info = answer
        if "final_observation" not in info:
            raise ValueError(f"{self.env}: its step resets itself, and gives no info['final_observation']")
        return (state, observation), info["final_observation"], *ends, info


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError) as error:  # ValueError: of some callables the signature cannot be known
        return isinstance(error, ValueError)
    return True


def _as_functional(env: Any, params: PyTree) -> OfFuncEnv | OfGymnax:
    if all(hasattr(env, name) for name in ("initial", "transition", "observation", "terminal")):
        return OfFuncEnv(env, params)
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        raise TypeError(f"env: expected a gymnasium FuncEnv, or reset and step as gymnax has them, got {env}")
    return OfGymnax(env, params)
