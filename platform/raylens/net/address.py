"""Addresses that may be asked, and what may be sent to them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_plain(url: str) -> bool:
    """Whether it is http or https with a host and perhaps a port and a path, and nothing that could hold a secret."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    return valid and not any(mark in url for mark in "@?#") and all(ord(c) > 32 and ord(c) != 127 for c in url)


def is_local(url: str) -> bool:
    """Whether the host is this machine or on its own network, by its name alone."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))
    return address.is_loopback or address.is_private or address.is_link_local


def may_send_key(url: str) -> bool:
    """Only where nobody on the way can read it: over https, or on the own network."""
    return is_local(url) or url.startswith("https://")
