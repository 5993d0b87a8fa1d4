"""Why a bundle or a grant is refused: the name of the attack or fault.

The names of attacks are from The Update Framework's specification 1.0, section 1.5.2.
"""

from __future__ import annotations

from typing import Literal

#: Each name, with its meaning.
Attack = Literal[
    "arbitrary software",  # not signed by the project's staff
    "rollback",  # older metadata than this host has already seen
    "fast-forward",  # a version so high that all honest ones would look older
    "freeze",  # the server has only expired metadata
    "endless data",  # more bytes than allowed
    "slow retrieval",  # too slow a download
    "mix-and-match",  # files that were never valid at the same time
    "extraneous dependencies",  # packages besides numpy, torch and the standard library
    "wrong software",  # not the bytes that staff signed under this name
    "withdrawn",  # signed, and withdrawn later
    "out of range",  # parameters or a seed outside the signed ranges
    "wrong root",  # not the pinned root, or not the given fingerprint
    "malformed metadata",
    # faults that are probably no attacks
    "expired",  # the metadata has expired and could not be renewed in time
    "unreachable",  # the server does not answer, or does not have the file
    "not attached",  # no root is pinned yet
]

#: Refusals that may be temporary: the server is down, or has no valid metadata at the moment.
TEMPORARY: frozenset[Attack] = frozenset(
    {"unreachable", "slow retrieval", "expired", "freeze", "mix-and-match", "malformed metadata"}
)


class BundleRefused(Exception):
    """A bundle must not run. ``attack`` is the reason, ``message`` the details.

    temporary  whether to fetch it again later: the bytes that came may be from somebody else than
        the project, such as a network's sign-in page
    """

    def __init__(self, attack: Attack, message: str, *, temporary: bool = False) -> None:
        super().__init__(f"{attack}: {message}")
        self.attack: Attack = attack
        self.message = message
        self.temporary = temporary or attack in TEMPORARY
