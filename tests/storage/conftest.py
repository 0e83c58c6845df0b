"""A real S3 server process, for the tests of stores and of whole runs on S3."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.server import an_s3_server


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with an_s3_server() as endpoint:
        yield endpoint
