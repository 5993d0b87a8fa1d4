"""Run one PostgreSQL server for as long as any process uses it, then stop it.

Executed as a script, by path: ``keeper.py USERS_LOCK_FILE COMMAND...``, where COMMAND runs the
server. Each process that uses the cluster holds a shared lock on USERS_LOCK_FILE; the keeper waits
for an exclusive one. The kernel releases the locks of a dead process, so the server also stops when
all its users are killed, and when the keeper is killed (see unprivileged.py).

It imports only the standard library, so it starts in 15 ms and needs little memory.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from types import FrameType

STOP_SECONDS = 60.0  # for the checkpoint of a fast shutdown; after a kill, the next start recovers


def main(users_lock_file: str, command: list[str]) -> int:
    """In a background process: start the server, wait until no process uses it, stop it."""
    if os.fork():
        return 0  # the parent returns, so that its caller need not wait for the keeper
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def ended(_signal: int, _frame: FrameType | None) -> None:
        if (code := server.poll()) is not None:
            os._exit(code if code >= 0 else 1)

    signal.signal(signal.SIGCHLD, ended)
    ended(0, None)  # it may have ended before the handler was installed
    descriptor = os.open(users_lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server.send_signal(signal.SIGINT)
    try:
        return server.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
