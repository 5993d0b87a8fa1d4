"""Four functions of C that numpy calls at its import and wine 8 lacks: parts of complex numbers.

Wine's place-holders for them end the process. They are overwritten by the machine code of x86-64:
by Microsoft's convention the two floats of a complex one arrive in RCX, two doubles at its address.
"""

from __future__ import annotations

import ctypes
import sys

CODE = {
    "crealf": "66 0f 6e c1 c3",  # movd xmm0, ecx; ret
    "cimagf": "48 c1 e9 20 66 0f 6e c1 c3",  # shr rcx, 32; movd xmm0, ecx; ret
    "creal": "f2 0f 10 01 c3",  # movsd xmm0, [rcx]; ret
    "cimag": "f2 0f 10 41 08 c3",  # movsd xmm0, [rcx + 8]; ret
}
_PAGE_EXECUTE_READWRITE = 0x40


def provide() -> None:
    """Put the functions in place; only where this is wine."""
    if sys.platform != "win32" or not hasattr(ctypes.WinDLL("ntdll"), "wine_get_version"):
        return
    kernel = ctypes.WinDLL("kernel32")
    kernel.LoadLibraryW.restype = kernel.GetProcAddress.restype = ctypes.c_void_p
    kernel.GetProcAddress.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    kernel.VirtualProtect.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_ulong, ctypes.c_void_p
    ]  # fmt: skip
    library, before = kernel.LoadLibraryW("ucrtbase.dll"), ctypes.c_ulong()
    for name, text in CODE.items():
        code, address = bytes.fromhex(text), kernel.GetProcAddress(library, name.encode())
        assert kernel.VirtualProtect(
            address, len(code), _PAGE_EXECUTE_READWRITE, ctypes.byref(before)
        )
        ctypes.memmove(address, code, len(code))
