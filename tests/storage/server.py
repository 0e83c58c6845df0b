"""moto's server in a process of its own, with one bucket."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import boto3


@contextmanager
def an_s3_server() -> Iterator[str]:
    """Start a real S3 server process on loopback with `bucket` in it; gives its endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            endpoint = f"http://127.0.0.1:{port}"
            for _ in range(200):
                try:
                    urllib.request.urlopen(endpoint, timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
            boto3.client(
                "s3", endpoint_url=endpoint, region_name="us-east-1", **keys
            ).create_bucket(Bucket="bucket")
            yield endpoint
        finally:  # leaving Popen waits for its end
            server.terminate()


def s3_options(endpoint: str) -> dict[str, dict[str, object]]:
    """Give the storage options that reach a server, without the client's own patience."""
    config = {"retries": {"max_attempts": 1, "mode": "standard"}, "read_timeout": 5}
    return {
        "s3": {"endpoint_url": endpoint, "key": "test", "secret": "test", "config_kwargs": config}
    }
