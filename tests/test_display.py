"""Buffers, samples and data sets show themselves: what is said, what is read for it, and that it never fails."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay._display import arrays, buffers, charts, panel, samples, trajectories
from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.datasets.showing import dataset_panel
from tests import browser
from tests.test_next_observation import buffer_of, step

EXAMPLE = step(0)
NAMES = ("buffer", "sample", "stats", "episodes", "data set", "its episodes", "trajectory")


def block(length: int, num_envs: int) -> replay.Transition:
    """Steps of which every fifth ends its episode."""
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (length, num_envs, *x.shape)), EXAMPLE)
    ends = jnp.broadcast_to((jnp.arange(length) % 5 == 4)[:, None], (length, num_envs))
    return steps.replace(terminated=ends)


@functools.cache
def prioritized() -> replay.Buffer:
    """12 of 20 slots of 2 envs, two rows of env 1 void, all priorities 3."""
    buffer = replay.create(EXAMPLE, 40, 2, sampler=replay.samplers.prioritized(1.0))
    mask = jnp.ones((12, 2), bool).at[jnp.array([3, 7]), 1].set(False)
    buffer = replay.extend(buffer, block(12, 2), mask)
    rows, _ = replay.rows(buffer)
    return replay.set_priorities(buffer, rows, jnp.full(40, 3.0))


def data_set() -> Dataset:
    length = (2, 4, 4)
    return Dataset(
        Trajectory(
            {"x<b>&'": np.zeros((n + 1, 2))}, np.zeros(n, np.int32), np.full(n, 0.5), terminated=n == 4, episode_data={}
        )
        for n in length
    )


@functools.cache
def everything() -> dict[str, Any]:
    buffer = prioritized()
    return {
        "buffer": buffer,
        "sample": replay.sample(buffer, jax.random.key(0), 6),
        "stats": replay.stats(buffer),
        "episodes": replay.episodes(buffer),
        "data set": data_set(),
        "its episodes": data_set().episodes,
        "trajectory": data_set().episode(1),
    }


class Reader(HTMLParser):
    """Checks that tags nest, and keeps the text and the tags of a display, of its rich part and of its fallback."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.rich, self.plain = "", ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        if tag not in ("rect", "path", "br") or not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "pre" in self.open:
            self.plain += data
        elif "style" not in self.open:
            self.rich += data + "\n"


def facts_of(shown: panel.Panel) -> dict[str, str]:
    return dict(shown.facts)


def test_a_buffer_shows_its_capacity_its_rows_its_episodes_and_its_bytes() -> None:
    shown = facts_of(buffers.buffer_panel(prioritized()))
    assert shown["capacity"] == "40 steps: 20 slots x 2 envs"
    assert shown["size"].startswith("22 steps that can be read (55%)")
    assert shown["not readable"].startswith("2 void, removed or lost")
    assert shown["appended"] == "12 slices"
    assert shown["episodes"].startswith("8 begun, 2 open")
    assert shown["bytes"].startswith("2.")
    assert "cpu" in shown["bytes"]


def test_a_buffer_shows_how_full_each_env_is_and_what_of_it_can_be_read() -> None:
    text = buffers.buffer_panel(prioritized()).text()
    assert re.search(r"readable +env 0 60%, env 1 50%", text)
    assert re.search(r"void, removed or lost +env 0 0%, env 1 10%", text)


def test_a_buffer_shows_lengths_of_episodes_and_the_priorities_that_were_set() -> None:
    text = buffers.buffer_panel(prioritized()).text()
    assert "lengths of the newest 8 episodes" in text
    assert re.search(r"priorities of 22 rows that can be drawn\n +3 \[.*\] .*mean 3, median 3", text)


def test_a_buffer_shows_each_leaf_how_it_is_stored_and_the_bytes_it_takes() -> None:
    (table,) = (part for part in buffers.buffer_panel(prioritized()).parts if isinstance(part, panel.Table))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["action"] == ("int32[]", "packed with others", "4", "160 B")
    assert rows["next_observation"] == ("float32[]", "next observation, not stored", "0", "0 B")


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_what_a_display_reads_does_not_grow_with_the_capacity(platform: str) -> None:
    def read(slots: int) -> tuple[Any, int]:
        make = lambda: replay.create(  # noqa: E731
            EXAMPLE, 4 * slots, 4, sampler=replay.samplers.prioritized(), platform=platform, max_episodes=4 * slots
        )
        buffer = jax.eval_shape(make)
        lowered = buffers.read_figures.lower(buffer.rings, buffer.sampler_state, buffer.sampler, 0, 64)
        compiled = lowered.compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.output_size_in_bytes, memory.temp_size_in_bytes

    small, large = read(1 << 10), read(1 << 16)
    assert large[0] == small[0] < 2000
    assert large[1] <= small[1] + 4096


def test_a_display_brings_few_bytes_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = 0
    get = jax.device_get

    def counting(tree: Any) -> Any:
        nonlocal fetched
        fetched += sum(x.nbytes for x in jax.tree.leaves(tree))
        return get(tree)

    monkeypatch.setattr(jax, "device_get", counting)
    buffer = replay.create(EXAMPLE, 1 << 16, 4, sampler=replay.samplers.prioritized())
    buffer = replay.extend(buffer, block(100, 4))
    buffer._repr_html_()
    assert 0 < fetched < 8 * buffers.SAMPLED + 200


@functools.cache
def unreadable() -> dict[str, tuple[Any, str]]:
    """Buffers whose values cannot be read, and what the display says."""
    gone, make = jax.tree.map(jnp.copy, prioritized()), prioritized
    jax.jit(replay.clear, donate_argnums=0)(gone)
    return {
        "donated": (gone, "donated"),
        "abstract": (jax.eval_shape(make), "abstract"),
        "host": (jax.device_get(make()), "NumPy"),
        "shapes": (jax.tree.map(jnp.shape, make()), "other things"),
        "sums": (jax.tree.map(jnp.sum, make()), "other things"),
        "nothing": (jax.tree.map(lambda _: None, make()), "other things"),
        "words": (jax.tree.map(lambda _: "x", make()), "other things"),
    }


@pytest.mark.parametrize("name", ["donated", "abstract", "host", "shapes", "sums", "nothing", "words"])
def test_a_buffer_whose_values_cannot_be_read_is_shown_and_says_why(name: str) -> None:
    buffer, why = unreadable()[name]
    assert why in Reader(buffer._repr_html_()).rich
    assert repr(buffer).startswith("Buffer(")


def test_a_traced_buffer_is_shown_inside_every_transformation() -> None:
    seen: list[str] = []

    def look(b: replay.Buffer) -> jax.Array:
        seen.append(b._repr_html_())
        return replay.size(b)

    buffer = prioritized()
    jax.jit(look)(buffer)
    jax.vmap(look)(jax.tree.map(lambda x: jnp.stack([x, x]), buffer))
    jax.lax.scan(lambda b, _: (b, look(b)), buffer, length=2)
    assert len(seen) >= 3
    assert all("traced" in Reader(text).rich for text in seen)


def test_a_concrete_buffer_is_shown_while_something_else_is_traced() -> None:
    buffer = prioritized()
    jax.jit(lambda x: (Reader(buffer._repr_html_()), x)[1])(1)


@pytest.mark.parametrize("axes", [(3,), (2, 3)])
def test_a_batch_of_buffers_shows_each_of_them(axes: tuple[int, ...]) -> None:
    buffer = prioritized()
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (*axes, *x.shape)), buffer)
    shown = buffers.buffer_panel(batch)
    assert facts_of(shown)["batch"] == f"{' x '.join(map(str, axes))} buffers, each of:"
    assert facts_of(shown)["size"].startswith("22 steps")
    assert "buffer 2 55%" in shown.text()


def test_a_batch_of_buffers_of_different_size_shows_the_range() -> None:
    batch = jax.tree.map(lambda *x: jnp.stack(x), buffer_of(), buffer_of(step(0), step(1)))
    assert facts_of(buffers.buffer_panel(batch))["size"].startswith("0 to 2 steps")


ON_DEVICES = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import jaxreplay as replay
from jaxreplay._display import buffers
buffer = replay.extend(replay.create({"x": jnp.int32(0)}, 32, 4), {"x": jnp.zeros((3, 4), jnp.int32)})
mesh = jax.make_mesh((4,), ("data",))
place = lambda tree, f: jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, f(x))), tree)
split = place(buffer, lambda x: P(None, "data") if x.ndim > 1 else P())
batch = place(jax.tree.map(lambda x: jnp.stack([x] * 4), buffer), lambda x: P("data"))
program = buffers.read_figures.lower(batch.rings, batch.sampler_state, batch.sampler, 1, 64).compile().as_text()
print("all-" in program, *(dict(buffers.buffer_panel(b).facts)["size"] for b in (batch, split)), sep="; ")
"""


def test_on_several_devices_a_display_gathers_no_ring() -> None:
    """A device reads those of a batch that it holds; what is split within a buffer is not read."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES], env=os.environ | flags, capture_output=True, text=True, check=True
    )
    gathers, batch, split = done.stdout.strip().split("; ", 2)
    assert gathers == "False"
    assert batch.startswith("12 steps that can be read")
    assert split == "12 steps are held; what is split over devices is not read"


def test_independent_items_an_empty_buffer_and_prng_keys_are_shown() -> None:
    items = replay.create({"key": jax.random.key(0), "x": jnp.zeros((0, 2))}, 8)
    shown = Reader(items._repr_html_()).rich
    assert "key<fry>[]" in shown
    assert "0 steps that can be read" in shown


def test_what_goes_wrong_is_said_and_not_raised() -> None:
    class Odd:
        rings = property(lambda self: 1 / 0)

    text = arrays.show(lambda: buffers.buffer_panel(Odd()), "Buffer")
    assert "ZeroDivisionError" in Reader(text).rich


@pytest.mark.parametrize("name", NAMES)
def test_a_display_is_well_formed_has_no_script_and_reaches_nothing(name: str) -> None:
    text = everything()[name]._repr_html_()
    read = Reader(text)
    assert not read.tags & {"script", "iframe", "object", "link", "img"}
    assert not {n for n in read.names if n == "id" or n.startswith("on")}
    assert "http" not in text
    assert "url(" not in text


@pytest.mark.parametrize("name", NAMES)
def test_the_text_beside_a_display_says_the_same(name: str) -> None:
    value = everything()[name]
    read = Reader(re.sub(r"<svg.*?</svg>", "", value._repr_html_()))  # a chart's text is its own
    words = {line.strip() for line in read.rich.splitlines()}
    plain = re.sub(r"\s+", " ", read.plain)
    assert words
    assert not [word for word in words if word not in plain]


def test_names_from_users_are_escaped() -> None:
    text = data_set()._repr_html_()
    assert "x<b>" not in text
    assert "x<b>&'" in Reader(text).rich


def test_a_display_stays_small_however_many_envs_and_leaves() -> None:
    example = {f"leaf{i}": jnp.float32(0) for i in range(300)} | {"end": jnp.bool_(False)}
    buffer = replay.create(example, 2000, 1000, episode_end="end")
    assert len(buffer._repr_html_()) < 32_000
    assert "and 242 more" in Reader(buffer._repr_html_()).rich


def test_a_sample_shows_what_was_found_and_reads_none_of_its_data() -> None:
    batch = replay.sample(prioritized(), jax.random.key(0), 6)
    gone = batch.replace(data=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch.data))
    shown = facts_of(samples.sample_panel(gone))
    assert shown["rows found"] == "6 of 6"
    assert shown["env"] == "0 to 1"
    assert shown["probability"].startswith("0.0455")


def test_a_sample_that_is_traced_or_of_several_sources_is_shown() -> None:
    both = replay.concat([prioritized(), prioritized()])
    batch = replay.sample(both, jax.random.key(0), 8)
    assert facts_of(samples.sample_panel(batch))["source"] == "0 to 1"
    jax.jit(lambda b: (Reader(b._repr_html_()), b)[1])(batch)
    assert "abstract" in samples.sample_panel(jax.eval_shape(lambda: batch)).text()


def test_reprs_are_short_and_list_only_few_numbers() -> None:
    buffer = prioritized()
    batch = replay.sample(buffer, jax.random.key(0), 64)
    assert repr(batch).startswith("Sample(rows=int32[64], mask=bool[64], data={observation: float32[64], action: int32")
    assert repr(replay.stats(buffer)).startswith("Stats(capacity=40, time=12, held=24, size=22, void=2, removed=0")
    assert repr(batch.rows) == "Rows(time=int32[64], env=int32[64])"
    assert repr(replay.nth(buffer, jnp.arange(2))) == "Rows(time=[0, 0], env=[0, 1])"
    assert repr(replay.episodes(buffer)).startswith("Episodes(number=int32[20,2], ")
    assert "data={obs" in repr(jax.eval_shape(lambda: batch))
    assert repr(data_set().episode(0)).startswith("Trajectory(2 steps, unfinished; observations.x<b>&': float64[3,2]")
    assert repr(data_set().episodes) == "Episodes(3 episodes, 10 steps)"


def test_stats_show_their_counts() -> None:
    assert facts_of(samples.stats_panel(replay.stats(prioritized())))["void"] == "2"
    abstract = jax.eval_shape(lambda: replay.stats(prioritized()))
    assert facts_of(samples.stats_panel(abstract))["void"] == "int32[]"


def test_a_data_set_shows_lengths_returns_and_how_episodes_ended() -> None:
    held = data_set()
    shown = dataset_panel(held._store, None, held.nbytes)
    assert facts_of(shown)["ended"] == "2 terminated, 0 truncated, 1 unfinished"
    assert "lengths of 3 episodes\n    2 [▄ █] 4 steps, mean 3.333, median 4" in shown.text()
    assert "returns of 3 episodes\n    1 [▄█] 2, mean 1.667, median 2" in shown.text()
    assert facts_of(dataset_panel(Dataset()._store, None, 0))["episodes"] == "0"


def test_the_returns_of_a_long_data_set_are_read_of_a_bounded_number_of_episodes() -> None:
    held = Dataset(Trajectory(np.zeros(2), np.zeros(1), np.ones(1)) for _ in range(1200))
    assert "returns of 1,000 of 1,200 episodes" in held._repr_html_()


def test_a_data_set_shows_what_was_left_out_of_it() -> None:
    clipped = data_set().clip(4)
    assert "dropped episodes: 2" in Reader(clipped._repr_html_()).rich


def test_a_trajectory_shows_its_return_and_its_rewards() -> None:
    shown = trajectories.trajectory_panel(data_set().episode(1))
    assert facts_of(shown) | {"return": "2", "end": "terminated"} == facts_of(shown)
    assert any(isinstance(part, charts.Chart) and "<path" in part.svg for part in shown.parts)


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, 1.0], [5.0] * 3, [1e-30, 1e30], [-1, 0, 1]])
def test_charts_are_drawn_of_any_numbers(values: list[float]) -> None:
    for chart in (charts.histogram("h", np.array(values), "u"), charts.curve("c", np.array(values), "u")):
        Reader(f"<div>{chart.svg}</div>")
        assert "nan" not in chart.svg
        assert "inf" not in chart.svg


def test_a_histogram_has_a_bar_for_each_number_as_high_as_it_is_frequent() -> None:
    chart = charts.histogram("h", np.array([1, 1, 2]), "steps")
    heights = [float(x) for x in re.findall(r"<rect class='a'[^>]* height='([\d.]+)'", chart.svg)]
    assert heights == [charts.HEIGHT, charts.HEIGHT / 2]


HOSTS = {  # how a dark notebook says so in four hosts, and the colour of text there
    "colab": ("<html theme=dark><body style='background:#383838;color:rgb(213,213,213)'>", "rgb(213, 213, 213)"),
    "jupyter": (
        "<html><body data-jp-theme-light=false style='--jp-content-font-color1:rgb(222,222,222)'>",
        "rgb(222, 222, 222)",
    ),
    "vscode": (
        "<html><body class=vscode-dark style='--vscode-editor-foreground:rgb(204,204,204)'>",
        "rgb(204, 204, 204)",
    ),
    "pydata": ("<html data-theme=dark style='--pst-color-text-base:rgb(206,214,221)'><body>", "rgb(206, 214, 221)"),
    "light": ("<html><body style='color:rgb(1,2,3)'>", "rgb(1, 2, 3)"),
}


def test_a_browser_shows_the_rich_part_in_the_colours_of_the_host_and_the_text_without_a_style(
    tmp_path: pathlib.Path,
) -> None:
    shown = prioritized()._repr_html_()
    frames = [f"{start}{shown}</body></html>" for start, _ in HOSTS.values()]
    frames.append(f"<html><body>{re.sub('<style>.*?</style>', '', shown)}</body></html>")
    script = """
    const texts = %s, found = [];
    for (const text of texts) {
      const host = new DOMParser().parseFromString(text, "text/html");
      document.documentElement.replaceChildren(...host.documentElement.childNodes);
      for (const name of document.documentElement.getAttributeNames()) document.documentElement.removeAttribute(name);
      for (const a of host.documentElement.attributes) document.documentElement.setAttribute(a.name, a.value);
      const rich = document.querySelector("div.jaxreplay"), plain = document.querySelector("pre");
      const bar = rich.querySelector("rect.a"), style = (x) => getComputedStyle(x);
      const tall = rich.offsetHeight > 300;
      found.push([style(rich).display, style(plain).display, style(rich).color, style(bar).fill, tall]);
    }
    done(found);
    """
    found = browser.run("<html><body></body></html>", script % json.dumps(frames).replace("<", "\\u003c"), tmp_path)
    *styled, bare = found
    for (name, (_, colour)), (rich, plain, ink, bar, tall) in zip(HOSTS.items(), styled):
        assert (rich, plain, ink, tall) == ("block", "none", colour, True), name
        assert bar == ("rgb(42, 127, 193)" if name == "light" else "rgb(86, 180, 233)"), name
    assert bare[:2] == ["none", "block"]
