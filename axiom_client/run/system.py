"""Chooses how tasks are started, heard, measured and limited on this operating system.

The one place of ``run`` that asks which system this is, besides ``exits``. The modules chosen here
offer the same names.

Streams          the agent's ends of a task's channel and output
Launchers        what starts a task's process
sample, resident_bytes, writes, deleted_bytes   what a process uses
LIMITS_MEMORY    whether the system limits a task's memory; if not, the agent checks it each second
RUNTIME_BYTES    what the interpreter and the libraries take of what such a check finds
"""

from __future__ import annotations

import sys

if sys.platform == "linux":
    from axiom_client.run.descriptors import allow_descriptors as allow_descriptors
    from axiom_client.run.disk import deleted_bytes as deleted_bytes
    from axiom_client.run.disk import writes as writes
    from axiom_client.run.linux_launchers import Launchers as Launchers
    from axiom_client.run.linux_usage import resident_bytes as resident_bytes
    from axiom_client.run.linux_usage import sample as sample
    from axiom_client.run.posix_streams import Streams as Streams

    LIMITS_MEMORY, RUNTIME_BYTES = True, 0
else:
    from axiom_client.run.psutil_usage import deleted_bytes as deleted_bytes
    from axiom_client.run.psutil_usage import resident_bytes as resident_bytes
    from axiom_client.run.psutil_usage import sample as sample
    from axiom_client.run.psutil_usage import writes as writes
    from axiom_client.sandbox.policy import RUNTIME_BYTES as RUNTIME_BYTES

    LIMITS_MEMORY = False
    if sys.platform == "win32":
        from axiom_client.run.windows_launchers import Launchers as Launchers
        from axiom_client.run.windows_launchers import allow_descriptors as allow_descriptors
        from axiom_client.run.windows_streams import Streams as Streams
    else:
        from axiom_client.run.descriptors import allow_descriptors as allow_descriptors
        from axiom_client.run.macos_launchers import Launchers as Launchers
        from axiom_client.run.posix_streams import Streams as Streams
