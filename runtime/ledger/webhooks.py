"""Webhooks: which addresses may be asked, and asking them.

Whoever names a webhook makes our server send a request; so it may not be aimed at what only our server
can reach. A name is looked up when the request is sent and the address that was checked is the one that
is connected to: a name that changes in between gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from admiralty.core.errors import InvalidRequest

if TYPE_CHECKING:
    import httpx

MAX_URL = 2000
TIMEOUT_SECONDS = 5.0
"""For a whole request."""

_INSIDE = (".localhost", ".local", ".internal", ".localdomain")
_HOST = re.compile(r"[a-z0-9._:-]+")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class WebhookFailed(Exception):
    """A request was not sent, or not answered with 2xx; the message says why."""


def checked_webhook(url: str, *, allow_private: bool = False) -> str:
    """Return ``url`` if it may be a webhook, as far as it tells by itself. Raises InvalidRequest."""
    import httpx  # a fifth of a second that commands without webhooks can do without

    problem = None
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        parsed, problem = httpx.URL(""), "that is no URL"
    host = parsed.raw_host.decode("ascii").rstrip(".").lower()
    if problem is None and (parsed.scheme not in ("http", "https") or not _HOST.fullmatch(host)):
        problem = "write a whole URL with http or https"
    elif len(url) > MAX_URL:
        problem = f"longer than {MAX_URL} characters"
    elif parsed.userinfo:
        problem = "leave name and password out of it"
    elif not allow_private and _is_inside(host):
        problem = (
            "this address is inside the operator's network. "
            "ADMIRALTY_ALLOW_PRIVATE_WEBHOOKS=true permits such addresses"
        )
    if problem:
        raise InvalidRequest(f"webhook: {problem}.", param="webhook")
    return url


async def post(
    client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool
) -> None:
    """Send a webhook. Raises WebhookFailed."""
    import httpx

    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await _post(client, httpx.URL(url), body, headers, allow_private)
    except TimeoutError:
        raise WebhookFailed(f"no answer within {TIMEOUT_SECONDS:g} s") from None
    except (httpx.HTTPError, OSError, UnicodeError) as error:
        raise WebhookFailed(f"{type(error).__name__}: {error}"[:300]) from error


async def _post(
    client: httpx.AsyncClient, url: httpx.URL, body: bytes, headers: Mapping[str, str], allow_private: bool
) -> None:
    found = await asyncio.get_running_loop().getaddrinfo(
        url.host, url.port or url.scheme, type=socket.SOCK_STREAM
    )
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private and not all(_is_public(ipaddress.ip_address(address)) for address in addresses):
        raise WebhookFailed(f"{url.host} is inside the operator's network ({addresses[0]}): not sent")
    request = client.build_request(
        "POST",
        url.copy_with(host=addresses[0]),
        content=body,
        headers={**headers, "Host": url.netloc.decode("ascii")},
        extensions={"sni_hostname": url.host},
    )
    # Only the status counts: a body of any length is nobody's business here.
    response = await client.send(request, stream=True, follow_redirects=False)
    await response.aclose()
    if not response.is_success:
        raise WebhookFailed(f"HTTP status {response.status_code}")


def _is_inside(host: str) -> bool:
    if host == "localhost" or host.endswith(_INSIDE):
        return True
    try:
        return not _is_public(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:  # the old ways to write an address: 127.1, 0x7f000001, 2130706433
        return not _is_public(ipaddress.IPv4Address(socket.inet_aton(host)))
    except (OSError, UnicodeError):
        return False


def _is_public(address: Address) -> bool:
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None and not _is_public(inner):
        return False
    return (address.is_global or inner is not None) and not address.is_multicast
