"""Images decoded in processes of their own.

A decoder is a large program in C that reads what strangers send. A crash ends its process, not the server; one that
hangs is ended. Only bytes are exchanged: nothing that comes out of such a process is run or unpickled.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import numpy as np
from PIL import PngImagePlugin

from frostline.data.decoding import UnreadableImageError, size_of, thumbnail
from frostline.data.views import PLAIN, pixels
from frostline.errors import MachineError
from frostline.preprocessing import Preprocessing
from frostline.process import usable_cores
from frostline.serve.limits import Limits

LEAST = 2  # processes, so that images are decoded while one is replaced
ANSWER, REFUSED = b"a", b"r"  # the first byte of an answer
READY = b"r"  # the first message of a process
DECODE, SHRINK = b"d", b"s"  # and of what is asked for
GLANCE = 224  # pixels of the longer side of a thumbnail


class CrashedError(Exception):
    """The process that decoded an image has ended."""


class Decoders:
    """Processes that decode images, each one image at a time.

    crashed: called for each process that is replaced.
    """

    def __init__(
        self, preprocessing: Preprocessing, limits: Limits, crashed: Callable[[], object], count: int | None = None
    ) -> None:
        count = max(LEAST, count or usable_cores())
        self.preprocessing, self.limits, self.crashed = preprocessing, limits, crashed
        self._context = _context()
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for started in [self._new() for _ in range(count)]:
            if not started.is_ready(limits.starting):
                raise MachineError(
                    "the processes that decode images do not start: is there memory left? In a script `serve_run` has "
                    'to be below `if __name__ == "__main__":`, because these processes read the script'
                )
            self._idle.put(started)
        self.threads = ThreadPoolExecutor(count, "decoding")  # each waits for one process
        self.count = count

    def decode(self, content: bytes) -> np.ndarray:
        """The image in the content of a file, (size, size, C) of uint8 as the network takes it.

        Raises UnreadableImageError with the reason (it takes too long is one), and CrashedError.
        """
        how = self.preprocessing
        return np.frombuffer(self._ask(DECODE, content), np.uint8).reshape(how.size, how.size, how.channels)

    def thumbnail(self, content: bytes) -> bytes:
        """A small JPEG of the image in the content of a file. Raises like `decode`."""
        return self._ask(SHRINK, content)

    def close(self) -> None:
        """End all processes, when none is in use."""
        self.threads.shutdown()
        for _ in range(self.count):
            self._idle.get().end()

    def _ask(self, kind: bytes, content: bytes) -> bytes:
        process = self._idle.get()
        try:
            answer = process.ask(kind, content, self.limits.decoding)
        except (OSError, EOFError) as error:
            process.end()
            self.crashed()
            process = self._new()
            process.is_ready(self.limits.starting)
            if isinstance(error, TimeoutError):
                raise UnreadableImageError(str(error)) from error
            raise CrashedError("the process that decoded an image has ended") from error
        finally:
            self._idle.put(process)
        if answer[:1] == REFUSED:
            raise UnreadableImageError(answer[1:].decode())
        return answer[1:]

    def _new(self) -> _Process:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self.preprocessing, self.limits), daemon=True, name="frostline decoder"
        )
        process.start()
        theirs.close()
        return _Process(process, ours)


def _context() -> ForkServerContext | SpawnContext:
    """How processes are started: where possible from one that has everything imported, which takes milliseconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@dataclass(frozen=True, eq=False)
class _Process:
    process: multiprocessing.process.BaseProcess
    pipe: Connection

    def is_ready(self, seconds: float) -> bool:
        """Whether it can work within that time, which an image need not wait for. If not, who asks it gets an error."""
        with contextlib.suppress(OSError, EOFError):
            if self.pipe.poll(seconds):
                self.pipe.recv_bytes()
                return True
        self.end()
        return False

    def ask(self, kind: bytes, content: bytes, seconds: float) -> bytes:
        self.pipe.send_bytes(kind)
        self.pipe.send_bytes(content)
        if not self.pipe.poll(seconds):
            raise TimeoutError(f"decoding takes more than {seconds:g} s")
        return self.pipe.recv_bytes()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, preprocessing: Preprocessing, limits: Limits) -> None:
    """The loop of one process, until the server is gone. Ctrl-C and SIGTERM are the server's to answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module="PIL")  # remarks about odd metadata; real errors raise
    PngImagePlugin.MAX_TEXT_MEMORY = limits.text
    limit_memory(limits.memory)
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(READY)
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes(), pipe.recv_bytes(), preprocessing, limits.pixels))


def limit_memory(more: int) -> None:
    """Let this process take so many bytes more, and have a MemoryError beyond. It does nothing but on Linux."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(asked: bytes, content: bytes, preprocessing: Preprocessing, most: int) -> bytes:
    try:
        width, height = size_of(content) or (0, 0)  # else decoding gives the reason
        if width * height > most:
            raise UnreadableImageError(f"{width} × {height} pixels, more than {most:,}")
        if asked == SHRINK:
            if small := thumbnail(content, GLANCE):
                return ANSWER + small
            raise UnreadableImageError("not readable")
        return ANSWER + pixels(content, b"", [0], PLAIN, preprocessing).tobytes()
    except UnreadableImageError as error:
        return REFUSED + str(error).encode("utf-8", "replace")
    except (MemoryError, MachineError):
        return REFUSED + b"it takes too much memory to decode"
    except Exception as error:  # of a decoder that does not keep to its own errors
        return REFUSED + f"{type(error).__name__} while decoding".encode("utf-8", "replace")
