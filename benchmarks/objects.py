"""How many small objects a second each S3 client reads, and what CPU each object costs it.

The server is a process of its own on loopback that answers every GET with the same bytes after a
pause, so that only the client's own work differs. Each client runs in a process of its own too.
`obstore` alone is what the fetch stage is built on.

    python -m benchmarks.objects --output benchmarks/results
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from phicorpus.config import FetchConfig
from phicorpus.storage.assets import read_asset

OBJECT_BYTES = 100_000
DELAY_S = 0.02
THREADS = 16  # as in pipeline/phicorpus/stages/fetch.py
KEYS = {"key": "test", "secret": "test"}

Read = Callable[[Sequence[str]], None]


def serve(ready: Any) -> None:  # noqa: ANN401 - multiprocessing's queue
    """Answer HEAD and GET of any object, whole or by range."""
    body = bytes(OBJECT_BYTES)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            method = head.split(b" ", 1)[0]
            first, last, partly = 0, OBJECT_BYTES - 1, False
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"range: bytes="):
                    start, _, end = line[13:].partition(b"-")
                    first, last, partly = int(start), min(int(end or last), last), True
            await asyncio.sleep(DELAY_S)
            span = f"Content-Range: bytes {first}-{last}/{OBJECT_BYTES}\r\n" if partly else ""
            writer.write(
                f"HTTP/1.1 {'206 Partial Content' if partly else '200 OK'}\r\n"
                f'Content-Length: {last - first + 1}\r\nETag: "e"\r\n{span}'
                "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                "Content-Type: application/octet-stream\r\n\r\n".encode()
            )
            if method == b"GET":
                writer.write(body[first : last + 1])
            await writer.drain()
        writer.close()

    async def listen() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(listen())


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def by_fetch(endpoint: str) -> Read:
    """Read as the fetch stage does."""
    options = {"s3": {**KEYS, "endpoint_url": endpoint}}
    config = FetchConfig(storage_options=options)
    return partial(_in_threads, lambda name: read_asset(f"s3://bucket/{name}", config))


def by_s3fs_cat(endpoint: str) -> Read:
    """Read all at once through s3fs."""
    import s3fs  # noqa: PLC0415 - only where measured

    filesystem = s3fs.S3FileSystem(**KEYS, endpoint_url=endpoint)
    return lambda names: filesystem.cat([f"bucket/{name}" for name in names])


def by_boto3(endpoint: str) -> Read:
    """Read through boto3 in threads."""
    import boto3  # noqa: PLC0415 - only where measured
    from botocore.config import Config  # noqa: PLC0415 - only where measured

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - of no one
        config=Config(max_pool_connections=THREADS),
    )
    return partial(
        _in_threads, lambda name: client.get_object(Bucket="bucket", Key=name)["Body"].read()
    )


def by_obstore(endpoint: str) -> Read:
    """Read through obstore in threads."""
    import obstore  # noqa: PLC0415 - only where measured
    from obstore.store import S3Store  # noqa: PLC0415 - only where measured

    store = S3Store(
        "bucket",
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="test",
        secret_access_key="test",  # noqa: S106 - of no one
        client_options={"allow_http": True},
    )
    return partial(_in_threads, lambda name: bytes(obstore.get(store, name).bytes()))


CLIENTS: Mapping[str, Callable[[str], Read]] = {
    "the fetch stage": by_fetch,
    "s3fs cat": by_s3fs_cat,
    "boto3": by_boto3,
    "obstore": by_obstore,
}


def _in_threads(read: Callable[[str], object], names: Sequence[str]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(read, names):
            pass


def measure(client: str, endpoint: str, num_objects: int, results: Any) -> None:  # noqa: ANN401
    """Warm a client up, then read many objects; puts seconds and CPU seconds."""
    read = CLIENTS[client](endpoint)
    read([f"warm/{number}" for number in range(2 * THREADS)])
    started_s, started_cpu_s = time.monotonic(), _cpu_s()
    read([f"object/{number}" for number in range(num_objects)])
    results.put((time.monotonic() - started_s, _cpu_s() - started_cpu_s))


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure every client in turn, round after round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    server = context.Process(target=serve, args=(queue,), daemon=True)
    server.start()
    endpoint = f"http://127.0.0.1:{queue.get(timeout=60)}"
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in CLIENTS}
    for _ in range(chosen.rounds):
        for name in CLIENTS:
            arguments = (name, endpoint, chosen.objects, queue)
            child = context.Process(target=measure, args=arguments)
            child.start()
            rounds[name].append(queue.get(timeout=600))
            child.join()
            sys.stderr.write(f"{name}: {rounds[name][-1]}\n")
    server.terminate()
    rows = [_row(name, taken, chosen.objects) for name, taken in rounds.items()]
    machine = f"{os.cpu_count()} cores that others use too; Python {platform.python_version()}"
    report = {"machine": machine, "objects": chosen.objects, "clients": rows}
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "objects.json").write_text(json.dumps(report, indent=2) + "\n")
    (chosen.output / "objects.md").write_text(_table(rows, machine, chosen.objects))


def _row(name: str, taken: Sequence[tuple[float, float]], num_objects: int) -> dict[str, Any]:
    return {
        "client": name,
        "objects_per_s": num_objects / statistics.median(wall for wall, _ in taken),
        "cpu_us_per_object": 1e6 * statistics.median(cpu for _, cpu in taken) / num_objects,
        "rounds": [{"wall_s": wall, "cpu_s": cpu} for wall, cpu in taken],
    }


def _table(rows: Sequence[Mapping[str, Any]], machine: str, num_objects: int) -> str:
    lines = [
        "# Objects",
        "",
        f"{machine}. {num_objects} objects of {OBJECT_BYTES // 1000} kB from a server on loopback "
        f"that answers after {1000 * DELAY_S:.0f} ms, {THREADS} threads; medians. CPU is the "
        "client's; compare it, since wall time is others' too. Made by "
        "`python -m benchmarks.objects`.",
        "",
        "| client | objects per second | CPU microseconds per object |",
        "|---|---|---|",
    ]
    lines.extend(
        f"| {row['client']} | {row['objects_per_s']:.0f} | {row['cpu_us_per_object']:.0f} |"
        for row in rows
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
