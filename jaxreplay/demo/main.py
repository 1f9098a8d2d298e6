"""The command line: train with a progress bar, report the last policy's return, and save what was learnt."""

import argparse
import contextlib
import csv
import functools
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from jaxreplay.demo import dqn, resuming
from jaxreplay.types import PyTree

CHUNKS = 25
TEST_EPISODES = 32
REPORT_EPISODES = 100
SOLVED = 475.0


class Record(NamedTuple):
    """A line of the metrics: one seed's mean loss and returns while training, and in a greedy test after `step` steps.

    While training, `[num_seeds]` of each.
    """

    seed: Any
    step: Any
    loss: Any
    training_return: Any
    test_return: Any


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags; wrong ones end the program with a message and status 2."""
    parser = argparse.ArgumentParser(prog="python -m jaxreplay", description=__doc__.split("\n")[0] if __doc__ else "")
    defaults = dqn.Settings()
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default %(default)s)")
    parser.add_argument("--num-seeds", type=int, default=1, help="train this many seeds in one vmapped program")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="env steps a seed (default %(default)s)")
    parser.add_argument("--num-envs", type=int, default=defaults.num_envs, help="CartPoles stepped together")
    parser.add_argument("--prioritized", action="store_true", help="draw by priorities")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="save the run there as it goes, and go on from there")
    parser.add_argument("--devices", type=int, default=1, help="split envs, buffer and batches over so many devices")
    parser.add_argument("--out", type=pathlib.Path, default="runs/cartpole", help="output folder")
    args = parser.parse_args(argv)
    for name in ("num_seeds", "steps", "num_envs", "devices"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(args, name)}")
    if args.steps < CHUNKS * args.num_envs:
        parser.error(f"--steps: expected at least {CHUNKS} of each env ({CHUNKS * args.num_envs}), got {args.steps}")
    if args.num_envs > 4096:
        parser.error(f"--num-envs: expected at most 4096, got {args.num_envs}")
    for name, count in (("--num-envs", args.num_envs), ("a batch", defaults.batch_size)):
        if count % args.devices:
            parser.error(f"--devices: {args.devices} does not divide {name}, {count}")
    if args.devices > 1 and (found := count_devices(args.devices)) < args.devices:
        parser.error(f"--devices: there are {found}, got {args.devices}")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / ".written").touch()
        (args.out / ".written").unlink()
    except OSError as error:
        parser.error(f"--out: cannot write to {args.out}: {error.strerror}")
    return args


def count_devices(wanted: int) -> int:
    """Count JAX's devices; where these are CPUs, make as many as wanted, unless JAX has begun to use them."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", wanted)
    return jax.device_count()


def main(argv: Sequence[str] | None = None) -> int:
    """Train, report and save; return the exit status."""
    args = parse(argv)
    capacity = dqn.Settings.capacity // args.num_envs * args.num_envs
    settings = dqn.Settings(
        steps=args.steps,
        num_envs=args.num_envs,
        capacity=capacity,
        prioritized=args.prioritized,
        devices=args.devices,
    )
    seeds = range(args.seed, args.seed + args.num_seeds)
    began = time.perf_counter()
    try:
        history, params = train(settings, list(seeds), args.checkpoint)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if args.checkpoint is None:
            raise
        print(f"--checkpoint: {error}", file=sys.stderr)
        return 1
    report_keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 2))(jnp.array(seeds))
    play = functools.partial(dqn.evaluate, settings, num_episodes=REPORT_EPISODES)
    returns = np.asarray(jax.jit(jax.vmap(play))(params, report_keys))
    with (args.out / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([Record._fields, *history])
    save_curve(args.out / "learning_curve.png", history)
    for i, seed in enumerate(seeds):
        last = jax.tree.map(lambda x, i=i: np.asarray(x[i]), params)  # as msgpack: arrays and names, no code
        (args.out / f"parameters_seed{seed}.msgpack").write_bytes(flax.serialization.msgpack_serialize(last))
        mean, low = returns[i].mean(), returns[i].min()
        print(f"seed {seed}: the last policy over {REPORT_EPISODES} fresh episodes: mean {mean:.1f}, lowest {low:.0f}")
    if len(seeds) > 1:
        print(f"mean over {len(seeds)} seeds: {returns.mean():.1f}")
    print(f"{time.perf_counter() - began:.1f} s, compilation included; saved to {args.out}")
    return 0


def train(
    settings: dqn.Settings, seeds: Sequence[int], folder: pathlib.Path | None = None
) -> tuple[list[Record], PyTree]:
    """Train every seed in one program, chunk by chunk, and test the policy after each.

    folder: of a checkpoint, saved after each chunk; if there is one, the run goes on from it, as if it had not stopped.
    Return the tests, and the parameters of the last policy, with the axis of seeds first.
    """
    length = settings.num_updates // CHUNKS

    def chunk(state: dqn.State, seed: jax.Array) -> tuple[dqn.State, Record]:
        state, metrics = dqn.train(settings, state, length)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), state.updates)
        score = dqn.evaluate(settings, state.target, key, TEST_EPISODES).mean()
        mean_length = metrics.lengths / jnp.maximum(metrics.episodes, 1)  # which is the return: each step's reward is 1
        return state, Record(seed, state.updates * settings.num_envs, metrics.loss, mean_length, score)

    seed_array = jnp.array(seeds)
    run = jax.jit(jax.vmap(chunk), donate_argnums=0, out_shardings=(dqn.shardings(settings), None))
    progress = begin(settings, seeds, folder)
    steps = length * settings.num_envs * len(seeds)  # of a chunk
    with tqdm(total=CHUNKS * steps, initial=progress.done * steps, unit="step", unit_scale=True) as bar:
        bar.set_description("compiling")
        while progress.done < CHUNKS:
            progress.state, figures = run(progress.state, seed_array)
            figures = jax.tree.map(np.asarray, figures)
            for name, values in figures._asdict().items():
                progress.tests[name][progress.done] = values
            progress.done += 1
            if folder is not None:
                resuming.save(folder, settings, seeds, progress)
            bar.set_description("training")
            bar.set_postfix(test_return=f"{figures.test_return.mean():.0f}", loss=f"{figures.loss.mean():.3f}")
            bar.update(steps)
    rows = zip(*(progress.tests[name].ravel().tolist() for name in Record._fields), strict=True)
    return [Record(*row) for row in rows], progress.state.target


def begin(settings: dqn.Settings, seeds: Sequence[int], folder: pathlib.Path | None) -> resuming.Progress:
    """Go on from a checkpoint, or start anew where there is none."""
    lie = dqn.shardings(settings)
    make = jax.jit(functools.partial(resuming.start, settings), out_shardings=lie)
    dtypes = Record(*[np.int32] * 2, *[np.float32] * 3)._asdict()
    tests = {name: np.zeros((CHUNKS, len(seeds)), dtype) for name, dtype in dtypes.items()}
    if folder is not None:
        shapes = jax.eval_shape(make, jnp.array(seeds))
        fresh = resuming.Progress(shapes if lie is None else _laid(shapes, lie), tests)
        if found := resuming.resume(folder, settings, seeds, fresh):
            return found
    return resuming.Progress(make(jnp.array(seeds)), tests)


def _laid(shapes: PyTree, shardings: PyTree) -> PyTree:
    """Say of shapes how they lie over devices."""
    lay = lambda x, lie: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lie)  # noqa: E731
    return jax.tree.map(
        lambda lie, part: jax.tree.map(lambda x: lay(x, lie), part),
        shardings,
        shapes,
        is_leaf=lambda x: isinstance(x, jax.sharding.Sharding),
    )


def save_curve(path: pathlib.Path, history: Sequence[Record]) -> None:
    """Plot the greedy test return against env steps as PNG: a thin line a seed, and their mean."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    seeds = sorted({record.seed for record in history})
    curves = np.array([[r.test_return for r in history if r.seed == seed] for seed in seeds])
    steps = [r.step for r in history if r.seed == seeds[0]]
    for seed, curve in zip(seeds, curves, strict=True):
        axes.plot(steps, curve, linewidth=1, alpha=0.6, label=f"seed {seed}")
    if len(seeds) > 1:
        axes.plot(steps, curves.mean(axis=0), color="black", linewidth=2, label="mean")
    axes.axhline(SOLVED, color="gray", linestyle="--", linewidth=1, label=f"solved ({SOLVED:.0f})")
    axes.set(xlabel="environment steps", ylabel="return of the greedy policy", title="DQN on CartPole", ylim=(0, 520))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def load_parameters(path: pathlib.Path) -> PyTree:
    """Read the parameters of a policy that a run saved."""
    return flax.serialization.msgpack_restore(path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
