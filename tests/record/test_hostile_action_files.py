"""Nothing cut, altered or made up is taken for a record: an error names the file, no code runs, memory is bounded."""

from __future__ import annotations

import io
import pathlib
import pickle
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreplay.datasets.files import archive
from jaxreplay.datasets.files.archive import BLANK
from jaxreplay.record.actions.files import KIND, from_bytes, load_actions, to_bytes
from jaxreplay.record.actions.record import ActionRecord
from tests.record.records import nested, record_of


def test_what_is_no_record_is_refused_by_its_name(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_actions(tmp_path / "missing.npz")
    contents: dict[str, bytes] = {"empty": b"", "text": b"hello" * 50, "pickle": pickle.dumps([1, 2])}
    stream = io.BytesIO()
    np.savez(stream, actions=np.zeros(3))
    contents["npz"] = stream.getvalue()
    for name, content in contents.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.npz: not a whole action record: .*the digest .* is missing"):
            load_actions(tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match=r"empty\.npz: not a whole action record"):
        load_actions(tmp_path)


def assert_refused(path: pathlib.Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=path.name):
        load_actions(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: pathlib.Path) -> None:
    data = to_bytes(nested())
    ends = {*range(0, len(data), 97), *range(len(data) - len(BLANK) - 30, len(data))}
    for end in sorted(ends):
        assert_refused(tmp_path / "cut.npz", data[:end])
    assert_refused(tmp_path / "longer.npz", data + b"\0")
    assert_refused(tmp_path / "doubled.npz", data + data)


def corrupt(path: pathlib.Path, count: int, seed: int) -> None:
    data, rng = to_bytes(nested()), np.random.default_rng(seed)
    for _ in range(count):
        altered = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            altered[place] ^= int(rng.integers(1, 256))
        if rng.random() < 0.2:
            first, second = sorted(rng.integers(len(data), size=2).tolist())
            del altered[first : second + 1]
        if bytes(altered) != data:
            assert_refused(path, bytes(altered))


def test_flipped_bytes_are_refused(tmp_path: pathlib.Path) -> None:
    corrupt(tmp_path / "flipped.npz", 400, 0)


@pytest.mark.slow
def test_ten_thousand_corruptions_are_refused(tmp_path: pathlib.Path) -> None:
    corrupt(tmp_path / "flipped.npz", 10_000, 1)


def test_each_single_byte_counts(tmp_path: pathlib.Path) -> None:
    data = to_bytes(record_of([1]))
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1
        with pytest.raises(Exception):  # noqa: B017, PT011  (load_actions makes a ValueError of any)
            from_bytes(bytes(altered))


def resealed(body: bytes) -> bytes:
    """A file that was made up, with the digest that belongs to it."""
    return body + archive.COMMENT.format(zlib.crc32(body + BLANK)).encode()


def test_made_up_files_with_a_valid_digest_give_an_error_or_a_record_of_their_own_size(tmp_path: pathlib.Path) -> None:
    """What gets past the digest still cannot crash, run code, or take much memory."""
    body, rng = to_bytes(nested())[: -len(BLANK)], np.random.default_rng(2)
    refused = 0
    for _ in range(400):
        altered = bytearray(body)
        for place in rng.integers(len(body), size=2):
            altered[place] = int(rng.integers(256))
        (tmp_path / "made_up.npz").write_bytes(resealed(bytes(altered)))
        try:
            record = load_actions(tmp_path / "made_up.npz")
        except ValueError:
            refused += 1
        else:
            assert isinstance(record, ActionRecord)
            assert len(record) == 5
    assert refused > 200


def archive_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = BLANK
    return resealed(stream.getvalue()[: -len(BLANK)])


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def made_up(**changes: Any) -> bytes:
    """A record of two steps with another content."""
    content, arrays = archive.read(io.BytesIO(to_bytes(record_of([1, 2]))), KIND)
    return seal(content | changes, arrays)


def seal(content: Any, arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    archive.write(stream, KIND, content, arrays)
    return stream.getvalue()


def manifest(text: str) -> bytes:
    return archive_of({"jaxreplay.json": text.encode()})


def packed(count: int, *groups: Any) -> dict[str, Any]:
    return {"count": count, "groups": list(groups), "rest": None, "which": None, "room": None}


def test_bombs_pickles_and_lies_are_refused(tmp_path: pathlib.Path) -> None:
    promise = npy(np.zeros(3)).replace(b"(3,)", b"(9" + b"9" * 11 + b",)", 1)
    content, arrays = archive.read(io.BytesIO(to_bytes(record_of([1, 2]))), KIND)
    deep = manifest('{"x": ' * 100_000)
    files = {
        "a zip bomb": (archive_of({"text.npy": bytes(10**7)}, zipfile.ZIP_DEFLATED), "is compressed"),
        "a header that promises more": (archive_of({"text.npy": promise}), "bytes of them for its shape"),
        "an array of objects": (archive_of({"text.npy": npy(np.array([print], object))}), "object"),
        "no text": (archive_of({"rewards.npy": npy(np.zeros(1))}), "jaxreplay.json does not say"),
        "another format": (manifest('{"format": "other", "version": 9}'), "does not say that this is a jaxreplay act"),
        "another version": (manifest(f'{{"format": "{KIND}", "version": 9}}'), "it has version 9 of the format"),
        "another return": (made_up(**{"return": "3.0"}), "its rewards add up to"),
        "a seed of words": (made_up(seed="__import__('os')"), "expected int or NoneType, got"),
        "other actions": (made_up(actions=packed(2, "int:rewards")), "rewards"),
        "a count of its own": (made_up(actions=packed(10**12, None)), "expected 2 values"),
        "a deep nest": (deep, "not a whole action record"),
        "more arrays": (seal(content, arrays | {"more": np.zeros(3)}), "unknown arrays: more"),
    }
    for name, (data, message) in files.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}.npz.*{message}"):
            load_actions(path)


def test_overlapping_members_are_refused(tmp_path: pathlib.Path) -> None:
    """Many entries that point to the same bytes would unpack to many times the file's size."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("text.npy", npy(np.zeros(10_000)))
        for i in range(100):
            twin = zipfile.ZipInfo(f"twin{i}.npy")
            for field in ("CRC", "compress_size", "file_size", "header_offset", "flag_bits", "external_attr"):
                setattr(twin, field, getattr(archive.filelist[0], field))
            archive.filelist.append(twin)
        archive.comment = BLANK
    path = tmp_path / "overlap.npz"
    path.write_bytes(resealed(stream.getvalue()[: -len(BLANK)]))
    with pytest.raises(ValueError, match=r"overlap\.npz.*its members take more bytes than the file has"):
        load_actions(path)


@settings(settings.get_profile("short"), max_examples=60)
@given(st.binary(max_size=400))
def test_no_bytes_at_all_do_worse_than_an_error(data: bytes) -> None:
    for content in (data, resealed(data), resealed(b"PK\x03\x04" + data)):
        with pytest.raises(Exception):  # noqa: B017, PT011  (load_actions makes a ValueError of any)
            from_bytes(content)
