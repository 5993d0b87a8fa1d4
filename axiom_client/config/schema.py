"""The volunteer's configuration: TOML, parsed once, frozen; unknown keys are refused by name.

Later wins: default, file, environment (AXIOM_CPU_SHARE for cpu.share), flag. ``KEYS`` is the one
list of keys; template, documentation, parser and ``config show`` all come from it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from axiom_client.config.quantities import (
    read_names,
    read_schedule,
    read_seconds,
    read_share,
    read_size,
    read_size_or_share,
    read_temperature,
)
from axiom_client.decide.model import Limits
from axiom_client.errors import BadValue, ConfigProblem, UnknownKey

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


def _gpu_tasks(value: Any) -> dict[str, int]:
    """By the number of the GPU; the empty name stands for all others."""
    found: dict[str, int] = {}
    for word in read_names(str(value) if isinstance(value, int) else value):
        name, colon, count = word.rpartition(":")
        if not count.strip().isdigit() or (colon and not name.strip().isdigit()):
            raise ValueError("must be a number, or a number for each GPU such as '2, 1:1'")
        found[name.strip()] = int(count)
    return found


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
    Key(name="cpu.temperature_max", default=0, read=read_temperature,
        about="Rest while the processor is hotter than so many degrees Celsius, until it is 5 "
              "below; 0: no limit."),
    Key(name="memory.share", default="75%", read=read_share,
        about="Share of the memory that tasks may be promised in all."),
    Key(name="memory.keep_free", default="5%", read=read_size_or_share,
        about="Memory left to other programs, a size or a share: below it nothing more starts, and "
              "the latest task gives way."),
    Key(name="disk.total", default="10 GB", read=read_size,
        about="Disk space that tasks may be promised in all."),
    Key(name="disk.keep_free", default="1%", read=read_size_or_share,
        about="Disk space left free, a size or a share of the disk: below it everything rests."),
    Key(name="gpu.enabled", default=True, read=_switch,
        about="Whether GPUs may be used."),
    Key(name="gpu.exclude", default="", read=read_names,
        about="GPUs to leave alone, with commas between: numbers, UUIDs or parts of names."),
    Key(name="gpu.tasks", default="2", read=_gpu_tasks,
        about="Most tasks on one GPU at a time. A second one starts only where both experiments "
              "declare that they can share; \"2, 1:1\" is 2, but 1 on GPU number 1."),
    Key(name="run.while_in_use", default=True, read=_switch,
        about="Whether to run while somebody uses this computer."),
    Key(name="run.on_battery", default=False, read=_switch,
        about="Whether to run on battery."),
    Key(name="run.schedule", default="", read=read_schedule,
        about="Hours in which to run, local time, such as \"22:00-07:00\" or "
              "\"mon-fri 22:00-07:00; sat, sun\"; empty: always."),
    Key(name="run.exclusive", default="", read=read_names,
        about="Rest while one of these programs runs, with commas between, such as "
              "\"steam, blender\"."),
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
            memory_keep_free=self["memory.keep_free"],
            disk_bytes=self["disk.total"],
            disk_keep_free=self["disk.keep_free"],
            gpus=self["gpu.enabled"],
            gpus_excluded=self["gpu.exclude"],
            gpu_tasks=self["gpu.tasks"],
            other_load_share=self["cpu.rest_above"],
            temperature_max=self["cpu.temperature_max"],
            while_in_use=self["run.while_in_use"],
            on_battery=self["run.on_battery"],
            schedule=self["run.schedule"],
            exclusive=self["run.exclusive"],
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
    _refuse_unknown(environment, flags or {})
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


def read_flags(words: Sequence[str]) -> dict[str, Scalar]:
    """KEY=VALUE from the command line. Raises BadValue."""
    flags: dict[str, Scalar] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadValue(f"--set {word!r} is not KEY=VALUE, such as cpu.share=50%")
        flags[name.strip()] = value.strip()
    return flags


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


def _refuse_unknown(environment: Mapping[str, str], flags: Mapping[str, Scalar]) -> None:
    """A variable that is meant for a key and misses it would do nothing in silence."""
    sections = tuple(sorted({f"AXIOM_{key.name.partition('.')[0].upper()}_" for key in KEYS}))
    variables = {key.variable for key in KEYS}
    for variable in sorted(environment):
        if variable.startswith(sections) and variable not in variables:
            near = difflib.get_close_matches(variable, sorted(variables), n=1, cutoff=0.0)[0]
            raise UnknownKey(
                f"the environment's {variable} stands for no key; did you mean {near}?"
            )
    for name in flags:
        find_key(name, "--set")


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
