"""The page in a real browser: what it shows, what clicks and keys do, and that texts of a recording stay texts."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from jaxreplay.show import page, recording
from tests import browser
from tests.show.recordings import HOSTILE, data_set

HELPERS = """
const rows = () => [...document.querySelectorAll("#episodes tbody tr")].map((r) => Number(r.dataset.episode));
const text = (id) => document.getElementById(id).textContent;
const input = (id, value) => {
  const node = document.getElementById(id);
  node.value = value;
  node.dispatchEvent(new Event("input", {bubbles: true}));
};
const sort = (n) => document.querySelectorAll("#episodes th")[n].click();
const found = {};
"""

SCRIPT = """
found.title = document.title;
found.heading = document.querySelector("h1").textContent;
found.facts = text("facts");
found.note = text("notes");
found.rows = rows();
found.cells = [...document.querySelectorAll("#episodes tbody tr")][3].textContent;
sort(1); found.falling = rows(); sort(1); found.rising = rows();
sort(2); found.returns = rows();
sort(0);
input("filter", "length>=7 terminated"); found.filtered = rows(); found.count = text("count");
input("filter", "return<8"); found.low = rows();
input("filter", "nothing"); found.none = rows();
input("filter", "");
document.querySelectorAll("#episodes tbody tr")[2].click();
found.name = text("name"); found.about = text("about");
found.chosen = document.querySelector("#episodes tr.chosen").dataset.episode;
found.curves = [...document.querySelectorAll(".curve b")].map((x) => x.textContent);
found.last = document.getElementById("step").max;
input("step", 6);
found.now = text("now");
found.value = document.querySelectorAll(".curve")[1].querySelector("span:not(.range)").textContent;
found.cursor = document.querySelectorAll(".curve .cursor")[1].getAttribute("x1");
found.caption = document.querySelector("figcaption").textContent;
found.info = text("info");
found.path = document.querySelectorAll(".curve path")[1].getAttribute("d").length > 20;
found.images = document.querySelectorAll("img").length;
found.scripts = document.scripts.length;
found.requests = performance.getEntriesByType("resource").filter((x) => !x.name.startsWith("data:")).length;
const image = document.querySelector("#frames img");
image.decode().then(() => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
  found.pixel = [...canvas.getContext("2d").getImageData(3, 3, 1, 1).data];
  document.getElementById("play").click();
  found.playing = text("play");
  setTimeout(() => {
    found.played = Number(document.getElementById("step").value);
    document.getElementById("play").click();
    found.paused = text("play");
    input("step", 9);
    document.getElementById("play").click();
    setTimeout(() => {
      found.end = Number(document.getElementById("step").value);
      found.stopped = text("play");
      document.querySelectorAll("#episodes tbody tr")[5].click();
      found.bare = text("info");
      found.controls = document.getElementById("controls").hidden;
      done(found);
    }, 1000);
  }, 170);
});
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser saw; it is started once."""
    text = page.make_page(HOSTILE, recording.of_dataset(data_set()), 5)
    return browser.run(text, HELPERS + SCRIPT, tmp_path_factory.mktemp("page"))


def test_the_page_lists_facts_and_episodes(found: dict[str, Any]) -> None:
    assert "69" in found["facts"]
    assert found["rows"] == [0, 1, 2, 3, 4, 5]
    assert found["cells"] == "313not finiteterminated"
    assert "first 5 of 6 episodes" in found["note"]


def test_a_click_on_a_column_sorts_by_it_and_another_turns_the_order(found: dict[str, Any]) -> None:
    assert found["falling"] == [5, 4, 3, 2, 1, 0]
    assert found["rising"] == [0, 1, 2, 3, 4, 5]
    assert found["returns"] == [5, 4, 2, 1, 0, 3]


def test_the_filter_takes_comparisons_and_words(found: dict[str, Any]) -> None:
    assert found["filtered"] == [3]
    assert found["count"] == "1 of 6 episodes"
    assert found["low"] == [0, 1]
    assert found["none"] == []


def test_a_click_on_an_episode_shows_its_curves_and_frames(found: dict[str, Any]) -> None:
    assert found["name"] == "Episode 2"
    assert found["about"].startswith("10 steps, return 10, unfinished; seed: 102, text: </script>")
    assert found["chosen"] == "2"
    assert found["curves"][:2] == ["rewards", "actions.turn"]
    assert found["path"]
    assert found["last"] == "10"


def test_the_slider_moves_every_cursor_the_picture_and_the_info(found: dict[str, Any]) -> None:
    assert found["now"] == "step 6 of 10"
    assert found["value"] == "6"
    assert float(found["cursor"]) == 600
    assert found["caption"] == "observations.pixels, step 6"
    assert found["pixel"] == [6, 6, 6, 255]
    assert found["info"] == f"info of step 6: {HOSTILE}: {HOSTILE}, t: 6"


def test_play_goes_on_step_by_step_can_be_paused_and_stops_at_the_end(found: dict[str, Any]) -> None:
    assert found["playing"] == "Pause"
    assert 7 <= found["played"] <= 10
    assert found["paused"] == "Play"
    assert found["end"] == 10
    assert found["stopped"] == "Play"


def test_an_episode_that_the_page_does_not_hold_says_so(found: dict[str, Any]) -> None:
    assert found["bare"] == "Its curves and frames are not in this page."
    assert found["controls"]


def test_texts_of_a_recording_stay_texts_and_nothing_is_requested(found: dict[str, Any]) -> None:
    assert found["title"] == found["heading"] == HOSTILE
    assert f"observations.{HOSTILE}[0]" in found["curves"]
    assert (found["images"], found["scripts"], found["requests"]) == (1, 3, 0)  # one script is the test's own


def test_a_page_of_no_episodes_is_drawn_without_an_error(tmp_path: pathlib.Path) -> None:
    from jaxreplay.datasets import Dataset

    text = page.make_page("none", recording.of_dataset(Dataset()), 5)
    seen = browser.run(text, 'done([document.getElementById("one").hidden, document.body.innerText]);', tmp_path)
    assert seen[0]
    assert "0 of 0 episodes" in seen[1]
