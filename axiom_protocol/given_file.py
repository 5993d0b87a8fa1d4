"""Text files that people write, edit or copy: read as an editor or a shell has saved them.

Windows' editors put a byte-order mark before UTF-8, and its shell redirects output as UTF-16. The
mark is left out; every other encoding is refused with words that say how to save the file.
"""

from __future__ import annotations

import codecs
from pathlib import Path

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class FileProblem(ValueError):
    """A file cannot be read, or is not text; the message names it and says what to do."""


def read_text(path: Path, bytes_max: int) -> str:
    """The text of a file, without its byte-order mark. Raises FileProblem."""
    return decode(path, read_bytes(path, bytes_max))


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """The file's bytes. Raises FileProblem, also for a file or a device that has more."""
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise FileProblem(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    if len(content) > bytes_max:
        raise FileProblem(f"{path} is larger than {bytes_max:,} bytes; give the right file")
    return content


def decode(path: Path, content: bytes) -> str:
    """The text of what was read from ``path``. Raises FileProblem."""
    for mark, name in _OTHER_ENCODINGS:
        if content.startswith(mark):
            raise _wrong_encoding(path, f"saved as {name}")
    if b"\0" in content:  # text has none; UTF-16 without a mark has many
        raise _wrong_encoding(path, "not a text file, or saved as UTF-16 without a byte-order mark")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _wrong_encoding(path, f"not saved as UTF-8 (see line {line})") from None


def _wrong_encoding(path: Path, fault: str) -> FileProblem:
    return FileProblem(f"{path} is {fault}; open it in an editor and save it as UTF-8")
