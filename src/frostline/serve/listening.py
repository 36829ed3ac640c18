"""Take the address first: a port that is in use is known before a network is loaded, and without importing torch."""

from __future__ import annotations

import ipaddress
import os
import socket

from frostline.errors import MachineError, UsageError, reason

TOKEN = "FROSTLINE_TOKEN"  # noqa: S105  # the name of the variable
SHORTEST = 16  # characters of a token
WAITING = 2048  # connections that the system keeps until they are accepted


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 takes a free one.

    Raises UsageError for a host that has no address, MachineError if the port is in use or may not be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"the host {host!r} has no address: {reason(error)}; give --host 127.0.0.1") from error
    family, kind, protocol, _, address = found[0]
    taken = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # there it would let two servers have one port
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(WAITING)
    except OSError as error:
        taken.close()
        why = (error.strerror or str(error)).lower()
        raise MachineError(f"cannot listen on port {port} of {host}: {why}; give another --port") from error
    return taken


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def refuse_without_token(host: str, token: str | None) -> None:
    """Raises UsageError for an address that others can reach without a token, and for a token that can be guessed."""
    if token is not None and (len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(f"{TOKEN} must have {SHORTEST} letters, digits or signs at least: openssl rand -hex 16")
    if token is None and not is_loopback(host):
        raise UsageError(
            f"others can reach {host}, so a token is needed: set {TOKEN}, for example to the output of "
            "`openssl rand -hex 16`; clients send it as `Authorization: Bearer …`"
        )
