"""Why a bundle or a grant is refused: the attack, or the fault, by its name.

The names of attacks are those of The Update Framework's specification 1.0, section 1.5.2.
"""

from __future__ import annotations

from typing import Literal

#: name -> what it means for the host's owner
Attack = Literal[
    "arbitrary software",  # not signed by the project's staff
    "rollback",  # older metadata than this host has already seen
    "fast-forward",  # a version so far ahead that all honest ones would look old
    "freeze",  # the server offers nothing but expired metadata
    "endless data",  # more bytes than may be sent
    "slow retrieval",  # bytes so slow that the download would never end
    "mix-and-match",  # metadata that was never current at the same time
    "extraneous dependencies",  # a bundle that wants more than numpy, torch, the standard library
    "wrong software",  # other bytes than the ones that staff signed under this name
    "withdrawn",  # signed once, and taken back since
    "out of range",  # parameters, or a seed, that the signed metadata does not allow
    "wrong root",  # another root than the one pinned, or than the fingerprint asked for
    "malformed metadata",
    # not attacks, as far as can be told
    "expired",  # no new metadata could be had in time, and the old has run out
    "unreachable",  # the server, or the file on it
    "not attached",  # no root was pinned yet
]


class BundleRefused(Exception):
    """A bundle must not run. ``attack`` names why; the message says what was seen."""

    def __init__(self, attack: Attack, message: str) -> None:
        super().__init__(f"{attack}: {message}")
        self.attack: Attack = attack
        self.message = message
