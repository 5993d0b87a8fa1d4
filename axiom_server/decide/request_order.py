"""Which of two requests of one host is the older: a server that stood still may find a late one."""

from __future__ import annotations


def is_outdated(request_id: str, last_request: str) -> bool:
    """Whether the agent had gone on when it made ``last_request``.

    An agent's run names its requests INSTANCE-NUMBER and counts them. Ids of another form, or of
    different runs, have no order, and neither is taken for the older.
    """
    instance, _, number = request_id.rpartition("-")
    last_instance, _, last_number = last_request.rpartition("-")
    if not instance or instance != last_instance:
        return False
    if not (_counts(number) and _counts(last_number)):
        return False
    return int(number) < int(last_number)


def _counts(text: str) -> bool:
    return text.isascii() and text.isdigit()
