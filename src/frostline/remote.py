"""Files in object storage, by URL: s3://bucket/folder, gs://bucket/folder, az://container/folder, memory://name.

    bucket = at("s3://bucket/folder")
    bucket.put("a/b.bin", b"123")
    bucket.get("a/b.bin"), bucket.list("a/")

The package obstore (extra `remote`) speaks to the services. Endpoint and credentials come from the environment, as
usual: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL (MinIO and the like),
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME …. Every request is tried again for a while and then given
up, so that nothing waits for ever. An error tells the operation, the URL and a reason in our own words: what a service
or library says may hold a signature.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import re
import time
import urllib.parse
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from frostline.errors import MachineError, UsageError, unknown
from frostline.extras import refuse_missing
from frostline.files import default_folder

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az", "memory")
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters at least: C:// is a drive
SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/?[^/]")  # a URL with too few slashes; C:/ is a drive
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
CONNECT, STALL, REQUEST = "5s", "20s", "60s"  # to connect; between two bytes; for one request, of at most a PART
RETRIES: Any = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),  # after it no request is tried again
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=10), "base": 2},
}
CUTS = 2  # answers that may be cut off before a request is given up
PATIENCE, PAUSE, LONGEST = 60.0, 1.0, 10.0  # seconds in which a busy service is asked again; the first pause; the last
PART, AT_ONCE = 8 << 20, 4  # bytes per request of a large file that is sent (S3 takes no less than 5 MiB); at once
METADATA = ("169.254.169.254", "metadata.google", "168.63.129.16")  # asked where the environment has no credentials
STATUS = re.compile(r"status code: (\d{3})")
NAME = re.compile(r'Path "(.*?)":? (?:contained|Encountered)', re.DOTALL)  # in what the library says of a name
MOST_NAME = 120  # letters of a name that a message shows
MEANINGS = {
    "400": "the service does not understand the request (400)",
    "401": "the credentials are not accepted (401)",
    "403": "it is forbidden (403): check the credentials and what they may do",
    "404": "there is no such bucket (404)",
    "409": "something else changes it (409)",
    "416": "the file ends before that (416)",
    "429": "the service has too many requests (429)",
    "500": "the service fails (500)",
    "503": "the service is busy (503)",
}
BUSY = (MEANINGS["429"], MEANINGS["500"], MEANINGS["503"])
NOT_REACHED = "it cannot be reached"
PASSING = (*BUSY, NOT_REACHED)  # failures that another request may not meet
CUT = "request or response body error"
OF_ONE = {  # failures that say nothing about the bucket, and what they are of one file
    MEANINGS["403"]: "it is forbidden (403)",
    MEANINGS["416"]: "it is shorter than it was",
    "the answer was cut off": "it was cut off",
}
SAID = (  # what the library says, in lower case, and what it means
    ("kind: timeout", "it did not answer in time"),
    ("timedout", "it did not answer in time"),
    ("dns error", "there is no machine of that name"),
    ("kind: connect", NOT_REACHED),
    (CUT, "the answer was cut off"),
    ("certificate", "its certificate is not trusted"),
    ("unauthenticated", MEANINGS["401"]),
    ("permission", MEANINGS["403"]),
    ("must be specified", "the environment lacks an account or a key for it"),
    ("credential", "the credentials in the environment cannot be used"),
)


@dataclass(frozen=True)
class Remote:
    """The files below one URL. Names are relative to it, with `/` between folders; any process may hold it.

    Every method raises FileNotFoundError for a file that is not there, and MachineError for everything else that fails,
    after about two minutes at most per request. `MachineError.of_one` says what is wrong with this file alone, "" if
    others fail like it.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def tagged(self, most: int | None = None) -> Sequence[tuple[str, int, str]]:
        """The names of all files, in no order, their sizes, and the service's tag of each content, "" if it has none.

        most: files to list at most, where a bucket may have many more than are wanted.
        """
        return self._listed("", most)

    def list(self, folder: str = "") -> list[tuple[str, int]]:
        """The names of all files in a folder and below, with their sizes in bytes, in order of name."""
        return sorted((name, size) for name, size, _ in self._listed(folder))

    def _listed(self, folder: str, most: int | None = None) -> Sequence[tuple[str, int, str]]:
        within = _split(self.url)[1]
        inside = f"{within}/" if within else ""
        found = self._do(
            "list",
            folder.strip("/"),
            lambda store, path: [*islice((each for some in store.list(path or None) for each in some), most)],
        )
        return [(str(e["path"]).removeprefix(inside), int(e["size"]), (e.get("e_tag") or "").strip('"')) for e in found]

    def check(self, folder: str) -> None:
        """Ask for the names in a folder that has few or none: raises MachineError if files cannot be listed."""
        self._do("list", folder, lambda store, path: next(iter(store.list(path)), None), BUSY)

    def get(self, name: str) -> bytes:
        """A whole file."""
        return self._do("read", name, lambda store, path: bytes(store.get(path).bytes()))

    def get_range(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from an offset; fewer where the file ends."""
        if not size:  # services refuse to send none
            return b""
        return self._do("read", name, lambda store, path: bytes(store.get_range(path, start=start, length=size)))

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a whole file, from bytes or a local file; readers see all of it or nothing."""
        self._do("write", name, lambda store, path: store.put(path, content, chunk_size=PART, max_concurrency=AT_ONCE))

    def _do(
        self, operation: str, name: str, ask: Callable[[ObjectStore, str], T], passing: Collection[str] = PASSING
    ) -> T:
        place = f"{self.url}/{name}".rstrip("/")
        bucket, within = _split(self.url)
        _refuse_forked(place)
        try:
            return _again(lambda: ask(_store(bucket, _endpoint()), f"{within}/{name}".strip("/")), passing)
        except FileNotFoundError:
            if operation != "write":
                raise FileNotFoundError(errno.ENOENT, "is not there", place) from None
            failure = MEANINGS["404"]
        except OSError as error:  # of a local file
            failure = error.strerror or type(error).__name__
        except Exception as error:
            failure = _why(error)
        failed = MachineError(f"cannot {operation} {place}: {failure}")
        failed.of_one = OF_ONE.get(failure, "")
        raise failed  # outside: what the library said is no context


def is_address(text: object) -> bool:
    """Whether a text is a URL, of a scheme that is known or not, and no path.

    >>> is_address("s3://bucket/photos"), is_address("photos/cats")
    (True, False)
    """
    return isinstance(text, str) and ADDRESS.match(text) is not None


def at(address: str) -> Remote:
    """The files below a URL; nothing is asked yet.

    Raises UsageError for a URL of an unknown scheme, without a bucket, or with a password or a signature in it;
    MachineError if the extra is not installed.

    >>> at("memory://trial").list()
    []
    """
    scheme = address.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise unknown("scheme of a URL", scheme, SCHEMES)
    parts = urllib.parse.urlsplit(address)
    place = f"{scheme}://{parts.netloc.rpartition('@')[2]}"
    if "@" in parts.netloc:
        raise UsageError(
            f"the URL of {place} holds a user or password; give {place}{parts.path} and the credentials "
            "in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.query or parts.fragment:
        raise UsageError(
            f"the URL of {place} holds more than a path; give {place}{parts.path}, and the credentials in "
            "the environment"
        )
    if not parts.netloc:
        raise UsageError(f"{address!r} names no bucket; write it as in {scheme}://bucket/folder")
    if {"", ".", ".."} & set(parts.path.rstrip("/").split("/")[1:]):
        raise UsageError(f"{address!r} has an empty name, . or .. between its slashes; give the plain URL")
    refuse_missing(f"{scheme}://", ["obstore"], ["remote"])
    return Remote(f"{place}{parts.path.rstrip('/')}")


def local_folder(store: str | Path | None) -> Path:
    """The folder of a store on this machine: the store itself; for none and for a URL that of `default_folder()`.

    Raises UsageError for what is neither a folder nor a URL.
    """
    if SLASH.match(str(store)):
        raise UsageError(f"{store} is no folder and no URL; a URL has two slashes, as in s3://bucket/folder")
    return Path(store) if store and not is_address(store) else default_folder()


def _endpoint() -> str:
    """The endpoint that the environment names, "" for the service's own."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


def _split(url: str) -> tuple[str, str]:
    """The bucket of a URL, and the folder in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, within = rest.partition("/")
    return f"{scheme}://{bucket}", within


@functools.lru_cache(maxsize=32)
def _store(bucket: str, endpoint: str) -> ObjectStore:
    """The library's side of a bucket, with its limits; http only where the environment asks for it."""
    from obstore.store import MemoryStore, from_url

    if bucket.startswith("memory://"):
        return MemoryStore()
    limits: Any = {"connect_timeout": CONNECT, "read_timeout": STALL, "timeout": REQUEST}
    limits["allow_http"] = endpoint.startswith("http://")
    store: ObjectStore = from_url(bucket, client_options=limits, retry_config=RETRIES)
    return store


def _refuse_forked(place: str) -> None:
    """Raises MachineError where the library would wait for ever: its threads do not follow a fork."""
    if _first_process() != os.getpid() and not place.startswith("memory://"):
        raise MachineError(
            f"cannot read {place} in a forked process; begin processes with multiprocessing_context='spawn'"
        )


@functools.cache
def _first_process() -> int:
    """The process that used the library first."""
    return os.getpid()


def _again(ask: Callable[[], T], passing: Collection[str]) -> T:
    """What a request answers, after the library has tried for some seconds.

    A failure that passes is waited for. A request whose answer was cut off is made anew: the library does not list
    again.
    """
    until, pause, cuts = time.monotonic() + PATIENCE, PAUSE, 0
    while True:
        try:
            return ask()
        except OSError:  # there is no such file, here or there
            raise
        except Exception as error:
            why, cuts = _why(error), cuts + (CUT in str(error))
            if CUT in str(error) and cuts <= CUTS:
                continue
            if why not in passing or time.monotonic() + pause > until:
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # many processes were refused at the same time
        pause = min(2 * pause, LONGEST)


def _why(error: Exception) -> str:
    """Why a request failed, in our own words."""
    said = str(error)
    if any(address in said for address in METADATA):
        return "the environment has no credentials for it"
    if status := STATUS.search(said):
        return MEANINGS.get(status[1], f"the service answers with status {status[1]}")
    if name := NAME.search(said):
        return (
            f"it has a file with the name {name[1][:MOST_NAME]!r}, which cannot be read: names with //, /./, /../ or "
            "control characters; rename it"
        )
    lower = f"{type(error).__name__} {said}".lower()
    failed = f"the library fails ({type(error).__name__})"
    return next((meaning for words, meaning in SAID if words in lower), failed)
