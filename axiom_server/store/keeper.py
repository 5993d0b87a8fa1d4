"""Keep one PostgreSQL server for as long as anyone uses it, then stop it.

Executed as a script, by path: ``keeper.py USERS_LOCK_FILE COMMAND...``, where COMMAND runs the
server. Whoever uses the cluster holds a shared lock on USERS_LOCK_FILE; the keeper waits for the
exclusive one. The kernel lets go of a dead process's lock, so `kill -9` of every user stops the
server as surely as a polite end does, and `kill -9` of the keeper stops it too (see unprivileged).

Standard library only, and no import of this project: it starts in 15 ms and stays small.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from types import FrameType

STOP_SECONDS = 60.0  # a fast shutdown writes one checkpoint; after that the kill is recovered from


def main(users_lock_file: str, command: list[str]) -> int:
    """In the background: start the server, wait until nobody uses it, stop it."""
    if os.fork():
        return 0  # nobody has to wait for the keeper: it is nobody's child
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def ended(_signal: int, _frame: FrameType | None) -> None:
        if (code := server.poll()) is not None:
            os._exit(code if code >= 0 else 1)

    signal.signal(signal.SIGCHLD, ended)
    ended(0, None)  # it may have ended before the handler was there
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
