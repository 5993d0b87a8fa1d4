"""Checks a project's URL: https anywhere, unencrypted http only on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from axiom_client.errors import BadAddress


def check_url(url: str) -> str:
    """The URL, normalized, without a trailing slash. Raises BadAddress."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise BadAddress(f"{url!r} is not a URL; write it like https://project.example") from None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise BadAddress(f"{url!r} is not a URL; write it like https://project.example")
    if parts.username is not None:
        raise BadAddress(
            "the URL contains a user name; give the account with --account-key instead"
        )
    if parts.scheme == "http" and not _loopback(host):
        raise BadAddress(
            f"{url} is not encrypted, so others in the network could read the host's token; "
            f"use https://{host}"
        )
    name = f"[{host}]" if ":" in host else host
    address = f"{parts.scheme}://{name}" + (f":{port}" if port else "")
    return f"{address}{parts.path}".rstrip("/")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
