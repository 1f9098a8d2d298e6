"""The page: what it holds of a recording, bounded, and its HTML, which reaches nothing outside itself."""

import base64
import dataclasses
import html
import importlib.util
import io
import json
import math
import pathlib
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay._display.pictures import evenly, is_picture, to_rgb
from jaxreplay.show.recording import Episode, Recording

ROWS = 20_000  # of the table of episodes
POINTS = 1_000  # of a curve
CURVES = 24  # of an episode, a number a step each; leaves of more than 8 numbers have none
FRAMES = 300  # of an episode
LOOKED_AT = 16  # frames that decide on the range of values
FRAME_BYTES = 24 * 2**20  # of all frames of the page
TEXTS, LETTERS = 500, 300  # infos of an episode, and letters of each
WIDE = 8


@dataclasses.dataclass
class Budget:
    """What the page may still hold of frames, and what was left out, in words."""

    frame_bytes: int = FRAME_BYTES
    notes: list[str] = dataclasses.field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def make_page(title: str, recording: Recording, episodes: int) -> str:
    """Write the page. episodes: how many, from the first on, it holds with their curves and frames."""
    count, budget = len(recording.length), Budget()
    held = min(count, episodes)
    details = [_details(recording.episode(i), budget) for i in range(held)]
    if held < count:
        budget.note(
            f"Curves and frames are those of the first {held:,} of {count:,} episodes (--episodes N holds more)."
        )
    if count > ROWS:
        budget.note(f"The table lists the first {ROWS:,} of {count:,} episodes.")
    data = {
        "facts": [list(pair) for pair in (*_summary(recording), *recording.facts)],
        "leaves": [list(pair) for pair in recording.leaves],
        "notes": budget.notes,
        "length": recording.length[:ROWS].tolist(),
        "returns": None if recording.returns is None else [_number(x) for x in recording.returns[:ROWS].tolist()],
        "end": list(recording.end[:ROWS]),
        "episodes": details,
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    here = pathlib.Path(__file__).parent
    filled = (here / "page.html").read_text()
    parts = {"TITLE": html.escape(title), "KIND": html.escape(recording.kind), "DATA": safe}
    parts |= {name: (here / f"page.{name.lower()}").read_text() for name in ("CSS", "JS")}
    pieces = filled.split("@@")  # every second one is a name; what is put in is not searched again
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _summary(recording: Recording) -> list[tuple[str, str]]:
    """Say how many episodes there are, how they end, and how lengths and returns are distributed."""
    length, count = recording.length, len(recording.length)
    kinds, counts = np.unique(np.asarray(recording.end, str), return_counts=True)
    found = [("kind", recording.kind), ("episodes", f"{count:,}"), ("steps", f"{int(length.sum()):,}")]
    if not count:
        return found
    found.append(("ended", ", ".join(f"{n:,} {kind}" for kind, n in zip(kinds.tolist(), counts.tolist()))))
    for name, values in (("length", length), ("return", recording.returns)):
        if values is not None:
            low, middle, high = np.quantile(np.asarray(values, np.float64), (0, 0.5, 1))
            found.append((name, f"{low:.5g} to {high:.5g}, median {middle:.5g}, mean {np.mean(values):.5g}"))
    return found


def _details(episode: Episode, budget: Budget) -> dict[str, Any]:
    """Give the curves, frames and texts of one episode."""
    curves: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    order = sorted(episode.leaves, key=lambda path: (not path.startswith("rewards"), not path.startswith("actions")))
    for path in order:
        values = np.asarray(episode.leaves[path])
        if values.dtype.kind == "V":  # bfloat16 and its like
            values = values.astype(np.float32)
        if is_picture(values.shape[1:], values.dtype):
            frames += _frames(path, values, budget)
        elif values.dtype.kind in "biuf" and 0 < math.prod(values.shape[1:]) <= WIDE:
            curves += _curves(path, values)
        else:
            budget.note(f"{path} {trees.describe(values.shape[1:], values.dtype)} a step is not drawn.")
    if len(curves) > CURVES:
        budget.note(f"Of an episode's {len(curves)} curves the first {CURVES} are held.")
    found: dict[str, Any] = {"curves": curves[:CURVES], "frames": frames}
    if episode.infos is not None:
        chosen = evenly(len(episode.infos), TEXTS)
        found["infos"] = {"at": chosen.tolist(), "texts": [_text(episode.infos[i]) for i in chosen]}
    if episode.data is not None:
        found["data"] = _text(episode.data)
    return found


def _curves(path: str, values: np.ndarray) -> list[dict[str, Any]]:
    """Make a curve of each number of a leaf, of steps at even distances where there are many."""
    at = evenly(len(values), POINTS)
    flat = values[at].reshape(len(at), -1).astype(np.float64)
    names = [f"{path}[{', '.join(map(str, i))}]" for i in np.ndindex(values.shape[1:])] if values.ndim > 1 else [path]
    steps = values.dtype.kind != "f"
    return [
        {"name": name, "at": at.tolist(), "values": [_number(x) for x in column], "steps": steps}
        for name, column in zip(names, flat.T.tolist())
    ]


def _frames(path: str, values: np.ndarray, budget: Budget) -> list[dict[str, Any]]:
    """Encode pictures as PNG, at even distances where there are many, as long as the page has room."""
    if importlib.util.find_spec("PIL") is None:
        budget.note("Frames need pillow: pip install 'jaxreplay[plot]'.")
        return []
    from PIL import Image

    at, pictures = evenly(len(values), FRAMES), []
    like = values[evenly(len(values), LOOKED_AT)]
    for i in at:
        if budget.frame_bytes < 0:
            budget.note(f"The page has room for {FRAME_BYTES // 2**20} MiB of frames; later ones are left out.")
            break
        stream = io.BytesIO()
        Image.fromarray(to_rgb(values[i : i + 1], like)[0]).save(stream, "PNG")
        budget.frame_bytes -= len(stream.getvalue())
        pictures.append("data:image/png;base64," + base64.b64encode(stream.getvalue()).decode())
    return [{"name": path, "at": at[: len(pictures)].tolist(), "pictures": pictures}] if pictures else []


def _number(x: float) -> float | None:
    """Round a number to what a curve can show; None where it is not finite."""
    return float(f"{x:.6g}") if math.isfinite(x) else None


def _text(value: Any) -> str:
    text = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) <= LETTERS else text[:LETTERS] + "..."
