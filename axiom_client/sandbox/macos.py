"""The policy as a macOS Seatbelt profile, and the call that applies it to a process.

Written from sandbox(7), sandbox_init(3) and the profiles that Chromium and Bazel ship. It has not
been run on a Mac yet: what it enforces there is what ``selftest`` finds when it tries everything.
"""

from __future__ import annotations

import ctypes

from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.policy import Policy
from axiom_client.system import libraries

LIBRARY = "/usr/lib/libSystem.B.dylib"
#: Folders that dyld and the Python runtime read on every Mac, besides those of the policy.
_SYSTEM = ("/usr/lib", "/System/Library", "/Library/Apple", "/private/var/db/dyld")


def missing() -> str:
    """Why Seatbelt cannot be used here; empty if it can."""
    try:
        library = libraries.macos_library(LIBRARY)
    except OSError as error:
        return f"macOS's system library cannot be loaded: {error}"
    return "" if hasattr(library, "sandbox_init") else "this macOS has no sandbox_init"


def profile(policy: Policy) -> str:
    """The profile's text (SBPL): deny by default, then allow what the policy names."""
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow sysctl-read)",
        "(allow process-info* (target self))",
        "(allow signal (target self))",
        "(allow file-read-metadata)",
    ]
    for path in (*_SYSTEM, *policy.read_only):
        lines.append(f"(allow file-read* (subpath {_quoted(path)}))")
    for path in policy.devices:
        lines.append(f"(allow file-read* file-write-data (literal {_quoted(path)}))")
    for path in (policy.folder, *policy.folders):
        lines.append(f"(allow file-read* file-write* (subpath {_quoted(path)}))")
    lines.append("(deny file-write-create (vnode-type SYMLINK))")
    lines += ["(deny network*)", "(deny process-fork)", "(deny process-exec*)"]
    if policy.driver is not None:
        lines += ["(allow iokit-open)", '(allow mach-lookup (global-name-regex #"^com.apple.MTL"))']
    return "\n".join(lines) + "\n"


def restrict(policy: Policy) -> None:
    """Confine the calling process by the profile, irrevocably. Raises SandboxError."""
    library = libraries.macos_library(LIBRARY)
    message = ctypes.c_char_p()
    text = profile(policy).encode()
    if library.sandbox_init(text, ctypes.c_uint64(0), ctypes.byref(message)) != 0:
        reason = (message.value or b"no reason given").decode(errors="replace")
        if message:
            library.sandbox_free_error(message)
        raise SandboxError(f"Seatbelt refused the profile: {reason}")


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
