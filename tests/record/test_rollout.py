"""Functional environments rolled out in one program: every transition is the one that happened."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnasium.experimental.functional import FuncEnv

import jaxreplay as replay
from jaxreplay import record
from jaxreplay.record import rollouts

KEY = jax.random.key(0)


class State(struct.PyTreeNode):
    """Which episode (a random number), and its step."""

    episode: jax.Array
    time: jax.Array


def length_of(episode: jax.Array) -> jax.Array:
    return 1 + episode % 7


class Counter(FuncEnv):
    """Episodes of 1 to 7 steps; an observation tells the episode and the step."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(10)

    def initial(self, rng: Any, params: Any = None) -> State:
        return State(jax.random.randint(rng, (), 0, 1000), jnp.int32(0))

    def transition(self, state: State, action: Any, rng: Any, params: Any = None) -> State:
        return state.replace(time=state.time + 1)

    def observation(self, state: State, rng: Any, params: Any = None) -> jax.Array:
        return jnp.stack([state.episode, state.time]).astype(jnp.float32)

    def reward(self, state: State, action: Any, next_state: State, rng: Any, params: Any = None) -> jax.Array:
        return (state.episode + next_state.time).astype(jnp.float32) + 0.5 + (0 if params is None else params)

    def terminal(self, state: State, rng: Any, params: Any = None) -> jax.Array:
        return state.time >= length_of(state.episode)

    def transition_info(self, state: State, action: Any, next_state: State, params: Any = None) -> dict[str, Any]:
        return {"twice": 2 * action, "unused": 0}


class Params(struct.PyTreeNode):
    max_steps_in_episode: int = 4


class Gymnax:
    """gymnax's convention: `step` resets, tells both ends apart, and gives the final observation in `info`."""

    default_params = Params()
    observation_space, action_space = Counter.observation_space, Counter.action_space

    def reset(self, key: jax.Array, params: Any) -> Any:
        state = State(jax.random.randint(key, (), 0, 1000), jnp.int32(0))
        return self.observe(state), state

    def step(self, key: jax.Array, state: State, action: Any, params: Any) -> Any:
        after = state.replace(time=state.time + 1)
        terminated, truncated = after.time >= length_of(after.episode), after.time >= params.max_steps_in_episode
        reward = (state.episode + after.time).astype(jnp.float32) + 0.5
        fresh = self.reset(key, params)
        pick = functools.partial(jax.tree.map, lambda a, b: jnp.where(terminated | truncated, a, b))
        info = {"twice": 2 * action, "final_observation": self.observe(after)}
        return pick(fresh[0], self.observe(after)), pick(fresh[1], after), reward, terminated, truncated, info

    def observe(self, state: State) -> jax.Array:
        return jnp.stack([state.episode, state.time]).astype(jnp.float32)


class NoParams:
    """Neither reset nor step takes params."""

    observation_space, action_space = Counter.observation_space, Counter.action_space

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def reset(self, key: jax.Array) -> Any:
        return self.inner.reset(key, Params())

    def step(self, key: jax.Array, state: State, action: Any) -> Any:
        return self.inner.step(key, state, action, Params())


def at_random(observation: jax.Array, key: jax.Array) -> jax.Array:
    return jax.random.randint(key, observation.shape[:-1], 0, 10)


def buffer_of(env: Any, num_envs: int | None, slots: int = 60) -> replay.Buffer:
    capacity = slots * (num_envs or 1)
    example = replay.example_transition(env, {"twice": jnp.int32(0)})
    return replay.create(example, capacity, num_envs, max_episodes=capacity)


ENVS = {
    "FuncEnv": (Counter(), 3, 4, {"time_limit": 4}),
    "FuncEnv without a limit": (Counter(), None, 99, {}),
    "gymnax": (Gymnax(), None, 4, {}),
    "gymnax with another limit": (Gymnax(), 3, 3, {"time_limit": 3}),
    "gymnax with parameters": (Gymnax(), 3, 5, {"params": Params(5)}),
    "gymnax without params": (NoParams(Gymnax()), 3, 4, {}),
}


def assert_consistent(buffer: replay.Buffer, limit: int, num_envs: int) -> None:
    """Every row follows from the one before in its env, and each episode's end is where and what it must be."""
    rows, mask = replay.rows(buffer)
    data = jax.tree.map(np.asarray, replay.take(buffer, rows).data)
    assert np.asarray(mask).all()
    for env in range(num_envs):
        mine = jax.tree.map(lambda x, env=env: x[env::num_envs], data)
        count = len(mine.reward)
        starts = 0
        for i in range(count):
            (episode, step), (next_episode, next_step) = mine.observation[i], mine.next_observation[i]
            assert (next_episode, next_step) == (episode, step + 1)
            assert mine.reward[i] == episode + step + 1 + 0.5
            assert mine.extras["twice"][i] == 2 * mine.action[i]
            length = 1 + int(episode) % 7
            assert mine.terminated[i] == (step + 1 >= length)
            assert mine.truncated[i] == (step + 1 >= limit and (step + 1 < length or limit_is_raw(mine, i)))
            if i + 1 < count:
                ended = mine.terminated[i] or mine.truncated[i]
                assert mine.observation[i + 1][1] == (0 if ended else step + 1)
                assert ended or mine.observation[i + 1][0] == episode
                starts += ended
        assert starts > count / 8


def limit_is_raw(mine: Any, i: int) -> bool:
    """gymnax says both where both hold."""
    return bool(mine.truncated[i] and mine.terminated[i])


@pytest.mark.parametrize("name", ENVS)
def test_every_transition_is_the_one_that_happened(name: str) -> None:
    env, num_envs, limit, options = ENVS[name]
    envs = num_envs or 1
    buffer, state = record.rollout(env, at_random, buffer_of(env, num_envs), KEY, 40 * envs, **options)
    buffer, state = record.rollout(env, at_random, buffer, jax.random.key(1), 20 * envs, state, **options)
    assert int(replay.size(buffer)) == 60 * envs
    assert_consistent(buffer, limit, envs)
    newest = replay.Rows(jnp.full(envs, 59, jnp.int32), jnp.arange(envs, dtype=jnp.int32))
    last = replay.take(buffer, newest).data
    goes_on = ~(last.terminated | last.truncated)
    shown = state.observation.reshape(envs, 2)
    np.testing.assert_array_equal(shown[goes_on], last.next_observation[goes_on])
    np.testing.assert_array_equal(shown[~goes_on][:, 1], 0)
    np.testing.assert_array_equal(state.elapsed.reshape(envs)[goes_on], last.next_observation[goes_on][:, 1])


@pytest.mark.usefixtures("standard_promotion")
def test_it_is_what_stepping_by_hand_gives() -> None:
    """The recorded actions applied to the recorded observations of CartPole, whose observation is its state."""
    from gymnasium.envs.phys2d.cartpole import CartPoleFunctional

    env = CartPoleFunctional()
    example = replay.example_transition(env)
    policy = lambda o, key: jax.random.randint(key, o.shape[:-1], 0, 2)  # noqa: E731
    buffer, _ = record.rollout(env, policy, replay.create(example, 400, 4), KEY, 400, time_limit=20)
    rows, _ = replay.rows(buffer)
    data = replay.take(buffer, rows).data
    after = jax.jit(jax.vmap(env.transition))(data.observation, data.action)
    np.testing.assert_allclose(data.next_observation, after, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(data.terminated, jax.vmap(lambda s: env.terminal(s, None))(data.next_observation))
    assert bool(data.truncated.any())
    assert bool(data.terminated.any())
    assert (data.reward == 1).all()


def test_keys_decide_everything() -> None:
    env = Counter()
    one, two, other = (record.rollout(env, at_random, buffer_of(env, 3), jax.random.key(k), 60)[0] for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(one.rings.arrays), jax.tree.leaves(other.rings.arrays)))


def test_a_fresh_start_joins_no_episodes() -> None:
    env = Counter()
    buffer, state = record.rollout(env, at_random, buffer_of(env, 3), KEY, 9)
    running = np.asarray(state.observation[:, 1] > 0)
    assert running.any()
    again, _ = record.rollout(env, at_random, buffer, KEY, 9)
    newest = replay.Rows(jnp.full(3, 2, jnp.int32), jnp.arange(3, dtype=jnp.int32))
    assert np.asarray(replay.take(again, newest).data.truncated)[running].all()
    rows, _ = replay.rows(again)
    data, count = replay.take(again, rows), replay.episodes(again)
    starts = int((np.asarray(data.data.observation[:, 1] == 0) & np.asarray(data.mask)).sum())
    assert int(count.mask.sum()) == starts


def test_inside_a_jitted_vmapped_program_that_trains() -> None:
    """Two seeds in one program, with the policy's parameters traced, and the buffer donated."""
    env = Counter()

    def act(params: jax.Array, observation: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.full(observation.shape[:-1], params.astype(jnp.int32))

    def train(buffer: replay.Buffer, params: jax.Array, key: jax.Array) -> Any:
        def body(carry: Any, key: jax.Array) -> Any:
            buffer, state, params = carry
            buffer, state = record.rollout(env, functools.partial(act, params), buffer, key, 6, state)
            return (buffer, state, params + 1), None

        buffer, state = record.rollout(env, functools.partial(act, params), buffer, key, 6)
        return jax.lax.scan(body, (buffer, state, params + 1), jax.random.split(key, 4))[0][0]

    buffers = jax.vmap(lambda _: buffer_of(env, 3))(jnp.arange(2))
    trained = jax.jit(jax.vmap(train), donate_argnums=0)(buffers, jnp.array([0.0, 3.0]), jax.random.split(KEY, 2))
    for i, first in enumerate((0, 3)):
        buffer = jax.tree.map(lambda x, i=i: x[i], trained)
        rows, mask = replay.rows(buffer)
        actions = np.asarray(replay.take(buffer, rows).data.action)[np.asarray(mask)]
        assert actions.tolist() == [first + k for k in range(5) for _ in range(6)]


def test_new_parameters_compile_nothing() -> None:
    env, compiled = Counter(), []

    def act(params: jax.Array, observation: jax.Array, key: jax.Array) -> jax.Array:
        compiled.append(None)
        return jnp.full(observation.shape[:-1], params.astype(jnp.int32))

    for value in range(3):
        buffer, _ = record.rollout(env, functools.partial(act, jnp.float32(value)), buffer_of(env, 3), KEY, 6)
        assert int(buffer.rings.clock.time) == 2
    assert len(compiled) <= 2


def test_an_argument_of_the_policy_that_is_no_array_shapes_the_program() -> None:
    env = Counter()

    def act(params: jax.Array, observation: jax.Array, key: jax.Array, mode: str, double: bool) -> jax.Array:
        assert mode == "constant"
        chosen = params["action"] * 2 if double else params["action"]
        return jnp.full(observation.shape[:-1], chosen.astype(jnp.int32))

    for double in (False, True):
        policy = functools.partial(act, {"action": np.float32(3), "unused": 1}, mode="constant", double=double)
        buffer, _ = record.rollout(env, policy, buffer_of(env, 3), KEY, 6)
        rows, mask = replay.rows(buffer)
        assert set(np.asarray(replay.take(buffer, rows).data.action)[np.asarray(mask)].tolist()) == {6 if double else 3}


@pytest.mark.compiler
def test_the_ring_stays_in_place() -> None:
    env = Counter()
    buffer = replay.create(replay.example_transition(env), 100_000, 10)
    _, state = record.rollout(env, at_random, buffer, KEY, 10)
    step = lambda buffer, state, key: record.rollout(env, at_random, buffer, key, 100, state)  # noqa: E731
    report = jax.jit(step, donate_argnums=0).lower(buffer, state, KEY).compile().memory_analysis()
    assert report.temp_size_in_bytes < 100_000


def test_wrong_calls() -> None:
    env, buffer = Counter(), buffer_of(Counter(), 3)
    gap = replay.create(replay.example_transition(env, {"speed": jnp.int32(0)}), 30, 3)
    wide = replay.create(replay.example_transition(env).replace(action=jnp.uint8(0)), 30, 3)

    class Old(Gymnax):
        def step(self, *arguments: Any) -> Any:
            return super().step(*arguments)[:5]

    class Silent(Gymnax):
        def step(self, *arguments: Any) -> Any:
            return *super().step(*arguments)[:5], {"twice": 0}

    for arguments, options, error, message in (
        (
            (env, at_random, buffer, KEY, 10),
            {},
            ValueError,
            "num_steps: 10 is not a multiple of num_envs=3; try 9 or 12",
        ),
        ((env, at_random, buffer, KEY, 2), {}, ValueError, "try 3 or 3"),
        ((env, at_random, buffer, KEY, 0), {}, ValueError, "num_steps: expected at least 1"),
        ((env, at_random, buffer, 3, 9), {}, TypeError, "key: expected a PRNG key"),
        ((env, at_random, buffer, KEY, 9), {"time_limit": 0}, ValueError, "time_limit: expected at least 1"),
        ((object(), at_random, buffer, KEY, 9), {}, TypeError, "env: expected a gymnasium FuncEnv, or reset and step"),
        ((Old(), at_random, buffer, KEY, 9), {}, TypeError, r"step gives 5 values, expected the 6 .* 'gymnax>=1.0'"),
        ((Silent(), at_random, buffer, KEY, 9), {}, ValueError, "gives no info.'final_observation'"),
        (
            (NoParams(Gymnax()), at_random, buffer, KEY, 9),
            {"params": Params()},
            TypeError,
            "params: given, but neither reset nor step of NoParams takes them",
        ),
        ((env, at_random, gap, KEY, 9), {}, ValueError, r"extras: the step's info has no \['speed'\]"),
        ((env, at_random, wide, KEY, 9), {}, TypeError, r"action: expected uint8\[3,3\], got int32\[3,3\]"),
        (
            (env, at_random, replay.create({"x": jnp.int32(0)}, 3, 3), KEY, 9),
            {},
            ValueError,
            "expected one of Transition",
        ),
    ):
        with pytest.raises(error, match=message):
            record.rollout(*arguments, **options)
    assert rollouts.rollout is record.rollout


class Peeking(Counter):
    """Its info tells the stack that the policy saw, which comes as the action."""

    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (3, 2), np.float32)

    def transition_info(self, state: State, action: Any, next_state: State, params: Any = None) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(("num_envs", "fill"), [(3, "edge"), (None, "zero")])
def test_the_policy_sees_the_stacks_that_the_view_reads(num_envs: int | None, fill: str) -> None:
    """The policy gives what it sees as the action, over two calls."""
    env, view, envs = Peeking(), replay.views.frame_stack(3, fill=fill), num_envs or 1
    buffer = replay.create(replay.example_transition(env), 30 * envs, num_envs, max_episodes=30 * envs)
    see = lambda observation, key: observation  # noqa: E731
    buffer, state = record.rollout(env, see, buffer, KEY, 20 * envs, time_limit=5, frames=view)
    buffer, state = record.rollout(env, see, buffer, KEY, 10 * envs, state, time_limit=5, frames=view)
    rows, mask = replay.rows(buffer)
    data = replay.take(buffer, rows, view).data
    assert np.asarray(mask).all()
    np.testing.assert_array_equal(data.action, data.observation)
    assert len(np.unique(np.asarray(data.observation)[:, 0, 1])) > 1
    newest = jnp.full(envs, 29, jnp.int32), jnp.arange(envs, dtype=jnp.int32)
    last = replay.take(buffer, replay.Rows(*newest), view).data
    goes_on = np.asarray(~(last.terminated | last.truncated))
    shown = np.asarray(state.frames.stacked).reshape(envs, 3, 2)
    np.testing.assert_array_equal(shown[goes_on], np.asarray(last.next_observation)[goes_on])


def test_frames_of_another_call_are_refused() -> None:
    env, view = Peeking(), replay.views.frame_stack(3)
    buffer = replay.create(replay.example_transition(env), 60)
    see = lambda observation, key: observation  # noqa: E731
    _, state = record.rollout(env, see, buffer, KEY, 20, time_limit=5, frames=view)
    with pytest.raises(ValueError, match=r"frames: the state was made with FrameStackView\(n=3.*, got None; give"):
        record.rollout(env, see, buffer, KEY, 20, state, time_limit=5)
    with pytest.raises(ValueError, match="frames: the state was made with none, got FrameStackView"):
        record.rollout(env, see, buffer, KEY, 20, state.replace(frames=None), time_limit=5, frames=view)


def test_frames_in_a_scan_in_a_vmapped_program() -> None:
    """A view over the stacks, as learners compose it, changes nothing of them."""
    env = Peeking()
    view = replay.views.compose(replay.views.frame_stack(3), replay.views.n_step(2, 0.9))
    see = lambda observation, key: observation  # noqa: E731

    def train(key: jax.Array) -> replay.Buffer:
        buffer = replay.create(replay.example_transition(env), 60, 3, max_episodes=60)
        carry = record.rollout(env, see, buffer, key, 30, time_limit=5, frames=view)

        def body(carry: Any, key: jax.Array) -> Any:
            return record.rollout(env, see, carry[0], key, 3, carry[1], time_limit=5, frames=view), None

        return jax.lax.scan(body, carry, jax.random.split(key, 5))[0][0]

    buffers = jax.jit(jax.vmap(train))(jax.random.split(KEY, 2))
    for i in range(2):
        buffer = jax.tree.map(lambda x, i=i: x[i], buffers)
        rows, mask = replay.rows(buffer)
        data = replay.take(buffer, rows, replay.views.frame_stack(3)).data
        assert int(mask.sum()) == 45
        np.testing.assert_array_equal(data.action[mask], data.observation[mask])
