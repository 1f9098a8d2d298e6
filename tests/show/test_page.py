"""What the page holds: all episodes in its table, the first ones whole, and nothing that it could run or reach."""

from __future__ import annotations

import base64
import io
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.show import page, recording
from jaxreplay.show.main import main
from jaxreplay.storage import Writer
from tests.show.recordings import HOSTILE, data_set, saved


def page_of(dataset: Dataset, episodes: int = 40) -> str:
    return page.make_page(HOSTILE, recording.of_dataset(dataset), episodes)


def held(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_table_holds_every_episode() -> None:
    data = held(page_of(data_set()))
    assert data["length"] == [4, 7, 10, 13, 16, 19]
    assert data["returns"] == [4, 7, 10, None, 16, 19]
    assert data["end"] == ["terminated", "truncated", "unfinished"] * 2
    assert ["ended", "2 terminated, 2 truncated, 2 unfinished"] in data["facts"]


def test_an_episode_has_its_rewards_actions_and_observations_as_curves_in_this_order() -> None:
    curves = held(page_of(data_set()))["episodes"][1]["curves"]
    first = "observations." + HOSTILE
    assert [curve["name"] for curve in curves] == ["rewards", "actions.turn", f"{first}[0]", f"{first}[1]"]
    assert curves[1] == {"name": "actions.turn", "at": list(range(7)), "values": list(range(7)), "steps": True}


def test_numbers_that_are_not_finite_are_left_out_of_curves() -> None:
    assert held(page_of(data_set()))["episodes"][3]["curves"][0]["values"][:3] == [1, None, 1]


def test_pictures_are_png_files_of_the_frames() -> None:
    (frames,) = held(page_of(data_set()))["episodes"][1]["frames"]
    assert frames["name"] == "observations.pixels"
    assert frames["at"] == list(range(8))
    head, encoded = frames["pictures"][5].split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert (np.asarray(picture) == 5).all()
        assert picture.size == (12, 9)


def test_infos_and_episode_data_are_texts() -> None:
    found = held(page_of(data_set()))["episodes"][2]
    assert found["infos"]["texts"][4] == f"{HOSTILE}: {HOSTILE}, t: 4"
    assert found["data"].startswith("seed: 102, text: ")


def test_no_text_of_a_recording_is_html_of_the_page() -> None:
    text = page_of(data_set())
    assert "</script><script>" not in text.replace("</script>\n<script>", "")
    assert "<img" not in text
    assert text.count("<script") == 2
    assert "&lt;/script&gt;" in text


def test_the_page_reaches_nothing() -> None:
    text = page_of(data_set())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert set(re.findall(r"https?://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<link|@import|\bsrc=[\"']", text.split('id="data"')[0])


def test_of_many_episodes_the_first_are_held_whole_and_the_page_says_so() -> None:
    data = held(page_of(data_set(), episodes=2))
    assert len(data["episodes"]) == 2
    assert len(data["length"]) == 6
    assert "Curves and frames are those of the first 2 of 6 episodes (--episodes N holds more)." in data["notes"]
    assert "actions.wide float64[13,9] a step is not drawn." not in data["notes"]


def test_what_is_too_much_is_bounded_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROWS": 3, "POINTS": 5, "CURVES": 2, "FRAMES": 4, "FRAME_BYTES": 700}.items():
        monkeypatch.setattr(page, name, value)
    monkeypatch.setattr(
        page.Budget, "__init__", lambda self: (setattr(self, "frame_bytes", 700), setattr(self, "notes", []))[0]
    )
    data = held(page_of(data_set()))
    assert len(data["length"]) == len(data["end"]) == 3
    assert [len(each["curves"]) for each in data["episodes"]] == [2] * 6
    assert data["episodes"][5]["curves"][0]["at"] == [0, 4, 9, 14, 18]
    assert data["episodes"][0]["frames"][0]["at"] == [0, 1, 3, 4]
    assert sum(len(frames["pictures"]) for each in data["episodes"] for frames in each["frames"]) < 12
    notes = " ".join(data["notes"])
    for said in ("first 3 of 6 episodes", "first 2 are held", "later ones are left out", "a step is not drawn"):
        assert said in notes


def test_a_data_set_of_no_episodes_and_one_without_rewards_have_a_page() -> None:
    assert held(page_of(Dataset()))["length"] == []
    assert held(page_of(Dataset([Trajectory(np.zeros(3), np.zeros(2))])))["returns"] is None


def test_a_store_is_shown_as_the_data_set_that_it_holds(tmp_path: pathlib.Path) -> None:
    with Writer(tmp_path / "store", segment_bytes=2000) as writer:
        writer.extend(data_set())
    found = recording.read(tmp_path / "store")
    assert found.kind == "store"
    shown, expected = held(page.make_page(HOSTILE, found, 3)), held(page_of(data_set(), 3))
    assert {**shown, "facts": None} == {**expected, "facts": None}
    assert shown["facts"][1:] == expected["facts"][1:]


def test_an_episode_that_is_not_held_is_not_read() -> None:
    asked: list[int] = []

    def episode(i: int) -> recording.Episode:
        asked.append(i)
        return recording.Episode({})

    shown = recording.Recording("test", [], [], np.arange(1000), None, ["cut"] * 1000, episode)
    page.make_page("test", shown, 3)
    assert asked == [0, 1, 2]


def test_another_kind_of_file_is_one_more_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    reader = (lambda path: path.suffix == ".mine", lambda path: recording.of_dataset(data_set(2), "my kind"))
    monkeypatch.setattr(recording, "READERS", (reader, *recording.READERS))
    (tmp_path / "a.mine").touch()
    assert recording.read(tmp_path / "a.mine").kind == "my kind"
    assert recording.read(saved(tmp_path)).kind == "data set"


def test_the_command_writes_the_page_and_says_where(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = saved(tmp_path), tmp_path / "out.html"
    assert main([str(path), "--out", str(out), "--episodes", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert len(held(out.read_text())["episodes"]) == 1
    monkeypatch.chdir(tmp_path)
    assert main([str(path)]) == 0
    assert (tmp_path / "a <b>'&\".html").exists()


def test_the_command_opens_the_page_where_asked(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    out = tmp_path / "out.html"
    assert main([str(saved(tmp_path)), "--out", str(out), "--open"]) == 0
    assert opened == [out.as_uri()]


def test_what_cannot_be_read_is_told_in_a_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    for path in (tmp_path / "none.npz", tmp_path / "broken.npz"):
        assert main([str(path), "--out", str(tmp_path / "out.html")]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"show: {path}")
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "out.html").exists()


def test_show_is_a_word_of_the_library_and_without_it_the_main_job_is_as_it_was(tmp_path: pathlib.Path) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "jaxreplay", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "--episodes" in run("show", "--help")
    usage = run("--help")
    assert "--num-seeds" in usage
    assert "--episodes" not in usage
