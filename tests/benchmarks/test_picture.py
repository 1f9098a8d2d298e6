"""The picture of a run: every text can be read, and every bar is what the file says."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from benchmarks import __main__ as command
from benchmarks import picture
from benchmarks.results import Result, load, load_machine, save

KEPT = sorted((pathlib.Path(picture.__file__).parent / "results").glob("*.json"))
MACHINE: dict[str, Any] = {"processor": "P", "cores": 2, "device": "cpu", "date": "d", "versions": {"jax": "1"}}


def result(row: tuple[str, str, str], **micros: float) -> Result:
    return Result(row[0], row[1], {"jaxreplay": [1.0]} | {name: [value] for name, value in micros.items()})


ALL_ROWS = [row for rows in picture.GROUPS.values() for row in rows]
RUNS = {path.stem: (load_machine(path), load(path)) for path in KEPT} | {
    "one bar": (MACHINE, [result(ALL_ROWS[0], flashbax=1.0)]),
    "a thousand times": (MACHINE, [result(ALL_ROWS[0], flashbax=1000.0, Brax=0.001)]),
    "all rows, all peers": (MACHINE, [result(row, **dict.fromkeys(picture.COLORS, 0.5)) for row in ALL_ROWS]),
}


@pytest.fixture(params=RUNS, scope="module")
def drawn(request: pytest.FixtureRequest) -> Iterator[Figure]:
    figure = picture.draw(*RUNS[request.param])
    assert figure is not None
    figure.canvas.draw()
    yield figure
    pyplot.close(figure)


def boxes(figure: Figure, kind: type[Any]) -> tuple[list[str], np.ndarray]:
    """What lies where: every text (or bar) that is seen, and its left, bottom, right and top, `[N, 4]`."""
    found: list[Any] = figure.findobj(Text) if kind is Text else list(figure.axes[0].patches)
    seen = [x for x in found if x.get_visible() and (kind is not Text or x.get_text().strip())]
    assert seen
    names = [x.get_text() if kind is Text else str(x) for x in seen]
    return names, np.array([x.get_window_extent().extents for x in seen])


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which boxes `[N, 4]` overlap which others `[M, 4]`, `[N, M]`."""
    one, other = one[:, None], other[None]
    return np.all((one[..., :2] < other[..., 2:]) & (other[..., :2] < one[..., 2:]), axis=-1)


def test_every_text_lies_inside_the_picture(drawn: Figure) -> None:
    names, places = boxes(drawn, Text)
    outside = np.flatnonzero(np.any((places[:, :2] < 0) | (places[:, 2:] > drawn.bbox.max), axis=1))
    assert [names[i] for i in outside] == []


def test_no_text_covers_another(drawn: Figure) -> None:
    names, places = boxes(drawn, Text)
    pairs = np.argwhere(np.triu(overlaps(places, places), 1))
    assert [(names[i], names[j]) for i, j in pairs] == []


def test_no_bar_covers_a_text(drawn: Figure) -> None:
    names, places = boxes(drawn, Text)
    pairs = np.argwhere(overlaps(places, boxes(drawn, Rectangle)[1]))
    assert [names[i] for i, _ in pairs] == []


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_each_ratio_drawn_is_what_the_file_says(path: pathlib.Path) -> None:
    rounds = {(r["workload"], r["mode"]): r["micros"] for r in json.loads(path.read_text())["results"]}
    expected = []
    for workload, mode, _ in ALL_ROWS:
        for peer in picture.COLORS:
            for name, theirs in rounds.get((workload, mode), {}).items():
                if name.split(",")[0] == peer:
                    ours = next(iter(rounds[workload, mode].values()))
                    expected.append(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)))
    figure = picture.draw(load_machine(path), load(path))
    assert figure is not None
    axes = figure.axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]
    values = [text.get_text().split(" ")[0] for text in axes.texts if text.get_text()[0].isdigit()]
    assert ends == pytest.approx(expected, rel=1e-9)
    assert [float(value.removesuffix("x")) for value in values] == pytest.approx(expected, rel=0.05)
    pyplot.close(figure)


def test_every_row_of_the_picture_is_a_workload_of_the_kept_run() -> None:
    path = next(path for path in KEPT if path.stem == "epyc-2-cores")
    assert [(b.group, b.label) for b in picture.bars(load(path)) if b.peer == "flashbax"] == [
        (group, label) for group, rows in picture.GROUPS.items() for _, _, label in rows
    ]


def test_each_peer_drawn_is_in_the_legend_with_its_colour(drawn: Figure) -> None:
    colors = [handle.get_facecolor() for handle in drawn.legends[0].get_patches()]
    assert {bar.get_facecolor() for bar in drawn.axes[0].patches} == set(colors)
    assert len(set(colors)) == len(colors)


def test_the_command_draws_the_picture_of_a_file(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "r.json", MACHINE, [result(ALL_ROWS[0], flashbax=2.0)])
    assert command.main(["plot", str(tmp_path / "r.json")]) == 0
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    save(tmp_path / "none.json", MACHINE, [Result("tracing", "once", {"append": [1.0], "sample": [2.0]})])
    for wrong, message in (("none.json", "none of the workloads"), ("missing.json", "cannot read results")):
        with pytest.raises(SystemExit):
            command.main(["plot", str(tmp_path / wrong)])
        assert message in capsys.readouterr().err
