from __future__ import annotations

import socket

import pytest

from frostline.errors import MachineError, UsageError
from frostline.serve.listening import is_loopback, listen, refuse_without_token


def test_a_free_port_is_taken_and_a_taken_one_is_refused():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert port > 0
        with pytest.raises(MachineError, match=f"cannot listen on port {port} of 127.0.0.1: address already in use"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_addresses_of_version_6():
    try:
        taken = listen("::1", 0)
    except MachineError:
        pytest.skip("no IPv6 loopback here")
    with taken:
        assert taken.family == socket.AF_INET6


def test_a_host_without_an_address():
    with pytest.raises(UsageError, match="has no address"):
        listen("no such host", 0)


@pytest.mark.parametrize(
    ("host", "inside"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("::", False)]  # noqa: S104
    + [("192.168.1.7", False), ("example.com", False), ("localhost.example.com", False), ("", False)],
)
def test_who_can_reach_an_address(host, inside):
    assert is_loopback(host) is inside
    refuse_without_token(host, "0123456789abcdef")
    if inside:
        refuse_without_token(host, None)
    else:
        with pytest.raises(UsageError, match="set FROSTLINE_TOKEN"):
            refuse_without_token(host, None)


@pytest.mark.parametrize("token", ["", "short", "fifteen letters", "a secret with spaces in it", "sechzehn Zeichen ü"])
def test_a_token_that_can_be_guessed_or_not_be_sent(token):
    with pytest.raises(UsageError, match="openssl rand -hex 16"):
        refuse_without_token("127.0.0.1", token)
