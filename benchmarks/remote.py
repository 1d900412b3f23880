"""Whole samples read from behind a URL, as a share of local reads; and by plain zarr.

    python -m benchmarks.remote --rows 32

Maps are those of Stable Diffusion 1.5 at 512 pixels, float16: 11.1 MB a sample. The servers are
moto's S3, which cuts each range out of the whole object in Python, and a plain file server, which
seeks; each in a process of its own on loopback.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import multiprocessing
import os
import random
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import zarr
from zarr.storage import ObjectStore

from gate_cache import FeatureStore
from gate_cache.core.places import parse_place
from gate_cache.store.format.samples import NewSample
from gate_cache.store.opening import open_folder
from gate_cache.store.writer import open_writer

SHAPES = {"up0": (1280, 16, 16), "up1": (1280, 32, 32), "up2": (640, 64, 64), "up3": (320, 64, 64)}


class Files(http.server.SimpleHTTPRequestHandler):
    """Files with ranges."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        path = Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            return super().do_GET()
        size, (first, last) = path.stat().st_size, asked.split("-")
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        self.send_response(206)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.end_headers()
        with path.open("rb") as file:
            self.connection.sendfile(file, start, stop - start)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def serve(kind: str, folder: str, told: Connection) -> None:
    if kind == "web":
        files = functools.partial(Files, directory=folder)
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), files)
        told.send(web.server_port)
        web.serve_forever()
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    s3 = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    told.send(s3.server_port)
    s3.serve_forever()


@contextmanager
def serving(kind: str, folder: Path) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(kind, str(folder), theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


def make(path: Path, rows: int, block: int) -> None:
    values = np.random.default_rng(0)
    with open_writer(path, "bench", block, 1) as writer:
        writer.append([NewSample(str(i), f"{i:064x}", 512, 512) for i in range(rows)])
        group = writer.require("c", {"kind": "conv", "size": 512}, SHAPES, "float16", {})
        group.fit()
        for part in group.todo():
            group.write(part, {name: values.standard_normal((len(part), *s), np.float32)
                               for name, s in SHAPES.items()})


def upload(path: Path, url: str) -> None:
    folder = open_folder(parse_place(url))
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        folder.write(file.relative_to(path).as_posix(), [file.read_bytes()])


def ours(store: FeatureStore) -> Callable[[int], object]:
    views = [store["c"][name] for name in SHAPES]
    return lambda row: [view[row] for view in views]


def plain(store: FeatureStore) -> Callable[[int], object]:
    """zarr-python over its own ObjectStore."""
    made: Any = obstore.store.LocalStore(store.path) if isinstance(store.path, Path) else \
        obstore.store.from_url(str(store.path), client_options={"allow_http": True})
    group: Any = zarr.open_group(ObjectStore(made), mode="r")
    arrays = [group[f"{store['c'].name}/{name}"] for name in SHAPES]
    return lambda row: [array[row] for array in arrays]


def readers(where: str, place: str | Path, cache: Path) -> dict[str, Callable[[int], object]]:
    os.environ.pop("GATE_CACHE_CACHE", None)
    store = FeatureStore.open(place)
    found = {where: ours(store), f"{where}, plain zarr": plain(store)}
    if isinstance(place, str):
        os.environ["GATE_CACHE_CACHE"] = str(cache)
        found[f"{where}, cache"] = ours(FeatureStore.open(place))
    return found


def seconds(ways: dict[str, Callable[[int], object]], rows: list[int]) -> dict[str, float]:
    """Of each way, all reading the same rows in turn, so that what else runs here slows all."""
    spent = dict.fromkeys(ways, 0.0)
    for row in rows:
        for name, read in ways.items():
            start = time.perf_counter()
            read(row)
            spent[name] += time.perf_counter() - start
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--block", type=int, default=16)
    args = parser.parse_args()
    rows = random.Random(0).sample(range(args.rows), args.rows)  # noqa: S311
    os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
                   "AWS_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "files", "bench.zarr")
        make(path, args.rows, args.block)
        with serving("web", path.parent) as web, serving("s3", path.parent) as s3:
            os.environ["AWS_ENDPOINT_URL"] = s3
            request = urllib.request.Request(f"{s3}/bench", method="PUT")  # noqa: S310
            urllib.request.urlopen(request).close()  # noqa: S310
            upload(path, "s3://bench/bench.zarr")
            cache = Path(home, "cache")
            ways = {**readers("local", path, cache),
                    **readers("file server", f"{web}/bench.zarr", cache),
                    **readers("moto", "s3://bench/bench.zarr", cache)}
            epochs = [seconds(ways, rows) for _ in range(3)]
    print(json.dumps({"rows": args.rows, "block": args.block, "share of local reads, by epoch": {
        name: [round(epoch["local"] / epoch[name], 3) for epoch in epochs] for name in ways
    }}, indent=2))


if __name__ == "__main__":
    main()
