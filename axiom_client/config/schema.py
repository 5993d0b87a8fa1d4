"""The volunteer's configuration: TOML, parsed once into frozen values; unknown keys are refused.

Each source overrides those before it: default, file, environment (AXIOM_CPU_SHARE for cpu.share),
flag. ``KEYS`` is the one list of keys, used by the template, the parser and ``config show``.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
from axiom_client.config.text_file import read_text_file
from axiom_client.decide.account import LOWERED_KEYS
from axiom_client.decide.model import AccountControl, Limits
from axiom_client.errors import BadValue, ConfigProblem, UnknownKey

Scalar = bool | int | float | str

COUNT_DIGITS_MAX = 9  # more than any number of cores or tasks
TEXT_CHARACTERS_MAX = 1000


def _read_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):  # environment variables are always strings
        return bool(value == "true")
    raise ValueError("must be true or false")


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not _is_count(str(value)):
        raise ValueError("must be a whole number, 0 or more")
    return int(value)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= COUNT_DIGITS_MAX


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS_MAX:
        raise ValueError(f"must be text of at most {TEXT_CHARACTERS_MAX} characters")
    return value


def _read_interval(value: Any) -> float:
    seconds = read_seconds(value)
    if seconds < 1.0:
        raise ValueError("must be at least 1 s")
    return seconds


def _read_gpu_tasks(value: Any) -> dict[str, int]:
    """Tasks allowed by GPU number; the empty key stands for all other GPUs."""
    tasks: dict[str, int] = {}
    for word in read_names(str(value) if isinstance(value, int) else value):
        gpu, colon, count = (part.strip() for part in word.rpartition(":"))
        if not _is_count(count) or (colon and not _is_count(gpu)):
            raise ValueError("must be a number, or a number for each GPU such as '2, 1:1'")
        tasks[gpu] = int(count)
    return tasks


def _read_proxy(value: Any) -> str:
    """A URL; "host:port" alone means http, as curl and most browsers take it."""
    text = _read_text(value).strip()
    if not text:
        return ""
    url = text if "://" in text else f"http://{text}"
    if not _is_proxy(url):
        raise ValueError("must be a proxy's address such as http://proxy.example:3128")
    return url


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    spaced = any(letter.isspace() for letter in url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not spaced


def _read_kept(value: Any) -> list[str]:
    names = read_names(value)
    for name in names:
        if name not in LOWERED_KEYS:
            raise ValueError(
                f"has {name!r}, which an account cannot set; it can set {', '.join(LOWERED_KEYS)}"
            )
    return names


class Key(Struct, frozen=True, kw_only=True):
    """One key of the configuration. ``about`` is its description, as in the template."""

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
        about="Share of the cores to use. Tasks always run at the lowest priority."),
    Key(name="cpu.cores", default=0, read=_read_count,
        about="Largest number of cores to use; 0: no limit other than cpu.share."),
    Key(name="cpu.rest_above", default="0%", read=read_share,
        about="Pause while other programs use more than this share of the processor; 0%: never."),
    Key(name="cpu.temperature_max", default=0, read=read_temperature,
        about="Pause while the processor is hotter than this many degrees Celsius, until it is 5 "
              "degrees cooler; 0: no limit."),
    Key(name="memory.share", default="75%", read=read_share,
        about="Share of the memory that all tasks together may be given."),
    Key(name="memory.keep_free", default="5%", read=read_size_or_share,
        about="Memory left free for other programs, a size or a share. When less is free, no task "
              "starts and the newest running task is stopped; it runs again later."),
    Key(name="disk.total", default="10 GB", read=read_size,
        about="Disk space that all tasks together may be given."),
    Key(name="disk.keep_free", default="1%", read=read_size_or_share,
        about="Disk space left free, a size or a share of the disk. When less is free, all tasks "
              "pause."),
    Key(name="gpu.enabled", default=True, read=_read_bool,
        about="Whether GPUs may be used."),
    Key(name="gpu.exclude", default="", read=read_names,
        about="GPUs not to use, separated by commas: numbers, UUIDs or parts of names."),
    Key(name="gpu.tasks", default="2", read=_read_gpu_tasks,
        about="Largest number of tasks on one GPU at a time. A second one starts only where both "
              "experiments declare that they can share; \"2, 1:1\": 2, but 1 on GPU number 1."),
    Key(name="run.while_in_use", default=True, read=_read_bool,
        about="Whether tasks run while somebody uses this computer."),
    Key(name="run.on_battery", default=False, read=_read_bool,
        about="Whether tasks run on battery power."),
    Key(name="run.schedule", default="", read=read_schedule,
        about="Hours in which tasks run, in local time, such as \"22:00-07:00\" or "
              "\"mon-fri 22:00-07:00; sat, sun\"; empty: always."),
    Key(name="run.exclusive", default="", read=read_names,
        about="Pause while one of these programs runs; names separated by commas, such as "
              "\"steam, blender\"."),
    Key(name="work.buffer", default="5 min", read=read_seconds,
        about="How much work waits for each core, as running time, so that a short network outage "
              "leaves no core idle."),
    Key(name="account.control", default=True, read=_read_bool,
        about="Whether your account, on the project's pages, may pause this host and lower its "
              "limits. It can never raise them."),
    Key(name="account.keep", default="", read=_read_kept,
        about="Keys whose value here your account does not lower, separated by commas: cpu.share, "
              "cpu.cores, gpu.enabled, run.on_battery, run.schedule."),
    Key(name="host.name", default="", read=_read_text,
        about="Name of this host in the project; empty: the computer's own name."),
    Key(name="update.enabled", default=False, read=_read_bool,
        about="Whether the agent updates itself to releases that the project's staff have signed. "
              "It starts them between tasks, and undoes one that does not work."),
    Key(name="update.every", default="6 h", read=_read_interval,
        about="How often to look for a release."),
    Key(name="update.trial", default="10 min", read=_read_interval,
        about="How long a release may take until it has reached the project's server; then it is "
              "undone."),
    Key(name="network.proxy", default="", read=_read_proxy,
        about="Proxy, such as http://proxy.example:3128; empty: the one named by HTTPS_PROXY and "
              "similar environment variables, if any."),
    Key(name="network.ca_bundle", default="", read=_read_text,
        about="File of certificates to trust instead of the system's; empty: the system's."),
)  # fmt: skip
_BY_NAME = {key.name: key for key in KEYS}


class Setting(Struct, frozen=True, kw_only=True):
    """An effective value: as written, as parsed, and where it came from."""

    key: Key
    written: Scalar
    value: Any
    origin: str


class Config(Struct, frozen=True, kw_only=True):
    """All effective settings. Only ``cli`` and ``loop`` use it whole; other modules get the values
    that they need."""

    settings: dict[str, Setting]

    def __getitem__(self, name: str) -> Any:
        """The value of one key."""
        return self.settings[name].value

    def limits(self) -> Limits:
        """The values that ``decide`` needs."""
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

    def account_control(self) -> AccountControl:
        """How far the account may lower the limits."""
        return AccountControl(enabled=self["account.control"], kept=self["account.keep"])


def load_config(
    path: Path,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Scalar] | None = None,
) -> Config:
    """Read the file and what overrides it; a missing file means defaults. Raises ConfigProblem."""
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
            key=key, written=written, value=parse_value(key, written, origin), origin=origin
        )
    return Config(settings=settings)


def read_flags(words: Sequence[str]) -> dict[str, Scalar]:
    """Parse KEY=VALUE words from the command line. Raises BadValue."""
    flags: dict[str, Scalar] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadValue(f"--set {word!r} is not KEY=VALUE, such as cpu.share=50%")
        flags[name.strip()] = value.strip()
    return flags


def read_file(path: Path) -> dict[str, Any]:
    """The file's settings by full key name. Raises ConfigProblem."""
    try:
        text = read_text_file(path).text
    except FileNotFoundError:
        return {}
    return settings_in(parse_table(text, path), path)


def parse_table(text: str, path: Path) -> dict[str, Any]:
    """The text as a TOML table. Raises ConfigProblem with the place of a mistake."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigProblem(f"{path} is not valid TOML: {error}; correct it there") from None
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        raise ConfigProblem(f"{path} is not a configuration file; correct it there") from None


def settings_in(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The table's settings by full key name. Raises UnknownKey."""
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
    """Refuse misspelt variables and flags, which would otherwise have no effect."""
    sections = tuple(sorted({f"AXIOM_{key.name.partition('.')[0].upper()}_" for key in KEYS}))
    variables = {key.variable for key in KEYS}
    for variable in sorted(environment):
        if variable.startswith(sections) and variable not in variables:
            near = difflib.get_close_matches(variable, sorted(variables), n=1, cutoff=0.0)[0]
            raise UnknownKey(
                f"the environment variable {variable} belongs to no key; did you mean {near}?"
            )
    for name in flags:
        find_key(name, "--set")


def find_key(name: str, where: str = "") -> Key:
    """The key of that name. Raises UnknownKey, which names the most similar key."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    near = difflib.get_close_matches(name, sorted(_BY_NAME), n=1, cutoff=0.0)[0]
    prefix = f"{where}: " if where else ""
    raise UnknownKey(f"{prefix}there is no key {name!r}; did you mean {near!r}?")


def parse_value(key: Key, written: Any, origin: str) -> Any:
    """The value that was written, parsed as its key requires. Raises BadValue."""
    try:
        return key.read(written)
    except ValueError as error:
        raise BadValue(f"{key.name} = {written!r} (from {origin}): {error}") from None
