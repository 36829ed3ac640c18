from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frostline
from conftest import TINY_FIT, write_photos
from frostline.classifier.artifact import load
from frostline.classifier.reference import read_reference
from frostline.serve.app import ROUTES
from frostline.serve.batches import Served
from frostline.serve.limits import Limits
from serving import Address, classifier_of, form, picture, running


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> frostline.Run:
    folder = tmp_path_factory.mktemp("serve")
    photos = write_photos(folder / "photos", 30)
    return frostline.fit(photos, out=folder / "run", **TINY_FIT)


@pytest.fixture(scope="module")
def explaining(run: frostline.Run) -> Iterator[Address]:
    """A server of a run that was fitted, with the images that it was fitted on."""
    with running(Served(load(run), read_reference(run.path), Path(str(run.config["data"])))) as found:
        yield found


def refused(answer, status: int, why: str) -> None:
    assert answer.status == status
    assert why in answer.json["detail"]
    assert answer.json.keys() == {"error", "detail", "request_id"}


def test_the_body_is_an_image(address):
    found = address.predict(picture(1))
    assert found.status == 200
    (said,) = found.json
    (expected,) = classifier_of().predictions([picture(1)])
    assert said == {
        **expected.as_json(),
        "probability": pytest.approx(expected.probability, abs=1e-5),
        "top": said["top"],
    }
    assert [label for label, _ in said["top"]] == [label for label, _ in expected.top]


def test_a_form_has_many_images_in_order(address):
    names = ["b.png", "a.png", "../../etc/passwd", "naïve <b>.png"]
    found = address.ask("/predict?top=2", *form([(name, picture(i)) for i, name in enumerate(names)]))
    assert [each["path"] for each in found.json] == names
    assert [len(each["top"]) for each in found.json] == [2] * 4


def test_one_bad_image_of_several_is_an_entry(address):
    """S09."""
    files = [(f"{i}.png", picture(i)) for i in range(15)] + [("bad.png", b"no image")]
    found = address.ask("/predict", *form(files))
    assert found.status == 207
    assert [each.get("error", "") for each in found.json] == [""] * 15 + ["not an image of a known format"]


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "empty file"), (b"text", "known format"), (picture()[:200], "truncated")]
)
def test_a_body_that_is_no_image_is_refused(address, content, why):
    refused(address.predict(content), 422, why)


def test_forms_that_are_not_taken(address):
    refused(address.ask("/predict", *form([("a.png", b"x")])), 422, "known format")
    several = address.ask("/predict", *form([("a.png", b"x"), ("b.png", b"")]))
    assert several.status == 207
    assert [each["error"] for each in several.json] == ["not an image of a known format", "empty file"]
    refused(address.ask("/predict", *form([])), 422, "the form has no file")
    text = b'--b\r\nContent-Disposition: form-data; name="url"\r\n\r\nhttp://example.com/a.png\r\n--b--\r\n'
    refused(address.ask("/predict", text, {"content-type": "multipart/form-data; boundary=b"}), 422, "'url' is text")
    refused(address.ask("/predict", b"--b", {"content-type": "multipart/form-data"}), 400, "oundary")
    refused(address.ask("/predict", *form([("a", b"x")] * 33)), 400, "32")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "text/html"])
def test_types_that_are_no_images(address, kind):
    """S16: there are no addresses to fetch, and no pickles."""
    refused(address.ask("/predict", b'{"url": "http://example.com"}', {"content-type": kind}), 415, kind)


def test_a_body_without_a_type_is_an_image(address):
    assert address.ask("/predict", picture()).status == 200


@pytest.mark.parametrize("query", ["top=0", "top=x", "coverage=0", "coverage=1", "coverage=nan", "why=-1", "why=21"])
def test_questions_out_of_range(address, query):
    refused(address.predict(picture(), f"?{query}"), 422, query.partition("=")[0])


def test_reasons_need_a_reference(address):
    refused(address.predict(picture(), "?why=1"), 422, "no reference")
    refused(address.predict(picture(), "?coverage=0.9"), 422, "no reference")
    refused(address.ask("/training-image?path=a"), 404, "no answer")


def test_other_routes_and_methods(address):
    refused(address.ask("/nothing"), 404, "no such route")
    refused(address.ask("/docs"), 404, "no such route")
    refused(address.ask("/predict"), 405, "POST images to /predict")
    refused(address.ask("/health", b"x"), 405, "GET the rest")
    assert address.ask("/predict", method="HEAD").status == 405


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/info", "/metrics", "/openapi.json"])
def test_head_is_answered_like_get_without_a_body(path, address):
    got, head = address.ask(path), address.ask(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    changing = {"x-request-id", "date", *(["content-length"] if path == "/metrics" else [])}
    assert got.headers.keys() == head.headers.keys()
    assert all(got.headers[name] == head.headers[name] for name in got.headers.keys() - changing)


def test_what_programs_ask(address):
    assert address.ask("/health").json == {"status": "alive"}
    assert address.ask("/ready").json == {"status": "ready"}
    about = address.ask("/info").json
    assert about["classes"] == list(classifier_of().classes)
    assert (about["task"], about["coverage"]) == ("classification", None)
    assert about["most"] == {"images": 32, "bytes": 20 << 20, "pixels": 50_000_000}
    metrics = address.ask("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b'frostline_requests_total{path="/info",status="200"}' in metrics.body


def test_every_route_is_documented(address):
    described = address.ask("/openapi.json").json["paths"]
    assert {*described, "/", "/openapi.json"} == set(ROUTES)


def test_the_answer_of_predict_with_sets_and_reasons(explaining, run):
    file = next(Path(str(run.config["data"])).rglob("*.png"), None) or next(
        Path(str(run.config["data"])).rglob("*.jpg")
    )
    (expected,) = frostline.predict(run, file, coverage=0.5, why=3)
    found = explaining.ask("/predict?coverage=0.5&why=3", file.read_bytes(), {"content-type": "image/png"})
    (said,) = found.json
    assert said["set"] == list(expected.set)
    assert said["none"] is expected.none
    assert [(each["path"], each["label"]) for each in said["why"]] == [(path, label) for path, label, _ in expected.why]
    assert said["why"][0]["cosine"] == pytest.approx(1, abs=1e-3)
    assert said["probability"] == pytest.approx(expected.probability, abs=1e-5)


def test_many_images_at_once_have_the_answers_of_predict(explaining, run):
    """A batch is computed by the engine of `predict`, whose outputs the reasons come from, too."""
    contents = [picture(seed, size=(90, 70)) for seed in range(12)]
    expected = frostline.predict(run, contents, coverage=0.5, why=2)
    found = explaining.ask("/predict?coverage=0.5&why=2", *form([(f"image {i}", c) for i, c in enumerate(contents)]))
    for said, each in zip(found.json, expected, strict=True):
        assert (said["path"], said["label"], said["set"]) == (each.path, each.label, list(each.set))
        assert said["probability"] == pytest.approx(each.probability, abs=1e-5)
        assert [near["path"] for near in said["why"]] == [path for path, _, _ in each.why]


def test_a_coverage_that_cannot_be_guaranteed(explaining):
    refused(explaining.predict(picture(), "?coverage=0.999"), 422, "held-out images")


def test_training_images_that_answers_name(explaining, run):
    (said,) = explaining.predict(picture(), "?why=1").json
    shown = explaining.ask(f"/training-image?path={said['why'][0]['path']}")
    assert (shown.status, shown.headers["content-type"]) == (200, "image/jpeg")
    assert max(Image.open(io.BytesIO(shown.body)).size) <= 224
    for other in ("", "../run/config.yaml", "/etc/passwd", str(run.path / "config.yaml")):
        refused(explaining.ask(f"/training-image?path={other}"), 404, "no answer names")
    explaining.ask("/training-image")


def test_questions_that_nobody_knows(address):
    refused(address.predict(picture(), "?covrage=0.9"), 422, "'covrage' is not known here; known are top")
    sort = {"content-type": "multipart/form-data; charset=undefined; boundary=b"}
    refused(address.ask("/predict", b"--b--\r\n", sort), 415, "not taken")


def test_training_images_that_are_not_there(run, tmp_path):
    reference = read_reference(run.path)
    for images in (None, tmp_path):
        with running(Served(load(run), reference, images)) as found:
            refused(found.ask(f"/training-image?path={reference.names[0]}"), 404, "training image")


def test_limits_of_pixels_and_bytes():
    with running(limits=Limits(pixels=10_000, body=100_000)) as found:
        refused(found.predict(picture(size=(200, 100))), 422, "200 × 100 pixels, more than 10,000")
        refused(found.predict(bytes(100_001)), 413, "100,001 bytes")
        assert found.predict(picture()).status == 200


def test_answers_are_numbers_that_json_has(address):
    black = io.BytesIO()
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(black, "PNG")
    json.loads(address.predict(black.getvalue()).body, parse_constant=pytest.fail)
