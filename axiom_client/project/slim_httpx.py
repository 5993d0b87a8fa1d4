"""httpx without its own command line.

``import httpx`` also imports click, rich and pygments if they are installed, for a command line
that the agent never uses. This takes 5 MiB of memory and a large part of the start time. httpx
handles an ImportError of ``httpx._main``, so this module causes one.
"""

from __future__ import annotations

import sys

if "httpx" not in sys.modules:
    sys.modules["httpx._main"] = None  # type: ignore[assignment]

import httpx

__all__ = ["httpx"]
