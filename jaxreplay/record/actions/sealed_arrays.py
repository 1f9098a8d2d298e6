"""Named arrays in one run of bytes: an uncompressed `.npz` whose comment is a digest of all that stands before it."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np

MARK = b"sha256:"
SEAL_LENGTH = len(MARK) + 64
KINDS = "biufc"  # of the dtypes that are plain data
DATE = (1980, 1, 1, 0, 0, 0)  # one date for all, so that the same arrays give the same bytes


def seal(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encode arrays of numbers and bools as the bytes of a file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", DATE), content.getvalue())
        archive.comment = bytes(SEAL_LENGTH)
    body = stream.getvalue()[:-SEAL_LENGTH]
    return body + MARK + hashlib.sha256(body).hexdigest().encode()


def read_sealed(data: bytes) -> dict[str, np.ndarray]:
    """Decode the arrays, and raise ValueError or zipfile.BadZipFile unless the bytes are just as they were sealed.

    No more memory is taken than the bytes themselves, whatever the headers promise.
    """
    body, found = data[:-SEAL_LENGTH], data[-SEAL_LENGTH:]
    if len(data) <= SEAL_LENGTH or not found.startswith(MARK):
        raise ValueError("the digest at its end is missing: the file was cut, or is of another kind")
    if found[len(MARK) :] != hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its content does not match the digest at its end: the file was altered")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        _check_members(members, len(data))
        return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse an archive that says it holds more than its own bytes, before anything is unpacked."""
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename} is compressed")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members take more bytes than the file has")
    if len({member.filename for member in members}) != len(members):
        raise ValueError("two of its members have one name")


def _array(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"an array in it has the unknown format {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in KINDS:
        raise ValueError(f"an array in it has dtype {dtype}, which is not one of plain numbers")
    rest = len(content) - stream.tell()
    if math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"an array in it says {dtype}{list(shape)}, and holds {rest} bytes")
    flat = np.frombuffer(content, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C").copy()
