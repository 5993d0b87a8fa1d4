"""The volunteer's configuration: TOML, parsed once, frozen; unknown keys are refused by name.

Later wins: default, file, environment (AXIOM_CPU_SHARE for cpu.share), flag. ``KEYS`` is the one
list of keys; template, documentation, parser and ``config show`` all come from it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from axiom_client.decide.model import Limits
from axiom_client.errors import BadValue, ConfigProblem, UnknownKey
from axiom_client.quantities import read_seconds, read_share, read_size

Scalar = bool | int | float | str


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):  # as an environment variable has it
        return bool(value == "true")
    raise ValueError("must be true or false")


def _count(value: Any) -> int:
    if isinstance(value, bool) or not str(value).isdigit():
        raise ValueError("must be a whole number, 0 or more")
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError("must be a text")
    return value


def _proxy(value: Any) -> str:
    text = _text(value)
    if text and not text.startswith(("http://", "https://")):
        raise ValueError("must be a URL such as http://proxy.example:3128")
    return text


class Key(Struct, frozen=True, kw_only=True):
    """One thing that may be set."""

    name: str
    default: Scalar
    read: Callable[[Any], Any]
    about: str

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return f"AXIOM_{self.name.replace('.', '_').upper()}"


KEYS = (
    Key(name="cpu.share", default="100%", read=read_share,
        about="Share of the cores to use. Tasks run at the lowest priority in any case."),
    Key(name="cpu.cores", default=0, read=_count,
        about="At most so many cores; 0 means no further limit."),
    Key(name="cpu.rest_above", default="0%", read=read_share,
        about="Rest while other programs use more than this share of the processor; 0%: never."),
    Key(name="memory.share", default="75%", read=read_share,
        about="Share of the memory that tasks may be promised in all."),
    Key(name="disk.total", default="10 GB", read=read_size,
        about="Disk space that tasks may be promised in all."),
    Key(name="gpu.enabled", default=True, read=_switch,
        about="Whether GPUs may be used."),
    Key(name="run.while_in_use", default=True, read=_switch,
        about="Whether to run while somebody uses this computer."),
    Key(name="run.on_battery", default=False, read=_switch,
        about="Whether to run on battery."),
    Key(name="work.buffer", default="5 min", read=read_seconds,
        about="Work kept waiting for each core, so that a short network outage idles nothing."),
    Key(name="host.name", default="", read=_text,
        about="What the project calls this host; empty: the computer's own name."),
    Key(name="network.proxy", default="", read=_proxy,
        about="Proxy, such as http://proxy.example:3128; empty: the environment's."),
    Key(name="network.ca_bundle", default="", read=_text,
        about="File with further certificates to trust; empty: the system's certificates."),
)  # fmt: skip
_BY_NAME = {key.name: key for key in KEYS}


class Setting(Struct, frozen=True, kw_only=True):
    """An effective value: as written, as understood, and where it came from."""

    key: Key
    written: Scalar
    value: Any
    origin: str


class Config(Struct, frozen=True, kw_only=True):
    """All effective settings. Only ``cli`` and ``loop`` see it whole; the rest get slices."""

    settings: dict[str, Setting]

    def __getitem__(self, name: str) -> Any:
        """The value of one key."""
        return self.settings[name].value

    def limits(self) -> Limits:
        """The slice that decisions need."""
        return Limits(
            cpu_share=self["cpu.share"],
            cpu_cores=self["cpu.cores"],
            memory_share=self["memory.share"],
            disk_bytes=self["disk.total"],
            gpus=self["gpu.enabled"],
            other_load_share=self["cpu.rest_above"],
            while_in_use=self["run.while_in_use"],
            on_battery=self["run.on_battery"],
            buffer_seconds=self["work.buffer"],
        )


def load_config(
    path: Path,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Scalar] | None = None,
) -> Config:
    """Read the file (none equals an empty one) and what overrides it. Raises ConfigProblem."""
    environment = os.environ if environment is None else environment
    in_file = read_file(path)
    settings = {}
    for key in KEYS:
        written, origin = key.default, "default"
        if key.name in in_file:
            written, origin = in_file[key.name], str(path)
        if key.variable in environment:
            written, origin = environment[key.variable], key.variable
        if flags and key.name in flags:
            written, origin = flags[key.name], "flag"
        settings[key.name] = Setting(
            key=key, written=written, value=understand(key, written, origin), origin=origin
        )
    return Config(settings=settings)


def read_file(path: Path) -> dict[str, Any]:
    """The file's settings by full name. Raises ConfigProblem."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigProblem(f"{path} is not valid TOML: {error}; correct it there") from None
    except OSError as error:
        raise ConfigProblem(f"{path} cannot be read: {error.strerror}; check its rights") from None
    found = dict(_flatten("", table))
    for name in found:
        find_key(name, str(path))
    return found


def _flatten(prefix: str, table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in table.items():
        full = f"{prefix}{name}"
        if isinstance(value, dict) and full not in _BY_NAME:
            flat += _flatten(f"{full}.", value)
        else:
            flat.append((full, value))
    return flat


def find_key(name: str, where: str = "") -> Key:
    """The key of that name. Raises UnknownKey with the nearest valid one."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    near = difflib.get_close_matches(name, sorted(_BY_NAME), n=1, cutoff=0.0)[0]
    prefix = f"{where}: " if where else ""
    raise UnknownKey(f"{prefix}there is no key {name!r}; did you mean {near!r}?")


def understand(key: Key, written: Any, origin: str) -> Any:
    """The value behind what was written. Raises BadValue."""
    try:
        return key.read(written)
    except ValueError as error:
        raise BadValue(f"{key.name} = {written!r} (from {origin}): {error}") from None
