"""Reads and writes the configuration file in the form in which an editor saved it.

Windows' editors write a byte-order mark and CRLF line ends; both are kept. TOML is UTF-8 only, so
any other encoding is refused with a message that says how to save the file.
"""

from __future__ import annotations

import codecs
import os
import shutil
from pathlib import Path

from msgspec import Struct

from axiom_client.errors import ConfigProblem

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class TextFile(Struct, frozen=True, kw_only=True):
    """A file's content, with "\\n" line ends where all of the file's were CRLF."""

    text: str
    byte_order_mark: bool = False
    crlf: bool = False

    def encoded(self) -> bytes:
        """The bytes to write: the same mark and line ends as were read."""
        text = self.text.replace("\n", "\r\n") if self.crlf else self.text
        return (codecs.BOM_UTF8 if self.byte_order_mark else b"") + text.encode()


def read_text_file(path: Path) -> TextFile:
    """Read the file. Raises FileNotFoundError, or ConfigProblem where it cannot be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigProblem(
            f"{path} cannot be read: {error.strerror}; check its permissions"
        ) from None
    marked = content.startswith(codecs.BOM_UTF8)
    text = _decode(path, content.removeprefix(codecs.BOM_UTF8))
    crlf = "\r\n" in text and text.count("\n") == text.count("\r\n")
    return TextFile(
        text=text.replace("\r\n", "\n") if crlf else text, byte_order_mark=marked, crlf=crlf
    )


def _decode(path: Path, content: bytes) -> str:
    for mark, name in _OTHER_ENCODINGS:
        if content.startswith(mark):
            raise _wrong_encoding(path, f"saved as {name}")
    if b"\0" in content:  # no TOML file has one; UTF-16 without a mark has many
        raise _wrong_encoding(path, "not a text file, or saved as UTF-16 without a byte-order mark")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _wrong_encoding(path, f"not saved as UTF-8 (see line {line})") from None


def _wrong_encoding(path: Path, fault: str) -> ConfigProblem:
    return ConfigProblem(f"{path} is {fault}; open it in an editor and save it as UTF-8")


def write_text_file(path: Path, file: TextFile) -> None:
    """Replace the file in one step, so that a crash leaves the old one.

    A symbolic link stays one, and the permissions stay: a proxy's password may be in the file.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(file.encoded())
    if target.exists():
        shutil.copymode(target, partial)
    os.replace(partial, target)
