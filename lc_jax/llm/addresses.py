"""Addresses of servers: the forms in which people write a base URL, and the proxies of the environment."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

FLAG = "--config.annotator.base_url"


def normalise_base_url(url: str, endpoints: Sequence[str], path: str, flag: str = FLAG) -> str:
    """Returns a base URL as the SDKs take it.

    Args:
      endpoints: endings that belong to a request and not to the base, such as "/chat/completions".
      path: the path of a server whose URL has none, such as "/v1".

    Raises:
      ValueError: the URL has no scheme, no host, no valid port, or a query.
    """
    url = url.strip()
    if "://" not in url:
        raise ValueError(f"{flag}={url} has no scheme: write http://{url or 'localhost:8000/v1'}, or https://.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{flag}={url} is no address ({error}): write it as http://localhost:8000{path}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise ValueError(f"{flag}={url} is no address of a server: write it as http://localhost:8000{path}.")
    place = parts.path.rstrip("/")
    for ending in endpoints:
        place = place.removesuffix(ending).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, place or path, "", ""))


def is_loopback(host: str) -> bool:
    """Returns whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_of(url: str) -> str:
    """Returns the proxy that the environment names for a URL; "" if there is none. This machine needs none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return ""
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all") or ""


def without_credentials(url: str) -> str:
    """Returns a URL without user name and password, for messages."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
