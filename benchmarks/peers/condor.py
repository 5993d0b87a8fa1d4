"""HTCondor: named here so that its absence is reported; there is no driver for it yet."""

from __future__ import annotations

from benchmarks.peers.driver import Driver


class Condor(Driver):
    """Debian 12 has no package of HTCondor, and its PyPI package has no daemons."""

    name = "HTCondor"
    isolation = "a process for each task"
    install = "not in Debian 12 (`apt-cache policy htcondor`); no driver is written for it"

    @classmethod
    def version(cls) -> str:
        """Not measured."""
        return ""


DRIVER = Condor
