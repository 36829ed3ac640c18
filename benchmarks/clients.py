"""Clients of a server in a process that imports nothing large: `python benchmarks/clients.py PORT COUNT < files.json`.

Each posts files, one after another, in its own connection. Prints {"seconds": of all, "requests": [seconds of each]}.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path


def ask(port: int, contents: list[bytes], seconds: list[float], failures: list[str]) -> None:
    """One client."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        for content in contents:
            started = time.perf_counter()
            connection.request("POST", "/predict", content, {"content-type": "image/jpeg"})
            answer = connection.getresponse()
            body = answer.read()
            seconds.append(time.perf_counter() - started)
            if answer.status != 200:
                failures.append(f"status {answer.status}: {body!r}")
    except (OSError, http.client.HTTPException) as error:
        failures.append(repr(error))
    finally:
        connection.close()


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    contents = [Path(file).read_bytes() for file in json.load(sys.stdin)]
    seconds: list[float] = []
    failures: list[str] = []
    threads = [threading.Thread(target=ask, args=(port, contents[i::count], seconds, failures)) for i in range(count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.perf_counter() - started, "requests": seconds}))
    if failures:
        raise SystemExit(f"{len(failures)} failures, such as {failures[0]}")


if __name__ == "__main__":
    main()
