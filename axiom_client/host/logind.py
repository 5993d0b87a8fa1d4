"""Asks systemd-logind over D-Bus whether somebody uses a desktop of this computer.

A desktop reports to logind when its user has been away for a while (IdleHint) or has locked the
screen. A desktop that never reports counts as in use while somebody is logged in to it.
"""

from __future__ import annotations

from typing import Any

from jeepney import DBusAddress, Properties, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import DBusErrorResponse, unwrap_msg

ANSWER_SECONDS = 2.0  # logind answers within milliseconds; a hanging bus must not block the agent
SERVICE = "org.freedesktop.login1"
MANAGER = DBusAddress("/org/freedesktop/login1", bus_name=SERVICE, interface=f"{SERVICE}.Manager")
GRAPHICAL = ("x11", "wayland", "mir")


def desktop_in_use() -> bool | None:
    """Whether any session is in use; None if there is no logind."""
    try:
        with open_dbus_connection(bus="SYSTEM") as bus:
            return any(_in_use(session) for session in _sessions(bus))
    except (OSError, KeyError, ValueError, DBusErrorResponse):  # no bus, no logind, or no answer
        return None


def _sessions(bus: DBusConnection) -> list[dict[str, Any]]:
    listing = _call(bus, new_method_call(MANAGER, "ListSessions"))
    sessions = []
    for _, _, _, _, path in listing[0]:
        address = DBusAddress(path, bus_name=SERVICE, interface=f"{SERVICE}.Session")
        try:
            (found,) = _call(bus, Properties(address).get_all())
        except DBusErrorResponse:
            continue  # the session has ended meanwhile
        sessions.append({name: value for name, (_, value) in found.items()})
    return sessions


def _call(bus: DBusConnection, message: Any) -> Any:
    return unwrap_msg(bus.send_and_get_reply(message, timeout=ANSWER_SECONDS))


def _in_use(session: dict[str, Any]) -> bool:
    return bool(
        session.get("Type") in GRAPHICAL
        and str(session.get("Class", "")).startswith("user")
        and session.get("Active")
        and not session.get("IdleHint")
        and not session.get("LockedHint")
    )
