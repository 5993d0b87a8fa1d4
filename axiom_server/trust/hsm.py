"""Signing keys that stay in a PKCS#11 device, by securesystemslib's HSMSigner.

A key is named ``hsm:ID?label=TOKEN``: the key's number on the token, and the token's label. The
variable PYKCS11LIB names the device's driver library. Keys are ECDSA on P-256 or P-384.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlsplit

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, Key, Signer, SSlibKey

from axiom_server.trust.keys import KeysError

LIBRARY_VARIABLE = "PYKCS11LIB"  # the name that securesystemslib reads
PIN_VARIABLE = "AXIOM_KEYS_PIN"

Prompt = Callable[[], str]  # asks a person for the PIN of the device


def public_key(uri: str, ask: Prompt) -> SSlibKey:
    """The public key of a key in a device. Raises KeysError."""
    number, label = _parts(uri)
    with _as_keys_error(uri):
        _, key = HSMSigner.import_(number, label, lambda _: ask())
    return key


def open_signer(uri: str, trusted: Mapping[str, Key], ask: Prompt) -> Signer:
    """A signer for a key in a device. Raises KeysError, also when the key is not in ``trusted``.

    trusted  the keys that may sign, by their ids
    """
    key = public_key(uri, ask)
    if key.keyid not in trusted:
        raise KeysError(
            f"{uri} has the key {key.keyid[:16]}, which may not sign this; "
            "axiom-server keys list shows those that may, keys change --add adds it"
        )
    return _HsmSigner(*_parts(uri), key, uri, ask)


class _HsmSigner(HSMSigner):
    """An HSMSigner that raises KeysError for errors of the device, and asks for its PIN once."""

    def __init__(
        self, number: int | None, label: str | None, key: SSlibKey, uri: str, ask: Prompt
    ) -> None:
        number = self.SCHEME_KEYID if number is None else number
        super().__init__(number, key, lambda _: ask(), label)
        self._uri = uri

    def sign(self, payload: bytes):  # type: ignore[no-untyped-def]
        """Sign. Raises KeysError."""
        with _as_keys_error(self._uri):
            return super().sign(payload)


def _parts(uri: str) -> tuple[int | None, str | None]:
    """The key's number and the token's label. Raises KeysError."""
    try:
        parts = urlsplit(uri)
        if parts.scheme != HSMSigner.SCHEME:
            raise ValueError
        number = int(parts.path) if parts.path else None
    except ValueError:
        raise KeysError(
            f"{uri!r} does not name a key in a device; write hsm:2?label=TOKEN, "
            "with the key's number and the token's label"
        ) from None
    return number, dict(parse_qsl(parts.query)).get("label")


@contextmanager
def _as_keys_error(uri: str) -> Iterator[None]:
    """Raise KeysError for the errors of securesystemslib and of the driver library."""
    if not os.environ.get(LIBRARY_VARIABLE):
        raise KeysError(
            f"{uri}: set {LIBRARY_VARIABLE} to the device's PKCS#11 library, "
            "such as /usr/lib/softhsm/libsofthsm2.so"
        )
    try:
        from pkcs11.exceptions import PKCS11Error
    except ImportError:
        raise KeysError(f"{uri}: pip install 'axiom-client[server,hsm]' to use devices") from None
    try:
        yield
    except PKCS11Error as error:
        message = str(error) or type(error).__name__
        raise KeysError(f"{uri}: the device refused: {message}") from None
    except (ValueError, RuntimeError, OSError, UnsupportedLibraryError) as error:
        raise KeysError(f"{uri}: {error}") from None
