"""Detect whether somebody uses the desktop, with a real D-Bus daemon and a simulated logind."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jeepney")
from jeepney import DBusAddress, MessageType, new_error, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from axiom_client.host.logind import SERVICE, desktop_in_use
from axiom_client.host.presence import probe_presence

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/> <allow receive_sender="*"/>
    <allow own="*"/> <allow user="*"/>
  </policy>
</busconfig>
"""
WAIT_SECONDS = 30.0
Session = dict[str, tuple[str, Any]]
ENDED = None  # a session that is listed and gone when it is looked at


def session(**changes: Any) -> Session:
    """A person at an X11 desktop, as logind describes one."""
    values = {"Type": "x11", "Class": "user", "Active": True, "IdleHint": False,
              "LockedHint": False, "Name": "ada", "Seat": ("seat0", "/seat0")}  # fmt: skip
    values |= changes
    signatures = {bool: "b", str: "s", tuple: "(so)"}
    return {name: (signatures[type(value)], value) for name, value in values.items()}


class Logind:
    """Answers as systemd-logind does; ``sessions`` may be changed while it runs."""

    def __init__(self, address: str) -> None:
        self.sessions: list[Session | None] = []
        self._bus: DBusConnection = open_dbus_connection(bus=address)
        self._bus.send_and_get_reply(message_bus.RequestName(SERVICE), timeout=WAIT_SECONDS)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            message = self._bus.receive(timeout=WAIT_SECONDS)
            if message.header.message_type is not MessageType.method_call:
                continue
            member = {code.name: value for code, value in message.header.fields.items()}
            if member["member"] == "Stop":
                return
            self._bus.send(self._answer(message, member["member"], member["path"]))

    def _answer(self, message: Any, member: str, path: str) -> Any:
        if member == "ListSessions":
            rows = [(str(i), 1000, "ada", "seat0", f"/session/_{i}")
                    for i in range(len(self.sessions))]  # fmt: skip
            return new_method_return(message, "a(susso)", (rows,))
        found = self.sessions[int(path.rsplit("_", 1)[1])]
        if found is ENDED:
            return new_error(message, "org.freedesktop.DBus.Error.UnknownObject")
        return new_method_return(message, "a{sv}", (found,))

    def close(self, address: str) -> None:
        """End it."""
        from jeepney import new_method_call

        with open_dbus_connection(bus=address) as bus:
            bus.send(new_method_call(DBusAddress("/", bus_name=SERVICE, interface="x.y"), "Stop"))
            self._thread.join(WAIT_SECONDS)
        self._bus.close()


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a D-Bus daemon that this process takes for the system's."""
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("there is no dbus-daemon here")
    config = tmp_path / "bus.conf"
    config.write_text(CONFIG.format(socket=tmp_path / "bus"))
    daemon = subprocess.Popen(
        [program, f"--config-file={config}", "--nofork", "--print-address=1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert daemon.stdout is not None
    address = daemon.stdout.readline().strip()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    try:
        yield address
    finally:
        daemon.terminate()
        daemon.wait()
        daemon.stdout.close()


@pytest.fixture
def logind(bus: str) -> Iterator[Callable[..., None]]:
    """Sets the sessions that logind knows."""
    service = Logind(bus)

    def know(*sessions: Session | None) -> None:
        service.sessions = list(sessions)

    yield know
    service.close(bus)


def test_who_is_at_the_desktop(logind: Callable[..., None]) -> None:
    cases: list[tuple[list[Session | None], bool]] = [
        ([], False),
        ([session()], True),
        ([session(Type="wayland")], True),
        ([session(IdleHint=True)], False),  # the desktop says that nobody has touched it
        ([session(LockedHint=True)], False),
        ([session(Active=False)], False),  # another user's desktop is in front
        ([session(Type="tty")], False),  # terminals are judged by their last key
        ([session(Class="greeter")], False),  # the login screen is nobody
        ([session(Class="user-early")], True),
        ([session(IdleHint=True), session(Type="mir")], True),
        ([ENDED, session()], True),  # one ended between the listing and the look
        ([ENDED], False),
    ]
    for sessions, in_use in cases:
        logind(*sessions)
        assert desktop_in_use() is in_use, sessions


def test_presence_asks_logind(logind: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axiom_client.host.presence.input_seconds_ago", lambda: float("inf"))
    logind(session())
    assert probe_presence().in_use
    logind(session(IdleHint=True))
    assert not probe_presence().in_use


def test_without_logind_or_without_a_bus_there_is_nobody_to_ask(
    bus: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert desktop_in_use() is None  # a bus, and no logind on it
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'absent'}")
    assert desktop_in_use() is None
