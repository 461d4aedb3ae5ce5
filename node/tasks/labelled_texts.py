"""Labelled texts at a run's host: a file with a label, a tab and a text on each line.

By default 1,392 short texts like tweets, half of them negative and half positive: those that at
least 20 people rated -1 or lower, or 1 or higher, on a scale of -4 to 4 (Hutto & Gilbert 2014,
MIT licence, in tweets.LICENSE.txt).
"""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from node.tasks import TaskDataError
from node.tasks.encoder_set import MAX_LABEL_CHARACTERS, MAX_LABELS, MAX_TEXTS, MIN_TEXTS

MAX_FILE_BYTES = 1 << 28
_DEFAULT = "tweets.tsv"
_HINT = "Each line is a label, a tab and a text, in UTF-8."


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts, no one twice, in the order of their hashes: a fixed shuffle."""

    label_names: tuple[str, ...]
    """In alphabetical order."""
    texts: list[str]
    labels: list[int]
    """Places in `label_names`."""


def read_labelled(path: Path | None) -> LabelledTexts:
    """Return the texts in the file `path`, or the default ones.

    Raises:
        TaskDataError: it can't be read, or has too few or too many texts or labels.
    """
    found = _parse(_read(path))
    names = tuple(sorted(set(found.values())))
    if not 2 <= len(names) <= MAX_LABELS or not MIN_TEXTS <= len(found) <= MAX_TEXTS:
        raise TaskDataError(
            f"{len(found)} texts with {len(names)} labels can't be used:"
            f" it takes {MIN_TEXTS} to {MAX_TEXTS} texts and 2 to {MAX_LABELS} labels",
            hint=_HINT,
        )
    place = {name: index for index, name in enumerate(names)}
    texts = sorted(found, key=lambda text: sha256(text.encode()).digest())
    return LabelledTexts(names, texts, [place[found[text]] for text in texts])


def _read(path: Path | None) -> str:
    try:
        if path is None:
            return (files("node.tasks") / _DEFAULT).read_text(encoding="utf-8")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise TaskDataError(
                f"the texts in {path} are more than {MAX_FILE_BYTES} bytes", hint="Give fewer."
            )
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskDataError(f"the texts can't be read: {error}", hint=_HINT) from error


def _parse(content: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        label, _, text = (part.strip() for part in line.partition("\t"))
        if not label or not text or len(label) > MAX_LABEL_CHARACTERS:
            raise TaskDataError(f"line {number} is not a label, a tab and a text", hint=_HINT)
        if found.setdefault(text, label) != label:
            message = f"line {number} gives a text a second label: {text[:60]!r}"
            raise TaskDataError(message, hint="Leave one of the two out.")
    return found
