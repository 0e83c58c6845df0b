"""The test server: it ends with the test that uses it, however that ends."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from tests.storage.server import an_s3_server


def test_a_test_that_fails_beside_a_server_ends_it() -> None:
    endpoints: list[str] = []

    def fail() -> None:
        with suppress(ZeroDivisionError), an_s3_server() as endpoint:
            endpoints.append(endpoint)
            raise ZeroDivisionError

    test = threading.Thread(target=fail, daemon=True)
    test.start()
    test.join(timeout=60)

    assert not test.is_alive()
    port = int(endpoints[0].rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
