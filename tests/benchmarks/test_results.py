"""The pure parts of the benchmarks: ratios, verdicts, tables and files. Nothing here takes a time."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from benchmarks import __main__ as command
from benchmarks.results import Goal, Result, compare, load, load_machine, save, table
from benchmarks.timing import interleave, quartiles, ratio, subtract
from tests.extras import library

pytestmark = pytest.mark.usefixtures("standard_promotion")  # flashbax does not work under strict promotion

RESULT = Result("sample", "in lax.scan", {"jaxreplay": [1.0, 2.0, 3.0], "other": [3.0, 4.0, 9.0]}, Goal("other", 2.5))


def test_ratios_are_medians_over_rounds() -> None:
    assert ratio([1.0, 2.0, 3.0], [3.0, 4.0, 9.0]) == 3.0
    assert quartiles([1.0]) == (1.0, 1.0, 1.0)
    assert subtract([3.0, 1.0], [1.0, 2.0]) == [2.0, 0.0]


def test_runs_are_interleaved() -> None:
    order: list[str] = []
    seconds = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4  # once to warm up
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_the_table_says_medians_speedups_and_verdicts() -> None:
    text = table([RESULT])
    assert "| jaxreplay | 2 us (1 to 3) |  |  |  |  |" in text
    assert "| 3.00x | 2.00x | reached (goal 2.5x) |" in text  # of ratios within rounds 3, of medians 2
    short = Result("sample", "in lax.scan", RESULT.micros, Goal("other", 4))
    assert "SHORT (goal 4x)" in table([short])
    assert Result("x", "y", {"jaxreplay": [1.0]}, Goal("missing", 2)).verdict() == ""


def test_the_table_shows_times_with_and_without_the_consumer() -> None:
    net = Result("sample", "in lax.scan", {"a": [1.0], "b": [2.0]}, raw={"a": [4.0], "b": [5.0], "consumer": [3.0]})
    assert "| a | 1 us (1 to 1) | 4 |" in table([net])
    assert "| b | 2 us (2 to 2) | 5 | 2.00x |" in table([net])


def test_files_keep_every_round(tmp_path: pathlib.Path) -> None:
    machine = {"processor": "P", "cores": 2, "device": "cpu", "date": "d", "versions": {"jax": "1"}}
    kept = [RESULT, Result("memory", "m", {"a": [1.5]}, unit="x", raw={"a": [2.5]})]
    save(tmp_path / "deep" / "r.json", machine, kept)
    assert load(tmp_path / "deep" / "r.json") == kept
    assert load_machine(tmp_path / "deep" / "r.json") == machine
    assert "P, 2 cores" in (tmp_path / "deep" / "r.md").read_text()


@pytest.mark.parametrize("name", ["Ours", "Flashbax"])
def test_contestants_give_the_same_leaves(name: str) -> None:
    """Each is filled, appended to and sampled, and the batch has what a transition has."""
    import jax

    from benchmarks import contestants

    if name == "Flashbax":
        library("flashbax")
    for num_envs in (None, 4):
        contestant = getattr(contestants, name)(contestants.SMALL, 64, num_envs, 8)
        state = contestants.filled(contestant, contestants.SMALL, 64, num_envs)
        step = contestants.stream(contestants.SMALL, () if num_envs is None else (num_envs,))
        state = contestant.append(state, contestant.step(step))
        batch = contestant.sample(state, jax.random.key(0))
        assert [x.shape for x in batch] == [(8, 4), (8,), (8,), (8,), (8,), (8, 4)]


def test_two_runs_are_compared_by_medians_and_by_ratios(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = Result("sample", "in lax.scan", {"jaxreplay": [4.0, 4.0, 4.0], "other": [4.0, 4.0, 4.0]})
    text = compare([RESULT], [slower, Result("new", "y", {"jaxreplay": [1.0]})])
    assert "| jaxreplay | 2 us | 4 us | 2.00x |  |" in text
    assert "| other | 4 us | 4 us | 1.00x | 3.00x, 1.00x |" in text
    assert "new" not in text
    machine = {"processor": "P", "cores": 2, "device": "cpu", "date": "d", "versions": {}}
    for name, result in (("a", RESULT), ("b", slower)):
        save(tmp_path / f"{name}.json", machine, [result])
    assert command.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "2.00x" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "missing.json")])


def test_the_command_starts_no_backend_before_it_has_chosen_its_cores() -> None:
    """XLA asks for the number of cores once, when its threads start."""
    ask = "import jax; from benchmarks import __main__; print(bool(jax._src.xla_bridge._backends))"
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=pathlib.Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["False"]
