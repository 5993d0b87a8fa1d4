"""Downloads bundle files with httpx, with limits on size and time.

python-tuf asks for files through its FetcherInterface and limits their length. This adds a
deadline, refuses redirects and compression (a small file that decompresses to an endless one), and
remembers the file asked for last, because the name of an attack depends on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
from tuf.api import exceptions
from tuf.ngclient import FetcherInterface, UpdaterConfig

from axiom_client.project.refusal import Attack, BundleRefused

FILE_SECONDS_MAX = 120.0  # one file, first byte to last; 5 MB at 40 kB/s
SILENCE_SECONDS_MAX = 20.0  # without any byte, also while connecting
#: Metadata versions are the Unix time at which the server signed; few clocks differ by this much.
AHEAD_SECONDS_MAX = 7 * 86400.0

LIMITS = UpdaterConfig(
    max_root_rotations=256,  # more than a project makes in its lifetime
    max_delegations=4,  # projects publish without delegations
    root_max_length=256_000,  # bytes; a root with a few keys is 3 kB
    timestamp_max_length=16_384,  # bytes; ours is 1 kB
    snapshot_max_length=65_536,  # bytes; it names one file
    targets_max_length=5_000_000,  # bytes; about 20,000 bundles
)


class _MetaFile(msgspec.Struct):
    version: int


class _SignedPart(msgspec.Struct):
    version: int
    meta: dict[str, _MetaFile] = {}


class _Metadata(msgspec.Struct):
    """The version numbers in a timestamp or a snapshot."""

    signed: _SignedPart


class FastForward(exceptions.RepositoryError):
    """Metadata with a version so high that all later honest metadata would look older."""


class HttpFetcher(FetcherInterface):
    """Downloads with ``client``, which is closed when a file takes too long.

    last_file        name of the file asked for last
    received_bytes   bytes of all bodies so far
    """

    def __init__(
        self,
        client: httpx.Client,
        *,
        file_seconds_max: float = FILE_SECONDS_MAX,
        silence_seconds_max: float = SILENCE_SECONDS_MAX,
    ) -> None:
        self.last_file = ""
        self.received_bytes = 0
        self._client = client
        self._file_seconds_max = file_seconds_max
        self._silence_seconds_max = silence_seconds_max

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.last_file = url.rsplit("/", 1)[-1]
        deadline = time.monotonic() + self._file_seconds_max
        try:
            with self._closed_at_deadline():
                yield from self._pieces(url, deadline)
        except httpx.ReadTimeout:
            raise exceptions.SlowRetrievalError(
                f"nothing more of {self.last_file} came for {self._silence_seconds_max:g} s"
            ) from None
        # httpx raises RuntimeError when the client was closed
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, RuntimeError) as e:
            if time.monotonic() > deadline:
                raise self._too_slow() from None
            raise exceptions.DownloadError(f"{self.last_file}: {e}") from None

    def _pieces(self, url: str, deadline: float) -> Iterator[bytes]:
        with self._client.stream(
            "GET",
            url,
            headers={"Accept-Encoding": "identity"},
            timeout=self._silence_seconds_max,
            follow_redirects=False,
        ) as response:
            if response.status_code != 200:
                raise exceptions.DownloadHTTPError(
                    f"the server answered {response.status_code} for {self.last_file}",
                    response.status_code,
                )
            kept = bytearray()
            for piece in response.iter_raw():
                if time.monotonic() > deadline:
                    raise self._too_slow()
                self.received_bytes += len(piece)
                if len(kept) < LIMITS.snapshot_max_length:
                    kept += piece
                yield piece
            if self.last_file.endswith(("timestamp.json", ".snapshot.json")):
                _check_not_ahead(self.last_file, bytes(kept))

    @contextmanager
    def _closed_at_deadline(self) -> Iterator[None]:
        """Close the client at the deadline: httpx limits only the time between two reads."""
        timer = threading.Timer(self._file_seconds_max, self._client.close)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _too_slow(self) -> exceptions.SlowRetrievalError:
        return exceptions.SlowRetrievalError(
            f"{self.last_file} took over {self._file_seconds_max:g} s"
        )


def _check_not_ahead(file: str, data: bytes) -> None:
    """Raise FastForward for a version in the future; python-tuf checks everything else."""
    try:
        signed = msgspec.json.decode(data, type=_Metadata).signed
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    version = max([signed.version, *(file.version for file in signed.meta.values())])
    if version > time.time() + AHEAD_SECONDS_MAX:
        raise FastForward(f"{file} has version {version}, a time in the future")


class CachedMetadata(FetcherInterface):
    """Answers from the metadata on disk, without the network.

    With it python-tuf checks by all its rules whether the stored metadata may still be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rsplit("/", 1)[-1]
        if name != "timestamp.json":  # python-tuf reads the other files from disk itself
            raise exceptions.DownloadHTTPError(f"{name} is not stored here", 404)
        try:
            yield (self._folder / name).read_bytes()
        except OSError as error:
            raise exceptions.DownloadHTTPError(f"{name} is not stored here: {error}", 404) from None


def refusal(error: Exception, file: str) -> BundleRefused:
    """The refusal for an error of python-tuf; ``file`` is the one asked for last."""
    attack, message = _attack_of(error, file)
    other_bytes = isinstance(
        error, (exceptions.LengthOrHashMismatchError, exceptions.DownloadLengthMismatchError)
    )
    return BundleRefused(attack, message, temporary=other_bytes)


def _attack_of(error: Exception, file: str) -> tuple[Attack, str]:
    metadata = file.endswith(".json")
    match error:
        case FastForward():
            return "fast-forward", (
                f"{error}; either the server's keys were stolen, or this computer's clock "
                "is days behind"
            )
        case exceptions.ExpiredMetadataError():
            return "freeze", (
                f"the server offers only metadata that has expired ({error}); "
                "either it withholds newer metadata, or this computer's clock is wrong"
            )
        case exceptions.UnsignedMetadataError():
            return "arbitrary software", f"{file} is not signed with the project's keys ({error})"
        case exceptions.BadVersionNumberError() if _contradicts_other_file(error):
            return "mix-and-match", f"{file} was not signed together with the other files ({error})"
        case exceptions.BadVersionNumberError():
            return "rollback", (
                f"{file} is older than a version that this host has seen ({error}); if the project "
                "was restored from a backup, its staff are to run: axiom-server keys renew"
            )
        case exceptions.LengthOrHashMismatchError() if metadata:
            return "mix-and-match", f"{file} was not signed together with the other files ({error})"
        case exceptions.LengthOrHashMismatchError():
            return "wrong software", f"{file} is not what was signed under its name ({error})"
        case exceptions.DownloadLengthMismatchError():
            return "endless data", f"{file}: {error}"
        case exceptions.SlowRetrievalError():
            return "slow retrieval", str(error)
        case exceptions.DownloadError():
            return "unreachable", str(error)
        case _ if "missing info" in str(error):  # a snapshot that lost a role it had
            return "rollback", f"{file}: {error}"
        case _:
            return "malformed metadata", f"{file}: {error}"


def _contradicts_other_file(error: Exception) -> bool:
    """Whether a wrong version contradicts another file, rather than an earlier version.

    python-tuf raises one class for both. Its messages "Expected snapshot version" and "Expected
    targets v" mean that the signed timestamp or snapshot names another version.
    """
    return str(error).startswith(("Expected snapshot version", "Expected targets v"))
