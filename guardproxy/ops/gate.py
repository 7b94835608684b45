"""Ops: who may read the page and who may act through it.

Three doors. A page of somebody else's must not reach ours through the browser of one who may: the
Host it asks for must be a name of ours (an address cannot be made to lead elsewhere, a name can:
DNS rebinding), and a POST must come from a page of ours. And what changes anything needs a token,
which no browser sends by itself.
"""

from __future__ import annotations

from hmac import compare_digest
from ipaddress import ip_address
from urllib.parse import urlsplit

from guardproxy.addresses import is_loopback as is_loopback
from guardproxy.leaves import token_in
from guardproxy.settings import Http
from guardproxy.text import encoded

_SCHEME = "Bearer "


class Gate:
    """Raises ValueError if the token's file cannot be read any more."""

    def __init__(self, http: Http) -> None:
        self.needs_token_to_read = http.require_token
        self._names = {"localhost", http.host.lower(), *map(str.lower, http.allowed_hosts)}
        tokens = [http.token.reveal()] if http.token else []
        tokens += [token_in(http.token_file)] if http.token_file else []
        self._tokens = [encoded(token) for token in tokens]

    @property
    def can_act(self) -> bool:
        """Whether anybody can, with a token."""
        return bool(self._tokens)

    def knows_host(self, header: str) -> bool:
        """Whether a Host is an address, or a name of ours."""
        name = _host(f"//{header}")
        return name in self._names or is_address(name)

    def knows_origin(self, origin: str, host: str) -> bool:
        """Whether a request comes from a page of ours, or from no page at all."""
        scheme, _, place = origin.partition("://")
        return not origin or (scheme in ("http", "https") and place.lower() == host.lower() != "")

    def opens_for(self, authorization: str) -> bool:
        """Whether a good token is shown. All are compared, and in constant time."""
        shown = encoded(authorization.removeprefix(_SCHEME))
        good = [compare_digest(shown, token) for token in self._tokens]
        return authorization.startswith(_SCHEME) and any(good)


def _host(url: str) -> str:
    """The host of a URL, without its port; "" if there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
