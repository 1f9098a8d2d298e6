"""Stores at URLs: the same data set as in the folder, of which the bytes of rows are asked for and no others."""

from __future__ import annotations

import functools
import http.server
import pathlib
import pickle
import re
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay.datasets import Dataset
from jaxreplay.storage import Writer, manifest
from jaxreplay.storage.places import Remote
from tests.datasets.episodes import all_same, same_tree
from tests.extras import library
from tests.storage.test_same import episodes_of

library("tensorstore")


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, and ranges of them, which Python's own server does not know. sent: bytes, of all requests."""

    sent = 0

    def do_GET(self) -> None:
        path = pathlib.Path(self.translate_path(self.path))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        first, last = (int(found[1]), min(int(found[2]), len(data) - 1)) if found else (0, len(data) - 1)
        if first >= len(data):
            return self.send_error(416)
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])
        Ranges.sent += last + 1 - first
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder that is served, with a store of several segments."""
    made = tmp_path_factory.mktemp("served")
    write(made / "store")
    return made


@pytest.fixture(scope="module")
def address(folder: pathlib.Path) -> Iterator[str]:
    yield from serve(folder, Ranges)


def serve(folder: pathlib.Path, handler: type[Any]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def write(folder: pathlib.Path, **options: Any) -> None:
    with Writer(folder, segment_bytes=500, **options) as writer:
        writer.extend(episodes_of(np.random.default_rng(0), [5, 9, 3, 12, 7, 4]))


@pytest.mark.parametrize("kind", ["http", "file"])
def test_a_store_at_a_url_is_the_same_data_set(folder: pathlib.Path, address: str, kind: str) -> None:
    plain = Dataset.open(folder / "store")
    opened = Dataset.open(f"{address}/store" if kind == "http" else f"file://{folder}/store", verify=True)
    assert opened.equals(plain)
    all_same(opened, list(plain))
    for rows in (np.array([30, 0, 3, 3]), slice(2, 39, 5), np.array([[1, 2], [39, 38]]), slice(0, 0), 7):
        same_tree(opened[rows], plain[rows], str(rows))
    assert opened.infos() == plain.infos()
    view = replay.views.frame_stack(3)
    batches = (list(d.batches(jax.random.key(0), 16, view, workers=2)) for d in (opened, plain))
    same_tree(*batches, "batches")
    assert pickle.loads(pickle.dumps(opened)).equals(plain)


@pytest.mark.parametrize(("stored", "module"), [("zarr3", "tensorstore"), ("png", "PIL"), ("video-lossless", "av")])
def test_compressed_columns_are_read_by_url(tmp_path: pathlib.Path, stored: str, module: str) -> None:
    library(module)
    write(tmp_path / "store", compress={"observation.frame": stored})
    opened = Dataset.open(f"file://{tmp_path}/store", verify=True)
    assert opened.equals(Dataset.open(tmp_path / "store"))
    rows = np.array([17, 0, 33, 17])
    same_tree(opened[rows], Dataset.open(tmp_path / "store")[rows], "rows")


def test_a_read_asks_for_the_bytes_of_its_rows_alone(folder: pathlib.Path, address: str) -> None:
    with Writer(folder / "large") as writer:
        writer.extend(replay.datasets.Trajectory(np.zeros((101, 5000), np.uint8), np.zeros(100)) for _ in range(3))
    opened = Dataset.open(f"{address}/large")
    opened[[0]]
    before = Ranges.sent
    opened[np.array([250, 10, 11])]
    assert 5 * 5000 <= Ranges.sent - before < 5 * 5000 + 5000


def test_refresh_sees_commits_at_a_url(folder: pathlib.Path, address: str) -> None:
    write(folder / "grows")
    opened = Dataset.open(f"{address}/grows")
    write(folder / "grows")
    assert len(opened.refresh()) == 2 * len(opened)


def test_what_is_not_there_is_named(folder: pathlib.Path, address: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/: it holds no store: there is no manifest\.json"):
        Dataset.open(f"{address}/nowhere")
    with pytest.raises(ValueError, match="nonsense://x"):
        Dataset.open("nonsense://x")
    with pytest.raises(ValueError, match="http://x/y: a store is written to a folder"):
        Writer("http://x/y")


@pytest.mark.parametrize("name", ["000000.actions.npy", "000001.observations.frame.npy", "000001.index.npy"])
@pytest.mark.parametrize("how", ["missing", "cut", "another header"])
def test_a_damaged_file_at_a_url_is_named(tmp_path: pathlib.Path, name: str, how: str) -> None:
    write(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    path.unlink() if how == "missing" else path.write_bytes(data[:-9] if how == "cut" else data[:70] + data[71:])
    with pytest.raises(ValueError, match=re.escape(name)):
        Dataset.open(f"file://{tmp_path}")[:]


def test_a_manifest_at_a_url_that_was_changed_is_refused(tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    path = tmp_path / manifest.FILE
    path.write_bytes(path.read_bytes().replace(b'"steps": ', b'"steps": 1', 1))
    with pytest.raises(ValueError, match=r"manifest\.json: .*digest"):
        Dataset.open(f"file://{tmp_path}")


def test_a_server_that_sends_whole_files_alone_is_refused(folder: pathlib.Path) -> None:
    class Whole(http.server.SimpleHTTPRequestHandler):
        log_message = Ranges.log_message

    for address in serve(folder, Whole):
        with pytest.raises(ValueError, match=r"index\.npy: .*byte range"):
            Dataset.open(f"{address}/store")


def test_a_library_that_is_too_old_is_named(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def read(self, file: str, *, batch: Any = None) -> Any:
            raise AssertionError("it is not called without a range")

    place = Remote(f"file://{folder}/store")
    monkeypatch.setattr(place, "files", Old())
    with pytest.raises(ModuleNotFoundError, match=r"needs TensorStore 0\.\d+\.\d+ or newer"):
        place.start("x", [(0, 1)])
