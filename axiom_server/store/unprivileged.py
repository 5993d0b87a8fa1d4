"""Run one command as an ordinary user when root starts it: PostgreSQL refuses to run as root.

Executed as a script, by path, in a separate process: ``unprivileged.py MODE COMMAND...``.

MODE     ``plain``        the current user is not root: change nothing
        ``namespace``    a user namespace in which root has uid 1000, so that files keep their owner
        ``UID:GID``      switch to that user, who must own the command's files

The command is sent SIGINT (PostgreSQL's fast shutdown) when the process that started this one ends,
however it ends. Exits 77 when MODE is impossible here, so that the caller can try the next.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

IMPOSSIBLE_EXIT_CODE = 77  # no PostgreSQL program exits with it
INSIDE_UID = 1000  # uid of root inside the namespace; any number other than 0
CLONE_NEWUSER = 0x10000000  # <linux/sched.h>
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def enter_namespace() -> None:
    """Enter a new user namespace as INSIDE_UID. Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_UID} {uid} 1"),
        ("gid_map", f"{INSIDE_UID} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def switch_user(user: str) -> None:
    """Switch from root to ``uid:gid``. Raises OSError where that is not allowed."""
    uid, gid = (int(part) for part in user.split(":"))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def main(mode: str, command: list[str]) -> None:
    """Change the user by ``mode``, then replace this process by ``command``."""
    parent = os.getppid()
    try:
        if mode == "namespace":
            enter_namespace()
        elif mode != "plain":
            switch_user(mode)
        # After the change of user, because that clears the signal.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
            if os.getppid() != parent:
                sys.exit(1)
        os.execv(command[0], command)
    except OSError as error:
        print(f"{mode}: {error}", file=sys.stderr)
        sys.exit(IMPOSSIBLE_EXIT_CODE)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
