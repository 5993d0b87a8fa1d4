"""httpx without its own command line.

``import httpx`` also imports click, rich and pygments wherever they are installed, for a command
that the agent never runs: 5 MiB of its memory and a good part of its start. httpx copes with an
ImportError of ``httpx._main``, so that is what it gets.
"""

from __future__ import annotations

import sys

if "httpx" not in sys.modules:
    sys.modules["httpx._main"] = None  # type: ignore[assignment]

import httpx

__all__ = ["httpx"]
