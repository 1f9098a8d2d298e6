"""Turn the package's docstrings into Markdown, for the API reference: a griffe extension.

A docstring is plain text: lines `name: what it is`, and examples as in a Python session. Markdown would run the lines
together, and take `>>>` for a quotation.
"""

import re
from typing import Any

import griffe

NAMES = r"[a-z_]\w*(?:\([^)]*\))?"
ITEM = re.compile(rf"({NAMES}(?:, {NAMES})*): (?=\S)")
SENTENCE = re.compile(r"(?<=\.) ")  # after which another item may begin in the same line


class Docstrings(griffe.Extension):
    """Rewrite each docstring once, when its object was read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value, known(obj))


def known(obj: griffe.Object) -> set[str]:
    """Name what an object's docstring may list: parameters, fields and methods."""
    names = set(obj.members)
    if isinstance(obj, griffe.Function | griffe.Class):
        names |= {parameter.name.lstrip("*") for parameter in obj.parameters}
    if (
        isinstance(obj, griffe.Class) and obj.docstring is not None
    ):  # what may be given besides, as a protocol's options
        names |= set(
            re.findall(rf"^({NAMES.partition('(?:')[0]})\(", obj.docstring.value, re.MULTILINE)
        )
    return names


def to_markdown(text: str, names: set[str]) -> str:
    """Rewrite a docstring, paragraph by paragraph."""
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(paragraph(one, names) for one in paragraphs) + "\n"


def match(text: str, names: set[str]) -> re.Match[str] | None:
    """Match the beginning of an item, if its names are those of the object."""
    item = ITEM.match(text)
    return (
        item if item and {name.partition("(")[0] for name in item[1].split(", ")} <= names else None
    )


def split(text: str, names: set[str]) -> list[str]:
    """Split a paragraph into lines, and where an item begins behind a sentence."""
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for i, sentence in enumerate(SENTENCE.split(line)):
            if i and match(sentence, names):
                lines.append(sentence)
            else:
                lines[-1] += f"{' ' * bool(i)}{sentence}"
    return lines


def paragraph(text: str, names: set[str]) -> str:
    """Rewrite one paragraph: a session becomes a block of code, and lines `name: ...` a list."""
    if text.startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if text.startswith("    "):  # an example after `::`
        return text
    if text.endswith("::"):
        text = text[:-1]
    lines: list[str] = []
    listed = False
    for line in split(text, names):
        if item := match(line, names):
            if lines and not listed:
                lines.append("")
            listed = True
            given = ", ".join(f"`{name}`" for name in re.findall(NAMES, item[1]))
            lines.append(f"- {given}: {line[item.end() :]}")
        else:
            lines.append(f"    {line.strip()}" if listed else line)
    return "\n".join(lines)
