"""Decide which of two requests of a host is older, so that a delayed one does not undo a newer."""

from __future__ import annotations


def is_outdated(request_id: str, last_request: str) -> bool:
    """Whether the request was made before ``last_request``, by the same run of the agent.

    A run names its requests INSTANCE-NUMBER, with a number that it counts up. Ids of another form,
    and ids of different runs, have no order; then neither is older.
    """
    instance, _, number = request_id.rpartition("-")
    last_instance, _, last_number = last_request.rpartition("-")
    if not instance or instance != last_instance:
        return False
    if not (_is_number(number) and _is_number(last_number)):
        return False
    return int(number) < int(last_number)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
