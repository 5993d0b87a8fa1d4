"""Reads and writes the configuration file in the form in which an editor saved it.

Windows' editors write a byte-order mark and CRLF line ends; both are kept. TOML is UTF-8 only, so
any other encoding is refused with a message that says how to save the file.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from msgspec import Struct

from axiom_client.errors import ConfigProblem
from axiom_protocol.durable_file import replace_file
from axiom_protocol.given_file import FileProblem, decode

CONFIG_BYTES_MAX = 1_000_000  # more is no configuration


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
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigProblem(
            f"{path} cannot be read: {error.strerror}; check its permissions"
        ) from None
    if len(content) > CONFIG_BYTES_MAX:
        raise ConfigProblem(f"{path} is larger than {CONFIG_BYTES_MAX:,} bytes; shorten it")
    try:
        text = decode(path, content)
    except FileProblem as problem:
        raise ConfigProblem(str(problem)) from None
    marked = content.startswith(codecs.BOM_UTF8)
    crlf = "\r\n" in text and text.count("\n") == text.count("\r\n")
    return TextFile(
        text=text.replace("\r\n", "\n") if crlf else text, byte_order_mark=marked, crlf=crlf
    )


def write_text_file(path: Path, file: TextFile) -> None:
    """Replace the file in one step, so that a power cut leaves the old one or the new one.

    A symbolic link stays one. Owner and permissions stay: a proxy's password may be in the file,
    and the service reads it when root has changed it.
    """
    replace_file(path.resolve(), file.encoded(), keep_access=True)
