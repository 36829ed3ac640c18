"""Several processes of one program: how they join, and what rank 0 sends to the others.

    torchrun --nproc-per-node 4 -m frostline fit photos/

Rank 0 decides everything. The others wait for its messages, for hours where it computes alone. Within a step all wait
for each other, but for half a minute at most. A program that joins them itself gives rank, size and address:

    group = join(rank, size, "10.0.0.1:29500")

torch.distributed is imported only by a process that joins.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from typing import TYPE_CHECKING, Any

from frostline.errors import MachineError, reason

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor, device
    from torch.distributed import ProcessGroup
    from torch.distributed.distributed_c10d import Store

JOINING = timedelta(minutes=5)  # for all processes to start
READY = timedelta(minutes=30)  # to receive a training, and the rows that it reads from a bucket
STEP = timedelta(seconds=30)  # for which one process waits for another within a step
IDLE = timedelta(days=365)  # for which a process waits for rank 0, which may compute alone
END, TRAIN, EPOCH, STEPS, JUDGE, STOP, SUMMING, SUM, SUMMED = range(9)  # kinds of messages
# Parts of the messages of gloo and NCCL, because torch has no kind of error for a process that is gone. Checked with
# torch 2.14; the tests of killed and hanging processes show it for gloo and the version that is installed.
FROM_OTHERS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out", "peer")


@dataclass(frozen=True, eq=False)
class Group:
    """The processes that compute together, as one of them sees them.

    rank, size: this process among them, 0 … size - 1. local_rank: among those on its machine. control: for messages of
    rank 0. steps: for numbers within a step. store: keys and values that all see. processes: of rank 0, the process id
    of each rank on this machine; 0 elsewhere.
    """

    rank: int
    size: int
    local_rank: int
    control: ProcessGroup
    steps: ProcessGroup
    store: Store
    processes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Launch:
    """What torchrun tells a process."""

    rank: int
    size: int
    local_rank: int


_group: list[Group] = []
_lost: list[str] = []  # what happened to another process


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What torchrun tells this process; None if it does not run under torchrun, or alone.

    >>> launched({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"})
    Launch(rank=1, size=2, local_rank=1)
    >>> launched({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"})
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    numbers = [environment.get(name, "") for name in names]
    if "MASTER_ADDR" not in environment or not all(number.isdecimal() for number in numbers):
        return None
    launch = Launch(*map(int, numbers))
    return launch if launch.size > 1 else None


def launcher(environment: Mapping[str, str] = os.environ) -> str:
    """What a command begins with that starts as many processes as this machine has now; "" without torchrun.

    >>> launcher({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host"})
    'torchrun --nproc-per-node 2 -m '
    """
    launch = launched(environment)
    if launch is None:
        return ""
    return f"torchrun --nproc-per-node {environment.get('LOCAL_WORLD_SIZE', launch.size)} -m "


def current() -> Group | None:
    """The group that this process has joined; None for a process of its own."""
    return _group[0] if _group else None


def size() -> int:
    """The number of processes that train together; 1 for a process of its own."""
    return _group[0].size if _group else 1


def join(rank: int, size: int, address: str | None = None, local_rank: int = 0) -> Group:
    """Join the other processes, and wait until all have joined.

    rank: 0 … size - 1. address: host:port of rank 0; by default as torchrun's environment says. local_rank: among the
    processes on this machine; it takes the CUDA device of this number.
    Raises MachineError if they do not find each other.
    """
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if distributed.is_initialized():  # an earlier group, which this process has left
        distributed.destroy_process_group()
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a lost process is an error here, and ends none of them
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local_rank < devices:
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if devices and distributed.is_nccl_available() else "gloo"
    try:
        found = rendezvous(f"tcp://{address}" if address else "env://", rank, size, timeout=JOINING)
        store, rank, size = next(iter(found))
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=JOINING)
        control: Any = distributed.new_group(backend="gloo", timeout=IDLE)
        steps: Any = distributed.new_group(backend=backend, timeout=STEP)
        here = socket.gethostname()
        store.set(f"process {rank}", f"{os.getpid()} {metadata.version('frostline')} {here}")
        others = [store.get(f"process {each}").decode().split(" ", 2) for each in range(size)] if rank == 0 else []
    except (RuntimeError, ValueError, OSError) as error:
        where = address or f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise MachineError(
            f"process {rank} of {size} cannot join the others at {where} ({reason(error)}); start all of them within "
            f"{JOINING.seconds // 60} minutes, where they reach that address"
        ) from error
    _refuse_versions([version for _, version, _ in others])
    processes = tuple(int(number) if host == here else 0 for number, _, host in others)
    _group[:] = [Group(rank, size, local_rank, control, steps, store, processes)]
    _lost.clear()
    return _group[0]


def _refuse_versions(versions: Sequence[str]) -> None:
    """Raises MachineError if a process would compute with another version than rank 0."""
    for rank, version in enumerate(versions):
        if version != versions[0]:
            raise MachineError(
                f"process {rank} of {len(versions)} has Frostline {version}, and process 0 has {versions[0]}; install "
                "the same one everywhere"
            )


def leave() -> None:
    """End the group: rank 0 tells the others, if they still listen. Connections stay until the process ends."""
    group = current()
    _group.clear()
    if group is not None and group.rank == 0:
        with contextlib.suppress(RuntimeError):
            _broadcast(group, _header(END), timedelta(seconds=5))


def send(group: Group, kind: int, first: float = 0.0, second: float = 0.0, value: Any = None) -> None:
    """Send a message to all other processes: its kind, two numbers, and a value.

    value: bytes, or a tensor of int64. Raises MachineError if one of them is gone.
    """
    import torch

    with answering(group):
        payload = torch.frombuffer(value, dtype=torch.uint8) if isinstance(value, bytearray) else value
        count = 0 if payload is None else payload.numel()
        _broadcast(group, _header(kind, first, second, count), STEP)
        if payload is not None:
            _broadcast(group, payload, 10 * STEP)  # maybe a gigabyte


def receive(group: Group) -> tuple[int, float, float, int]:
    """The next message of rank 0: its kind, two numbers, and the size of its value, which `received` takes."""
    header = _header(END)
    _broadcast(group, header, IDLE)
    kind, first, second, count = header.tolist()
    return int(kind), first, second, int(count)


def received(group: Group, count: int, *, numbers: bool) -> Tensor:
    """The value of a message: bytes as uint8, or numbers as int64."""
    import torch

    value = torch.empty(count, dtype=torch.int64 if numbers else torch.uint8)
    _broadcast(group, value, IDLE)
    return value


def _header(kind: int, first: float = 0.0, second: float = 0.0, count: int = 0) -> Tensor:
    import torch

    return torch.tensor([kind, first, second, count], dtype=torch.float64)


def _broadcast(group: Group, tensor: Tensor, longest: timedelta) -> None:
    from torch import distributed

    work: Any = distributed.broadcast(tensor, 0, group=group.control, async_op=True)
    work.wait(longest)


@contextlib.contextmanager
def answering(group: Group) -> Iterator[None]:
    """Raises MachineError where another process is gone, or does not answer in time."""
    try:
        yield
    except RuntimeError as error:
        if not is_of_others(error):
            raise
        _lost[:] = [_why(group)]
        raise MachineError(_lost[0]) from error


def ready(group: Group, training: int) -> None:
    """Tell rank 0 that this process is ready for the steps of a training, of that number."""
    group.store.add(f"ready {training}", 1)


def wait_until_ready(group: Group, training: int) -> None:
    """Wait until all other processes are ready; raises MachineError if one is gone, or needs minutes.

    They import what the network consists of and fetch rows, which may take longer than they wait for each other within
    a step.
    """
    longest = time.monotonic() + READY.seconds
    while group.store.add(f"ready {training}", 0) < group.size - 1:
        if (ended := _ended(group)) or time.monotonic() > longest:
            _lost[:] = [ended or _why(group)]
            raise MachineError(_lost[0])
        time.sleep(0.005)


def is_of_others(error: Exception) -> bool:
    """Whether an error says that another process is gone, or late."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in FROM_OTHERS)


def _why(group: Group) -> str:
    """What happened to another process; torchrun takes a moment to notice that one has ended."""
    for _ in range(10):
        if ended := _ended(group):
            return ended
        time.sleep(0.1)
    return f"one of {group.size} processes is gone, or has not answered in time"


def _ended(group: Group) -> str:
    """What happened to a process that has ended; "" if none has."""
    with contextlib.suppress(RuntimeError):
        for rank in range(1, group.size):
            if group.store.check([f"failed {rank}"]):
                return f"process {rank} of {group.size} failed: {group.store.get(f'failed {rank}').decode()}"
    return _gone(group)


def _gone(group: Group) -> str:
    """Which process on this machine no longer runs; "" if all do."""
    gone = [rank for rank, process in enumerate(group.processes) if process and not _runs(process)]
    return f"process {gone[0]} of {group.size} has ended" if gone else ""


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def lost() -> MachineError | None:
    """The error of a process that has ended since this one joined, if it has not been raised yet; asked on SIGTERM.

    torchrun ends all other processes when one has ended.
    """
    group = current()
    if group is None or _lost or not (gone := _gone(group)):
        return None
    _lost[:] = [gone]
    return MachineError(gone)


def on_the_way_out() -> bool:
    """Whether it is known that another process is gone, so that this one ends anyway."""
    return bool(_lost)


def failed(group: Group, error: BaseException) -> None:
    """Tell rank 0 why this process ends."""
    with contextlib.suppress(RuntimeError):
        group.store.set(f"failed {group.rank}", reason(error))


def own_device(group: Group) -> device:
    """The CUDA device of this process; raises MachineError if there are fewer than processes."""
    import torch

    count = torch.cuda.device_count()
    if group.local_rank >= count:
        raise MachineError(f"it needs a GPU of its own, and there are {count}: give torchrun --nproc-per-node {count}")
    return torch.device("cuda", group.local_rank)


def only_rank_0_is_stopped() -> None:
    """Leave Ctrl-C and SIGTERM to rank 0, which ends the others when its state is written."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
