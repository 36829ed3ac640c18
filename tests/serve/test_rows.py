"""Rows S03 to S21 of the test matrix: what strangers may send. All on this machine, bounded in count and time.

`victim` is a server in a process of its own with the limits that ship. Where deadlines count, one with short limits
runs in a thread.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from pathlib import Path

import pytest

from attacking import answers_in, connect, raw, request, until_closed
from badfiles import BAD, GOOD, bad_files
from conftest import small_model
from frostline.classifier.classifier import Classifier
from frostline.machine import find_machine
from frostline.serve.batches import Served
from frostline.serve.limits import Limits
from serving import CLASSES, PREPROCESSING, Answered, classifier_of, form, picture, running

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes in /proc")

SHORT = Limits(head=0.6, sending=0.9, idle=0.5, reading=0.5, answering=2, decoding=2)


def is_problem(answered: Answered, *statuses: int) -> dict[str, str]:
    """An answer of one of these statuses in the one form of errors, which tells nothing about the inside."""
    assert answered.status in statuses, answered
    said = answered.json
    assert said.keys() == {"error", "detail", "request_id"}
    for word in ("Traceback", "site-packages", "/src/", "/tmp", "/home", "/root", ".py", "line ", "0x"):  # noqa: S108
        assert word not in answered.body.decode()
    assert answered.headers["content-type"] == "application/json"
    return said


def closes_with(answered: tuple[bytes, bool], *statuses: int) -> Answered:
    """The last answer of a connection, which is a problem, after which the server has closed."""
    content, closed = answered
    assert closed, content
    found = answers_in(content)
    assert found, "closed without an answer"
    is_problem(found[-1], *statuses)
    return found[-1]


def test_S03_answers_are_those_of_the_classifier_and_nobody_gets_another_ones():
    classifier = classifier_of()
    contents = [picture(seed, size=(40 + seed, 50)) for seed in range(24)]
    expected = [next(classifier.predictions([content])) for content in contents]
    wrong: list[object] = []

    def client(number: int, address) -> None:
        for _ in range(6):
            found = address.predict(contents[number], "?top=5").json[0]
            shares = dict(found["top"])
            near = all(abs(shares[label] - p) <= 1e-5 for label, p in expected[number].top)
            if not near or found["label"] != expected[number].label:
                wrong.append((number, found))

    with running(Served(classifier)) as address:
        threads = [threading.Thread(target=client, args=(number, address)) for number in range(len(contents))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({str(each.top) for each in expected}) == len(contents)
    assert wrong == []


def test_S04_a_body_that_is_announced_too_large_is_not_read(victim):
    with connect(victim.port) as client:
        client.sendall(request("/predict", b"", f"content-length: {21 << 20}", method="POST"))
        client.settimeout(1)
        content, _ = until_closed(client)
    is_problem(answers_in(content)[0], 413)


@pytest.mark.parametrize("kind", ["announced", "chunked", "of a GET", "form"])
def test_S04_oversize_bodies_are_refused_before_they_fill_the_memory(victim, kind):
    before = victim.megabytes()
    victim.forget_peaks()
    piece = bytes(1 << 20)
    if kind == "chunked":
        head = request("/predict", b"", "transfer-encoding: chunked", method="POST")
        pieces = [head] + [b"100000\r\n" + piece + b"\r\n"] * 60
    else:
        path, method = ("/health", "GET") if kind == "of a GET" else ("/predict", "POST")
        sort = "multipart/form-data; boundary=x" if kind == "form" else "image/png"
        pieces = [request(path, b"", f"content-type: {sort}", f"content-length: {60 << 20}", method=method)]
        pieces += [piece] * 60
    closes_with(raw(victim.port, *pieces), 413)
    assert victim.megabytes(peak=True) - before < 30 + 10  # and what the memory of other tests is worth
    victim.alive()


@pytest.mark.parametrize(
    "length", ["-1", "+5", "1e3", "0x10", "", "٣", "5, 6", "9" * 21, "9" * 5000], ids=lambda text: text[:8]
)
def test_S04_lengths_that_are_none(victim, length):
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n".encode()
    closes_with(raw(victim.port, head + b"12345"), 400, 413)


def test_S04_more_than_was_announced_is_no_second_request(victim):
    body = picture()
    sent = request("/predict", body[:100], "content-type: image/png") + body[100:]
    content, closed = raw(victim.port, sent)
    first, second = answers_in(content)
    assert closed
    is_problem(first, 422)
    is_problem(second, 400)


def test_S04_less_than_was_announced(victim):
    with connect(victim.port) as client:
        client.sendall(request("/predict", b"", "content-length: 1000", method="POST") + bytes(10))
    victim.alive()
    with running(limits=SHORT) as address:
        started = time.monotonic()
        content = request("/predict", b"", "content-length: 1000", method="POST") + bytes(10)
        closes_with(raw(address.port, content), 408)
        assert time.monotonic() - started < 5


def test_S04_nothing_is_asked_for_that_will_be_refused(victim):
    head = request("/predict", b"", f"content-length: {1 << 30}", "expect: 100-continue", method="POST")
    content, _ = raw(victim.port, head)
    assert content.startswith(b"HTTP/1.1 413 ")


def parts(*contents: bytes) -> bytes:
    return b"".join(b"--x\r\n" + content + b"\r\n" for content in contents) + b"--x--\r\n"


def part(content: bytes, name: str = "image", filename: str | None = "a.png", more: bytes = b"") -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    return f'Content-Disposition: form-data; name="{name}"{named}\r\n'.encode() + more + b"\r\n" + content


FORM = "multipart/form-data; boundary=x"
NESTED = part(parts(part(picture())), more=b"Content-Type: multipart/mixed; boundary=x\r\n")
FORMS = {
    "no boundary": ("multipart/form-data", parts(part(picture()))),
    "an empty boundary": ("multipart/form-data; boundary=", parts(part(picture()))),
    "another boundary": ("multipart/form-data; boundary=y", parts(part(picture()))),
    "a boundary of 100 kB": ("multipart/form-data; boundary=" + "x" * 60_000, parts(part(picture()))),
    "odd letters in the boundary": ('multipart/form-data; boundary="\xff\xfe; x"', parts(part(picture()))),
    "an unknown charset": (FORM + "; charset=nonsense", parts(part(b"text", filename=None))),
    "a codec that is no charset": (FORM + "; charset=rot13", parts(part(b"text", filename=None))),
    "a codec of bytes": (FORM + "; charset=zlib", parts(part(b"text", filename=None))),
    "UTF-16": (FORM + "; charset=utf-16", parts(part(b"tex", filename=None))),
    "10,000 files": (FORM, parts(*[part(b"") for _ in range(10_000)])),
    "10,000 fields": (FORM, parts(*[part(b"", filename=None) for _ in range(10_000)])),
    "33 images": (FORM, parts(*[part(picture()) for _ in range(33)])),
    "a header of 1 MB": (FORM, parts(part(picture(), more=b"X-A: " + b"a" * (1 << 20) + b"\r\n"))),
    "100,000 headers": (FORM, parts(part(picture(), more=b"X-A: a\r\n" * 100_000))),
    "a part without a name": (FORM, parts(b"Content-Disposition: form-data\r\n\r\nx")),
    "a part without headers": (FORM, parts(b"\r\nx")),
    "nested": (FORM, parts(NESTED)),
    "no part": (FORM, b"--x--\r\n"),
    "nothing": (FORM, b"\r\n"),
    "no end": (FORM, parts(part(picture()))[:-10]),
    "text": (FORM, parts(part(b"cat", filename=None))),
    "5 MB of text": (FORM, parts(part(b"a" * (5 << 20), filename=None))),
    "a boundary that never ends": (FORM, b"--x\r\n" + part(b"\r\n--" * (1 << 18))),
    "junk before": (FORM, b"\r\n" * (1 << 18) + parts(part(picture()))),
    "junk after": (FORM, parts(part(b"no image")) + b"\r\n" * (1 << 18)),
    "no image": (FORM, parts(part(b"no image"))),
}


@pytest.mark.parametrize("kind", FORMS)
def test_S06_malformed_forms(victim, kind):
    sort, body = FORMS[kind]
    started = time.monotonic()
    answered = victim.ask("/predict", body, {"content-type": sort})
    assert time.monotonic() - started < 5  # 0.2 s of work, on a machine that may be busy
    if kind == "junk before":  # is allowed, if odd
        assert answered.status == 200
    else:
        is_problem(answered, 400, 413, 415, 422)


@pytest.mark.parametrize("filler", [b"\r\n", b"\r", b"\r\n--", b"--x", b"\r\n--\x00", b"\n", b"-"])
def test_S06_no_form_keeps_the_others_waiting(victim, filler):
    """20 MB of what looks like the end of a part: whoever asks meanwhile is answered."""
    body = parts(part(filler * ((19 << 20) // len(filler))))
    ended = threading.Event()

    def attack() -> None:
        with contextlib.suppress(OSError):
            victim.ask("/predict", body, {"content-type": FORM})
        ended.set()

    thread = threading.Thread(target=attack)
    slowest = 0.0
    thread.start()
    while not ended.is_set():
        started = time.monotonic()
        assert victim.ask("/health").status == 200
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(0.01)
    thread.join()
    assert slowest < 1


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/passwd", "a\x00b", "<img src=x onerror=alert(1)>", "x" * 5000, "\udcff", "ünïcode 🐈"]
    + ["\u202egnp.exe", "%s%n", "\x1b[31m", "=cmd", "'; DROP"],
)
def test_S06_file_names_are_only_repeated(victim, name):
    content = parts(part(picture(), filename="NAME")).replace(b"NAME", name.encode("utf-8", "surrogateescape"))
    answered = victim.ask("/predict", content, {"content-type": FORM})
    if answered.status == 400:
        is_problem(answered, 400)
        return
    assert answered.status == 200
    path = answered.json[0]["path"]
    assert path.encode("utf-8") or not name
    assert path in (name, name.encode("utf-8", "surrogateescape").decode("latin-1"))


def test_S06_two_files_are_two_answers(victim):
    answered = victim.ask("/predict", *form([("a.png", picture(1)), ("b.png", picture(2))]))
    assert answered.status == 200
    assert [each["path"] for each in answered.json] == ["a.png", "b.png"]


LARGE = [name for name in bad_files() if name[:3] in ("A10", "A11", "A12", "A25", "A26")]


@pytest.mark.parametrize("name", LARGE)
def test_S07_bombs(victim, name):
    victim.alive()  # all processes have decoded
    before = victim.megabytes()
    victim.forget_peaks()
    expected, content = bad_files()[name]
    started = time.monotonic()
    answered = victim.predict(content)
    seconds = time.monotonic() - started
    grown = victim.megabytes(peak=True) - before
    if expected == GOOD:
        assert answered.status == 200
    else:
        is_problem(answered, 413, 422)
    assert seconds < 3  # 0.1 s, on a machine that may be busy
    assert grown < 50 + 3 * len(content) / 1e6  # the bytes themselves: received, sent on, and decoded


@pytest.mark.parametrize("name", bad_files())
def test_S08_every_bad_file_as_an_upload(victim, name):
    expected, content = bad_files()[name]
    for answered in (victim.predict(content), victim.ask("/predict", *form([("a.jpg", content)]))):
        assert answered.status in (200, 422), answered
        if expected in (GOOD, BAD):
            assert (answered.status == 200) is (expected == GOOD), answered
        if answered.status == 422:
            assert is_problem(answered, 422)["detail"]


def test_S08_an_upload_of_nothing(victim):
    """A04."""
    assert is_problem(victim.predict(b""), 422)["detail"] == "empty file"
    assert "empty file" in is_problem(victim.ask("/predict", *form([("a.jpg", b"")])), 422)["detail"]


def test_S09_one_bad_of_16(victim):
    files = [(f"{i}.png", picture(i)) for i in range(16)]
    files[5] = ("5.png", picture(5)[:300])
    answered = victim.ask("/predict", *form(files))
    assert answered.status == 207
    assert [each["path"] for each in answered.json] == [name for name, _ in files]
    assert [i for i, each in enumerate(answered.json) if "error" in each] == [5]
    assert "truncated" in answered.json[5]["error"]
    single = victim.predict(picture(7)).json[0]
    assert answered.json[7]["label"] == single["label"]
    assert answered.json[7]["probability"] == pytest.approx(single["probability"], abs=1e-5)


CHUNKED = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
SMUGGLED = {
    "a length and chunks": request("/predict", b"0\r\n\r\n", "transfer-encoding: chunked"),
    "chunks and a length": b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n"
    b"content-length: 4\r\n\r\n0\r\n\r\nGET /info HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "two lengths": request("/predict", b"12345", "content-length: 6"),
    "two codings": request("/predict", b"", "transfer-encoding: chunked", "transfer-encoding: chunked", method="POST"),
    "an unknown coding": request("/predict", b"", "transfer-encoding: gzip, chunked", method="POST"),
    "a coding in disguise": request("/predict", b"", "transfer-encoding: xchunked", method="POST"),
    "a space before the colon": b"GET /health HTTP/1.1\r\nhost : 127.0.0.1\r\n\r\n",
    "a folded header": b"GET /health HTTP/1.1\r\n host: 127.0.0.1\r\n\r\n",
    "an address of another server": b"GET http://evil.example/health HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    "a bad chunk": CHUNKED + b"zz\r\nabc\r\n",
    "a chunk of a negative size": CHUNKED + b"-1\r\nabc\r\n",
    "a chunk of a huge size": CHUNKED + b"f" * 30 + b"\r\nabc\r\n",
    "a chunk that is longer": CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    "100 kB of headers": request("/health", b"", "x-a: " + "a" * 100_000),
    "10,000 headers": request("/health", b"", *["x-a: a"] * 10_000),
    "an address of 9,000 letters": request("/health?" + "a" * 9_000),
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/1.0 without a host": b"GET /health HTTP/1.0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c5010000c10303") + bytes(range(1, 190)),
    "zeros": bytes(1000) + b"\r\n\r\n",
    "letters beyond ASCII": "GET /gesund-ü HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode(),
    "a bare CR": b"GET /health HTTP/1.1\rhost: 127.0.0.1\r\n\r\n",
    "NUL in a header": b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: a\x00b\r\n\r\n",
}


NOT_ALLOWED = (  # but it is clear where they end
    "an address of 9,000 letters",
    "an address of another server",
    "100 kB of headers",
    "10,000 headers",
)


@pytest.mark.parametrize("kind", SMUGGLED)
def test_S15_what_is_no_request_is_refused_and_the_connection_closed(victim, kind):
    with connect(victim.port, 2) as client:
        client.sendall(SMUGGLED[kind] + request("/info"))
        content, closed = until_closed(client)
    is_problem(answers_in(content)[0], 414 if "9,000" in kind else 400)
    if kind not in NOT_ALLOWED:
        assert closed
        assert b'"classes"' not in content  # what followed was not taken for a request


def test_S15_requests_in_one_packet_are_answered_in_turn(victim):
    with connect(victim.port) as client:
        client.sendall(request("/health") + request("/predict", picture()) + request("/nowhere") + request("/ready"))
        client.settimeout(1)
        content, _ = until_closed(client)
    assert [each.status for each in answers_in(content)] == [200, 200, 404, 200]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/predict", None, {}, 405),
        ("PUT", "/predict", b"x", {}, 405),
        ("DELETE", "/predict", None, {}, 405),
        ("TRACE", "/health", None, {}, 405),
        ("POST", "/health", b"x", {}, 405),
        ("CONNECT", "127.0.0.1:80", None, {}, 404),
        ("BREW", "/predict", b"x", {}, 405),
        ("GET", "/nowhere", None, {}, 404),
        ("GET", "/docs", None, {}, 404),
        ("GET", "/../../etc/passwd", None, {}, 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", None, {}, 404),
        ("POST", "/predict", b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/predict", b"a", {"content-type": "text/plain"}, 415),
        ("POST", "/predict", b'{"image": "!!!"}', {"content-type": "application/json"}, 415),
        ("POST", "/predict", b'{"url": "http://127.0.0.1:1/"}', {"content-type": "application/json"}, 415),
        ("POST", "/predict", b"x", {"content-type": "application/x-numpy"}, 415),
        ("POST", "/predict", b"x", {"content-type": "multipart/mixed; boundary=x"}, 415),
        ("POST", "/predict?url=http://127.0.0.1:1/", b"x", {}, 422),
        ("POST", "/predict?path=/etc/passwd", b"x", {}, 422),
        ("POST", "/predict?top=0", picture(), {}, 422),
        ("POST", "/predict?top=-1", picture(), {}, 422),
        ("POST", "/predict?top=" + "9" * 5000, picture(), {}, 422),
        ("POST", "/predict?coverage=nan", picture(), {}, 422),
        ("POST", "/predict?coverage=inf", picture(), {}, 422),
        ("POST", "/predict?coverage=0.9", picture(), {}, 422),
        ("POST", "/predict?why=%00", picture(), {}, 422),
        ("POST", "/predict?top=%ed%a0%80", picture(), {}, 422),
        ("GET", "/training-image?path=../../etc/passwd", None, {}, 404),
        ("GET", "/training-image?path=%00", None, {}, 404),
        ("GET", "/training-image", None, {}, 422),
    ],
)
def test_S16_wrong_requests(victim, method, path, body, headers, status):
    is_problem(victim.ask(path, body, headers, method), status)


def test_S16_what_a_client_accepts_does_not_matter(victim):
    assert victim.ask("/predict", picture(), {"accept": "text/html"}).json[0]["label"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 400), ("127.0.0.1.evil.example", 400), ("localhost.evil.example", 400), ("", 400), ("[::1", 400)]
    + [("169.254.169.254", 400), ("127.0.0.1, evil.example", 400), ("evil.example#127.0.0.1", 400), ("0", 400)]
    + [("127.0.0.1", 200), ("localhost:1", 200), ("LOCALHOST", 200), ("[::1]:80", 200)],
)
def test_S17_hosts(victim, host, status):
    answered = victim.ask("/health", headers={"host": host})
    if status == 200:
        assert answered.status == 200
    else:
        is_problem(answered, status)


ORIGINS = ["http://evil.example", "null", "", "http://[", "https://127.0.0.1.evil.example", "file://", "x" * 3000]


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda text: text[:20])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_S17_requests_of_pages_of_another_origin(victim, origin, method):
    body, headers = (picture() if method == "POST" else None), {"origin": origin}
    if method == "OPTIONS":
        headers["access-control-request-method"] = "POST"
    answered = victim.ask("/predict" if method != "GET" else "/info", body, headers, method)
    is_problem(answered, 400, 403)
    assert not any(name.startswith("access-control") for name in answered.headers)


def test_S17_a_page_of_the_server_itself_is_answered(victim):
    own = {"host": f"localhost:{victim.port}", "origin": f"http://localhost:{victim.port}"}
    assert victim.ask("/predict", picture(), own).status == 200


class Failing(type(small_model())):
    """A network that fails when it is told to."""

    fails: BaseException | None = None

    def forward(self, x):
        if self.fails is not None:
            raise self.fails
        return super().forward(x)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. /tmp/x.py"), ValueError(), StopIteration()], ids=repr
)
def test_S21_a_network_that_fails(error, capsys):
    model = small_model()
    model.__class__ = Failing
    classifier = Classifier(model, CLASSES, PREPROCESSING, find_machine("cpu", "fp32"))
    with running(Served(classifier)) as address:
        before = address.predict(picture()).json
        Failing.fails = error
        try:
            failed = address.predict(picture())
        finally:
            Failing.fails = None
        is_problem(failed, 503)
        assert failed.headers["retry-after"]
        assert address.predict(picture()).json == before
        assert 'frostline_requests_total{path="/predict",status="503"} 1.0' in address.ask("/metrics").body.decode()
    said = capsys.readouterr().err
    assert failed.json["request_id"] in said
    assert type(error).__name__ in said


def test_of_3_5_every_answer_has_the_headers_that_protect(victim):
    answers = [victim.ask("/"), victim.ask("/health"), victim.ask("/nowhere"), victim.predict(b"x")]
    for answered in answers:
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answered.headers
        assert not any(name.startswith("access-control") for name in answered.headers)
    assert victim.ask("/info").json.keys() == {"task", "classes", "frostline_version", "coverage", "most"}
    assert "script-src 'sha256-" in answers[0].headers["content-security-policy"]
    assert len({answered.headers["x-request-id"] for answered in answers}) == len(answers)


TOKEN = "a-token-of-24-characters"  # noqa: S105


def test_of_3_5_a_token_is_needed():
    wrong = [None, "", TOKEN, "Bearer", f"bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "\xff"]
    with running(token=TOKEN) as address:
        for shown in wrong:
            headers = {} if shown is None else {"authorization": shown}
            for path in ("/info", "/metrics", "/openapi.json", "/training-image", "/nowhere"):
                is_problem(address.ask(path, headers=headers), 401)
            is_problem(address.ask("/predict", picture(), headers), 401)
            assert address.ask("/health", headers=headers).status == 200
        good = {"authorization": f"Bearer {TOKEN}", "host": "any.example"}
        assert address.ask("/predict", picture(), good).status == 200


def test_of_3_5_the_log_repeats_nothing_that_could_deceive_its_reader(victim):
    raw(victim.port, b"GET /\x1b]52;c;x\x07 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    victim.ask("/%1b%5b31m%0aroot:%20all%20is%20well", headers={"x-a": "\x1b[31m"})
    victim.ask("/predict", picture(), {"content-type": "image/\x1b[31m"})
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\x9b]", victim.said)
    assert "all is well" not in victim.said
    assert json.loads(victim.ask("/info").body)
