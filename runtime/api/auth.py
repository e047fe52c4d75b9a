"""Whose request it is: an API key in, an Identity out.

Tenant, team and role come from the key and nowhere else; a request may only add tags that the key
does not have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from starlette.requests import Request

from admiralty.core.errors import Denied, InvalidRequest, Unauthenticated
from admiralty.core.ports import Clock
from admiralty.core.values import Identity
from admiralty.runtime.storage.keys import PREFIX, ApiKey, checked_tags

KEY_SECONDS = 3.0
"""How long a key counts as valid without a look at the database: a revocation takes effect within it."""

MAX_KEYS = 4096
MAX_KEY_LENGTH = 200
MAX_USER_LENGTH = 200
USER_HEADER = "x-end-user"
TAGS_HEADER = "x-tags"
MAX_TAGS_LENGTH = 1200


class Authenticator:
    """Finds who a key belongs to, and remembers valid keys for a moment.

    Wrong keys are not remembered: a key works from the moment it is made.
    """

    def __init__(self, find: Callable[[str], Awaitable[ApiKey | None]], clock: Clock) -> None:
        self._find = find
        self._clock = clock
        self._known: dict[bytes, tuple[float, ApiKey]] = {}

    async def identify(self, request: Request) -> Identity:
        """Return on whose behalf a request comes. Raises Unauthenticated, InvalidRequest."""
        key = await self._valid(_presented(request))
        return Identity(
            tenant=key.tenant,
            team=key.team,
            user=_named_user(request),
            key_id=key.id,
            # The key's own come last: what money is counted by is not the caller's to change.
            tags={**_named_tags(request), **key.tags},
            admin=key.admin,
        )

    async def _valid(self, secret: str) -> ApiKey:
        now = self._clock.monotonic()
        digest = hashlib.sha256(secret.encode()).digest()
        if (known := self._known.get(digest)) is not None and known[0] > now:
            return known[1]
        self._known.pop(digest, None)
        key = await self._find(secret)
        if key is None:
            raise Unauthenticated("This API key is not valid: it is mistyped or revoked.")
        if len(self._known) >= MAX_KEYS:
            self._known.clear()
        self._known[digest] = (now + KEY_SECONDS, key)
        return key


def require_admin(identity: Identity) -> None:
    """Raise Denied unless the key may change what governs its tenant."""
    if not identity.admin:
        raise Denied("This key may not do that: it needs one made with `admiralty keys create --admin`.")


def checked_user(user: str) -> str | None:
    """Return the end user that a request names, if it names one. Raises InvalidRequest."""
    user = user.strip()
    if len(user) > MAX_USER_LENGTH or not user.isprintable():
        raise InvalidRequest(
            f"The end user's name must be at most {MAX_USER_LENGTH} printable characters.", param="user"
        )
    return user or None


def _named_user(request: Request) -> str | None:
    named = request.headers.get(USER_HEADER)
    if named is None:
        return None
    try:
        # Servers hand headers on as Latin-1; clients that send more than ASCII send UTF-8.
        return checked_user(named.encode("latin-1").decode())
    except UnicodeDecodeError:
        raise InvalidRequest(f"The header {USER_HEADER} is not UTF-8.", param="user") from None


def _named_tags(request: Request) -> dict[str, str]:
    """Return the tags of the header, ``project=alpha,env=prod``. Raises InvalidRequest."""
    header = request.headers.get(TAGS_HEADER, "")
    if len(header) > MAX_TAGS_LENGTH:
        raise InvalidRequest(f"{TAGS_HEADER}: longer than {MAX_TAGS_LENGTH} characters.", param=TAGS_HEADER)
    pairs = [item.strip().partition("=") for item in header.split(",") if item.strip()]
    return checked_tags([(key.strip(), value.strip()) for key, _, value in pairs], TAGS_HEADER)


def _presented(request: Request) -> str:
    """Return the key that a request shows. Raises Unauthenticated."""
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("Send the API key as `Authorization: Bearer adm_...`.")
    else:
        secret = request.headers.get("x-api-key", "")
    secret = secret.strip()
    if not secret:
        raise Unauthenticated("An API key is needed: send `Authorization: Bearer adm_...`.")
    if not secret.startswith(PREFIX) or len(secret) > MAX_KEY_LENGTH:
        raise Unauthenticated(f"This is no API key: they begin with {PREFIX}.")
    return secret
