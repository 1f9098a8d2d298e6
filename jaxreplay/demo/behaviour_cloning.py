"""`python -m jaxreplay.demo.behaviour_cloning`: imitate the agent of `python -m jaxreplay`, from its recordings.

The expert plays CartPole; its episodes become a data set on disk; a Flax policy learns from it, in one jitted program
that samples from `to_buffer()`, and, where PyTorch is installed, once more from the batches of a torch `DataLoader`.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState

import jaxreplay as replay
from jaxreplay.datasets import Dataset, statistics
from jaxreplay.types import PyTree

try:
    import optax

    from jaxreplay.demo import cartpole, dqn
    from jaxreplay.demo.main import load_parameters, train
except ImportError as error:
    raise ImportError(f"{error}: the demo needs optax, Gymnasium and more: pip install 'jaxreplay[demo]'") from error

REPORT_EPISODES = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """What shapes the programs. `steps` counts updates."""

    steps: int = 2000
    batch_size: int = 256
    hidden: int = 64
    learning_rate: float = 1e-3


class Policy(nn.Module):
    """The logits `[..., 2]` of actions for CartPole observations `[..., 4]`."""

    hidden: int

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Dense(self.hidden)(observation))
        x = nn.tanh(nn.Dense(self.hidden)(x))
        return nn.Dense(2)(x)


def start(settings: Settings, key: jax.Array) -> TrainState:
    """Make the policy's parameters, and an optimizer whose learning rate falls to 0."""
    policy = Policy(settings.hidden)
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps))
    return TrainState.create(apply_fn=policy.apply, params=policy.init(key, jnp.zeros(4)), tx=optimizer)


def update(state: TrainState, observation: jax.Array, action: jax.Array) -> TrainState:
    """Learn from one batch: lower the cross entropy of the expert's actions `[B]`."""

    def loss(params: PyTree) -> jax.Array:
        logits = state.apply_fn(params, observation)
        return optax.softmax_cross_entropy_with_integer_labels(logits, action).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


@functools.partial(jax.jit, static_argnums=0)
def train_from_buffer(settings: Settings, buffer: replay.Buffer, key: jax.Array) -> TrainState:
    """Train in one jitted program: sample, learn, and again."""
    key, start_key = jax.random.split(key)

    def step(state: TrainState, key: jax.Array) -> tuple[TrainState, None]:
        batch = replay.sample(buffer, key, settings.batch_size)
        return update(state, batch.data.observation, batch.data.action), None

    return jax.lax.scan(step, start(settings, start_key), jax.random.split(key, settings.steps))[0]


def train_from_batches(settings: Settings, batches: Iterable[tuple[Any, Any]], key: jax.Array) -> TrainState:
    """Train from batches that come from outside, `(observation, action)` each; every update is one jitted call."""
    step = jax.jit(update, donate_argnums=0)
    state = start(settings, jax.random.split(key)[1])
    for observation, action in batches:
        state = step(state, observation, action)
    return state


def torch_batches(settings: Settings, dataset: Dataset, seed: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Read `steps` shuffled batches of a torch `DataLoader`, as arrays. Raises ImportError without PyTorch."""
    from jaxreplay import convert

    items = convert.to_torch_dataset(dataset, replay.views.select("observation", "action"))
    import torch

    loader = torch.utils.data.DataLoader(
        items,
        batch_size=settings.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=convert.collate,
        generator=torch.Generator().manual_seed(seed),
    )
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    for batch in itertools.islice(endless, settings.steps):
        yield batch["observation"].numpy(), batch["action"].numpy()


def play(choose: Any, key: jax.Array, num_episodes: int) -> Dataset:
    """Play fresh episodes at once, each in an env of its own, with `choose(observation [E, 4]) -> action [E]`."""

    @jax.jit
    def run(key: jax.Array) -> replay.Buffer:
        def step(envs: cartpole.Envs, _: None) -> tuple[cartpole.Envs, replay.Transition]:
            return cartpole.step(envs, choose(cartpole.observe(envs)).astype(jnp.int32), key)

        _, steps = jax.lax.scan(step, cartpole.reset(key, num_episodes), length=cartpole.TIME_LIMIT)
        ended = jnp.logical_or(steps.terminated, steps.truncated).astype(jnp.int32)
        first = jnp.cumsum(ended, axis=0) - ended == 0  # only the first episode of each env is kept
        example = replay.example_transition(cartpole.ENV)
        buffer = replay.create(example, ended.size, num_episodes, max_episodes=2 * num_episodes)
        return replay.extend(buffer, steps, first)

    return Dataset.from_buffer(run(key))


def score(state: TrainState, key: jax.Array) -> float:
    """Play fresh episodes with the greedy policy and return their mean return."""
    return mean_return(play(lambda x: state.apply_fn(state.params, x).argmax(-1), key, REPORT_EPISODES))


def mean_return(dataset: Dataset) -> float:
    returns = statistics(dataset).returns
    return returns.mean if returns else 0.0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jaxreplay.demo.behaviour_cloning")
    parser.add_argument("--expert", type=pathlib.Path, help="parameters_seed0.msgpack of a run (default: train one)")
    parser.add_argument("--episodes", type=int, default=20, help="of the expert to learn from (default %(default)s)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="updates (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, default="runs/behaviour_cloning", help="output folder")
    args = parser.parse_args(argv)
    for name in ("episodes", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if args.expert is not None and not args.expert.is_file():
        parser.error(f"--expert: there is no file {args.expert}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Record, train twice, and report; return 1 if a policy misses 90 percent of the expert's return."""
    args = parse(argv)
    settings = Settings(steps=args.steps)
    record_key, buffer_key, torch_key, score_key = jax.random.split(jax.random.key(args.seed), 4)
    if args.expert is None:
        print("training the expert (python -m jaxreplay saves one, for --expert)")
        expert = jax.tree.map(lambda x: x[0], train(dqn.Settings(), [args.seed])[1])
    else:
        expert = load_parameters(args.expert)
    recorded = play(lambda x: dqn.action_values(dqn.Settings(), expert, x).argmax(-1), record_key, args.episodes)
    args.out.mkdir(parents=True, exist_ok=True)
    recorded.save(args.out / "expert.npz")
    dataset = Dataset.load(args.out / "expert.npz")
    wanted = mean_return(dataset)
    print(f"the expert's episodes, in {args.out / 'expert.npz'}:\n{statistics(dataset)}")

    def report_on(name: str, learn: Any) -> bool:
        began = time.perf_counter()
        reached = score(learn(), score_key)
        took = time.perf_counter() - began
        print(f"{name}: mean return {reached:.1f} over {REPORT_EPISODES} fresh episodes, {took:.1f} s in all")
        return reached >= 0.9 * wanted

    good = report_on("from a buffer, inside jit", lambda: train_from_buffer(settings, dataset.to_buffer(), buffer_key))
    try:
        batches = torch_batches(settings, dataset, args.seed)
        good &= report_on("from a torch DataLoader", lambda: train_from_batches(settings, batches, torch_key))
    except ImportError as error:
        print(f"from a torch DataLoader: left out, {error}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
