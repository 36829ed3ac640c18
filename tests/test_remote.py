from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import urllib.request

import pytest

from buckets import SECRETS, Bucket, served
from frostline import remote
from frostline.errors import MachineError, UsageError

SHIPPED = {name: getattr(remote, name) for name in ("RETRIES", "PATIENCE", "PAUSE")}

pytest.importorskip("obstore", reason="the extra remote is not installed")


@pytest.fixture
def bucket(monkeypatch):
    with served(monkeypatch) as own:
        yield own


@pytest.fixture(params=["s3://bucket/deep/folder", "s3://bucket", "memory://NAME", "memory://NAME/folder"])
def place(request, bucket: Bucket):
    return remote.at(request.param.replace("NAME", f"{abs(hash(request.node.name))}"))


def test_what_is_put_is_there(place, tmp_path):
    (tmp_path / "large").write_bytes(b"abc" * 100)
    place.put("photos/a b/ü.jpg", b"0123456789")
    place.put("photos/large", tmp_path / "large")
    place.put("photosynthesis", b"")
    assert place.get("photos/a b/ü.jpg") == b"0123456789"
    assert place.get("photos/large") == b"abc" * 100
    assert place.get_range("photos/a b/ü.jpg", 3, 4) == b"3456"
    assert place.get_range("photos/a b/ü.jpg", 8, 100) == b"89"
    assert place.get_range("photosynthesis", 0, 0) == b""
    assert place.list() == [("photos/a b/ü.jpg", 10), ("photos/large", 300), ("photosynthesis", 0)]
    assert place.list("photos") == [("photos/a b/ü.jpg", 10), ("photos/large", 300)]
    assert remote.at(f"{place}/photos/").list("a b") == [("a b/ü.jpg", 10)]
    place.put("photosynthesis", b"new")
    assert pickle.loads(pickle.dumps(place)).get("photosynthesis") == b"new"


def test_what_is_not_there(place):
    place.check("photos")
    assert place.list("photos") == []
    for ask in (lambda: place.get("a"), lambda: place.get_range("a", 0, 1)):
        with pytest.raises(FileNotFoundError) as caught:
            ask()
        assert f"{place}/a" in str(caught.value)


def asks(place):
    return {
        "list": lambda: place.list("a"),
        "check": lambda: place.check("a"),
        "get": lambda: place.get("a/x"),
        "range": lambda: place.get_range("a/x", 1, 5),
        "put": lambda: place.put("a/x", b"y" * 50),
    }


@pytest.mark.parametrize("status", [503, 429])
def test_a_service_that_is_busy_for_longer_than_the_library_tries_is_waited_for(status, bucket, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 20.0)
    bucket.files["a"] = b"there"
    busy = time.monotonic() + 0.7
    bucket.fault = lambda *_: status if time.monotonic() < busy else None
    place = remote.at("s3://bucket")
    place.check("")
    assert time.monotonic() >= busy
    busy = time.monotonic() + 0.7
    assert place.get("a") == b"there"
    assert time.monotonic() >= busy


@pytest.mark.long
def test_a_service_that_is_busy_for_half_a_minute_is_waited_for_as_the_page_says(bucket, monkeypatch):
    for name, value in SHIPPED.items():  # `served` is less patient
        monkeypatch.setattr(remote, name, value)
    remote._store.cache_clear()
    bucket.files["a"] = b"there"
    busy = time.monotonic() + 30
    bucket.fault = lambda *_: 503 if time.monotonic() < busy else None
    assert remote.at("s3://bucket").get("a") == b"there"
    assert time.monotonic() - busy < 15
    assert len(bucket.asked) < 100


@pytest.mark.parametrize("fault", [503, 429, "cut", 0.3])
def test_a_service_that_recovers(bucket, fault):
    place = remote.at("s3://bucket/deep")
    place.put("a/x", b"z" * 50)
    for name, ask in asks(place).items():
        left = [fault]
        bucket.fault = lambda *_, left=left: left.pop() if left else None
        before = len(bucket.asked)
        ask()
        assert not left
        assert len(bucket.asked) - before == (1 if (name, fault) == ("put", "cut") else 2)  # it has no body to cut


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (503, "the service is busy (503)"),
        (403, "it is forbidden (403)"),
        (401, "the credentials are not accepted (401)"),
        (418, "the service answers with status 418"),
        (0.2, "it did not answer in time"),
    ],
)
def test_a_service_that_fails_gives_one_line_without_secrets(bucket, fault, said, monkeypatch):
    monkeypatch.setattr(remote, "REQUEST", "100ms")
    remote._store.cache_clear()
    place = remote.at("s3://bucket/deep")
    place.put("a/x", b"z" * 50)
    bucket.fault = lambda *_: fault
    started = time.monotonic()
    for name, ask in asks(place).items():
        if fault == 0.2 and name not in ("range", "put"):  # each takes as long as all tries together
            continue
        with pytest.raises(MachineError) as caught:
            ask()
        text = str(caught.value)
        assert said in text
        assert "s3://bucket/deep" in text
        assert "\n" not in text
        assert not any(secret in text for secret in SECRETS)
        assert caught.value.__context__ is None, "what the library said would be printed with --debug"
    assert time.monotonic() - started < 15


def test_an_answer_that_is_always_cut_off(bucket):
    place = remote.at("s3://bucket")
    place.put("a/x", b"z" * 50)
    bucket.fault = lambda *_: "cut"
    for name in ("list", "get", "range"):
        with pytest.raises(MachineError, match="the answer was cut off"):
            asks(place)[name]()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a//b.png", "'a//b.png'"), ("a/./b", "'a/./b'"), ("../b", "'../b'"), ("a\tb\n", r"'a\tb\n'")],
)
def test_a_name_that_the_library_cannot_read(bucket, name, shown):
    bucket.files[name] = b""
    with pytest.raises(MachineError, match="cannot list s3://bucket: it has a file with the name ") as caught:
        remote.at("s3://bucket").list()
    assert f"{shown}, which cannot be read" in str(caught.value)


def test_what_is_wrong_with_one_file_is_told_apart(bucket):
    bucket.files["a"] = b"123"
    for fault, of_one in ((403, "it is forbidden (403)"), (416, "it is shorter than it was"), (401, "")):
        bucket.fault = lambda *_, fault=fault: fault
        with pytest.raises(MachineError) as caught:
            remote.at("s3://bucket").get_range("a", 1, 2)
        assert pickle.loads(pickle.dumps(caught.value)).of_one == of_one


def test_no_service(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match="cannot list s3://bucket/x: it cannot be reached$"):
        remote.at("s3://bucket/x").list()


def test_http_only_where_the_endpoint_says_so(bucket, monkeypatch):
    remote.at("s3://bucket").check("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{bucket.port}")
    before = len(bucket.asked)
    with pytest.raises(MachineError):
        remote.at("s3://bucket").check("a")
    assert len(bucket.asked) == before


def test_a_local_file_that_is_gone(bucket, tmp_path):
    for url in ("s3://bucket", "memory://gone"):
        with pytest.raises((MachineError, OSError)):
            remote.at(url).put("a", tmp_path / "gone")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s4://bucket", "unknown scheme of a URL 's4'; there are s3, gs, az, memory"),
        ("S33://bucket", "unknown scheme"),
        ("https://bucket.example/x", "unknown scheme"),
        ("s3://", "names no bucket; write it as in s3://bucket/folder"),
        ("s3://me:SECRETOFNOBODY@bucket/x", "give s3://bucket/x and the credentials in the environment"),
        ("s3://SECRETOFNOBODY@bucket/x", "give s3://bucket/x and the credentials in the environment"),
        ("s3://bucket/a/../b", "has an empty name, . or .. between its slashes"),
        ("s3://bucket/./b", "has an empty name, . or .. between its slashes"),
        ("s3://bucket//b/", "has an empty name, . or .. between its slashes"),
        ("az://box/x?sv=1&sig=SECRETOFNOBODY", "give az://box/x, and the credentials in the environment"),
        ("gs://box/x#SECRETOFNOBODY", "give gs://box/x, and the credentials in the environment"),
    ],
)
def test_urls_that_are_refused(address, said):
    with pytest.raises(UsageError) as caught:
        remote.at(address)
    assert said in str(caught.value)
    assert "SECRETOFNOBODY" not in str(caught.value)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("frostline.extras._is_there", lambda package: package != "obstore")
    with pytest.raises(MachineError, match=r"s3:// needs obstore: pip install 'frostline\[remote\]'"):
        remote.at("s3://bucket")


@pytest.mark.parametrize(
    "text", ["photos", "/photos/cats", "C://photos", "c:\\photos", "", None, "digits", "mnist:/data"]
)
def test_paths_are_no_addresses(text, tmp_path):
    assert not remote.is_address(text)


def test_the_local_folder_of_a_store(own_cache, tmp_path):
    assert remote.local_folder(None) == remote.local_folder("s3://bucket/x") == own_cache
    assert remote.local_folder(tmp_path) == remote.local_folder(str(tmp_path)) == tmp_path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_forked_process_says_so_instead_of_waiting_for_ever(bucket):
    code = (
        "import os, sys; from frostline import remote\n"
        "place = remote.at('s3://bucket'); place.put('x', b'1')\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    try: place.get('x')\n"
        "    except Exception as error: print(error, flush=True); os._exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 7
    assert "multiprocessing_context='spawn'" in answer.stdout


def test_the_module_is_light():
    code = "import sys, frostline.remote; print({'torch', 'numpy', 'obstore'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "set()"


@pytest.mark.long
def test_a_service_that_another_project_wrote(monkeypatch, tmp_path):
    """moto knows multipart uploads, pages of lists and buckets that are not there."""
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "ENDPOINT_URL": host}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        place = remote.at("s3://box/deep")
        with pytest.raises(MachineError, match="there is no such bucket"):
            place.list()
        with pytest.raises(MachineError, match="there is no such bucket"):
            place.put("x", b"1")
        urllib.request.urlopen(urllib.request.Request(f"{host}/box", method="PUT"), timeout=10).close()  # noqa: S310
        content = bytes(range(256)) * 80_000
        (tmp_path / "large").write_bytes(content)
        place.put("large", tmp_path / "large")
        assert place.get("large") == content
        assert place.get_range("large", 10_000_001, 300) == content[10_000_001:10_000_301]
        for number in range(1100):
            place.put(f"many/{number:04}", b"")
        assert [name for name, _ in place.list("many")] == [f"many/{number:04}" for number in range(1100)]
    finally:
        server.stop()
