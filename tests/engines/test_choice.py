from __future__ import annotations

import gc
import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SIZE, small_model
from frostline.engines import choice as engines
from frostline.engines import eager
from frostline.engines.choice import Engine, EngineError, engine_named, engine_of, fastest, plain_engine, release
from frostline.engines.eager import reference
from frostline.machine import Machine, find_machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing

MANY = 10_000_000


@pytest.fixture
def fp32() -> Machine:
    return find_machine("cpu", "fp32", 2)


@pytest.fixture
def lower() -> Part:
    return Network(small_model(), Preprocessing(size=SIZE, resize=36)).cut("head")[0]


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)


def pretended(monkeypatch, rate: float, run=None, name: str = "openvino") -> list[str]:
    """One installed engine, as fast as the test says and with the numbers that `run` gives; returns what is built."""
    built: list[str] = []

    def build(asked: str, frozen: Part, machine: Machine) -> Engine:
        built.append(asked)
        return Engine(asked, run or engine_of(frozen, machine).run, True, 8)

    def measure(engine: Engine, *_: object, **__: object) -> float:
        return 100.0 if engine.name == "torch" else rate

    monkeypatch.setattr(engines, "OTHERS", (name,))
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(engines.importlib.metadata, "version", lambda _: "1")
    monkeypatch.setattr(engines, "_build", build)
    monkeypatch.setattr(engines, "rate", measure)
    return built


def test_openvino_gives_the_same_numbers(lower, fp32, pictures):
    pytest.importorskip("openvino")
    built = engines._build("openvino", lower, fp32)
    for count in (1, 3, 8):
        (rows,) = built.run(pictures[:count])
        (right,) = reference(lower, fp32, pictures[:count])
        assert rows.shape == right.shape
        torch.testing.assert_close(rows, right, rtol=1e-3, atol=1e-3)


def test_several_outputs_and_maps_come_from_other_engines_too(fp32, pictures):
    pytest.importorskip("openvino")
    network = Network(small_model(), Preprocessing(size=SIZE, resize=36))
    both = network.below(network.find("block2"), network.find("head"))
    rows = engines._build("openvino", both, fp32).run(pictures)
    for got, right in zip(rows, reference(both, fp32, pictures), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-3, atol=1e-3)


def test_a_faster_engine_is_measured_once_and_remembered(lower, fp32, pictures, tmp_path, monkeypatch):
    built = pretended(monkeypatch, rate=300.0)
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "openvino"
    assert built == ["openvino"]
    known = next(iter(json.loads((tmp_path / "engines.json").read_text()).values()))
    assert known["openvino"]["rate"] == 300.0
    monkeypatch.setattr(engines, "rate", lambda *_, **__: pytest.fail("measured again"))
    release()
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "openvino"


def test_what_a_pass_is_expected_to_take_is_what_was_measured_or_what_is_usual(
    lower, fp32, pictures, tmp_path, monkeypatch
):
    pretended(monkeypatch, rate=300.0)  # torch's is 100
    asked = (lower, fp32, MANY, 0.01, tmp_path)
    assert engines.expected_speedup(*asked) == engines.USUAL_SPEEDUP
    assert engines.expected_speedup(lower, fp32, engines.FEW - 1, 0.01, tmp_path) == 1
    assert engines.expected_speedup(lower, fp32, engines.FEW, 1e-6, tmp_path) == 1  # over before one is built
    fastest(lower, fp32, pictures, MANY, tmp_path)
    assert engines.expected_speedup(*asked) == 3
    monkeypatch.setattr(engines, "OTHERS", ())
    assert engines.expected_speedup(*asked) == 1


def test_the_next_pass_of_a_part_goes_on_with_the_engine_that_was_built(lower, fp32, pictures, tmp_path, monkeypatch):
    built = pretended(monkeypatch, rate=300.0)
    engine = fastest(lower, fp32, pictures, MANY, tmp_path)
    assert fastest(lower, fp32, pictures, 1, tmp_path) is engine
    with torch.no_grad():
        next(lower.parameters()).mul_(2)
    assert fastest(lower, fp32, pictures, 1, tmp_path).name == "torch"
    assert built == ["openvino"]


def test_images_of_the_next_pass_count(lower, fp32, pictures, tmp_path, monkeypatch):
    pretended(monkeypatch, rate=300.0)
    assert fastest(lower, fp32, pictures, 200, tmp_path).name == "torch"
    assert fastest(lower, fp32, pictures, 200, tmp_path, later=MANY).name == "openvino"


def test_what_was_measured_in_a_hurry_is_measured_again_for_a_long_pass(lower, fp32, pictures, tmp_path, monkeypatch):
    rates = [90.0, 300.0]  # the first is noise
    built = pretended(monkeypatch, rate=0.0)
    monkeypatch.setattr(engines, "rate", lambda engine, *_: 100.0 if engine.name == "torch" else rates.pop(0))
    short, long = int(99 * engines.LONG), int(101 * engines.LONG)
    assert [fastest(lower, fp32, pictures, short, tmp_path).name for _ in range(3)] == ["torch"] * 3
    assert built == ["openvino"]  # once, although it lost
    assert [fastest(lower, fp32, pictures, long, tmp_path).name for _ in range(2)] == ["openvino"] * 2
    assert built == ["openvino", "openvino"]
    assert rates == []


@pytest.mark.parametrize("count", [600, MANY])
def test_an_engine_that_cannot_be_used_is_built_once(count, lower, fp32, pictures, tmp_path, monkeypatch):
    def unsupported(_: np.ndarray) -> list[torch.Tensor]:
        raise RuntimeError("unsupported operation")

    built = pretended(monkeypatch, rate=300.0, run=unsupported)
    assert [fastest(lower, fp32, pictures, count, tmp_path).name for _ in range(3)] == ["torch"] * 3
    assert built == ["openvino"]


def test_an_engine_that_failed_in_a_pass_is_let_go_and_not_taken_for_the_next(
    lower, fp32, pictures, tmp_path, monkeypatch
):
    pretended(monkeypatch, rate=300.0)
    engine = fastest(lower, fp32, pictures, MANY, tmp_path)
    engines.failed(engine)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "torch"


def test_more_is_expected_of_an_engine_where_there_is_amx(lower, fp32, pictures, tmp_path, monkeypatch):
    pretended(monkeypatch, rate=300.0)
    bf16 = replace(fp32, precision="bf16")
    least = int(100 * engines.USUAL_SECONDS / (1 - 1 / engines.USUAL_SPEEDUP_WITH_AMX))
    monkeypatch.setattr(engines, "FEW", 1)
    monkeypatch.setattr(engines, "bf16_instructions", frozenset)
    assert fastest(lower, bf16, pictures, least + 2, tmp_path).name == "torch"
    monkeypatch.setattr(engines, "bf16_instructions", lambda: frozenset({"amx_bf16"}))
    assert fastest(lower, fp32, pictures, least + 2, tmp_path / "amx").name == "torch"
    assert fastest(lower, bf16, pictures, least + 2, tmp_path / "amx").name == "openvino"


def test_a_pass_that_is_repeated_keeps_its_engine(lower, fp32, pictures, tmp_path, monkeypatch):
    """So rows of an interrupted pass that were not stored yet are the same the second time."""
    pretended(monkeypatch, rate=200.0)
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "openvino"
    release()
    monkeypatch.setattr(engines, "rate", lambda *_, **__: pytest.fail("measured again"))
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "openvino"
    release()
    monkeypatch.setattr(engines, "OTHERS", ())  # it is no longer installed
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "torch"


def test_the_latest_choices_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "MOST_CHOSEN", 3)
    for count in (1, 2, 3, 1, 4):
        engines._note_chosen(tmp_path, f"part {count}", "torch")
    assert len(engines._chosen(tmp_path)) == 3
    assert "part 4" in engines._chosen(tmp_path)
    (tmp_path / "engines.json").write_text('{"chosen": 3}')
    assert engines._chosen(tmp_path) == {}


def test_a_slower_engine_is_built_once_and_never_again(lower, fp32, pictures, tmp_path, monkeypatch):
    built = pretended(monkeypatch, rate=90.0)
    assert [fastest(lower, fp32, pictures, MANY, tmp_path).name for _ in range(2)] == ["torch", "torch"]
    assert built == ["openvino"]


def test_few_images_are_not_worth_an_engine(lower, fp32, pictures, tmp_path, monkeypatch):
    built = pretended(monkeypatch, rate=10_000.0)
    assert fastest(lower, fp32, pictures, engines.FEW - 1, tmp_path).name == "torch"
    assert built == []


def test_an_engine_that_pays_is_weighed_with_its_building(lower, fp32, pictures, tmp_path, monkeypatch):
    pretended(monkeypatch, rate=200.0)
    fastest(lower, fp32, pictures, MANY, tmp_path)
    file = tmp_path / "engines.json"
    content = json.loads(file.read_text())
    for name in content.keys() - {"chosen"}:
        content[name]["openvino"]["seconds"] = 10.0
    file.write_text(json.dumps(content))
    release()  # else the one that is built costs nothing
    assert fastest(lower, fp32, pictures, 1_000, tmp_path).name == "torch"  # 10 s against 10 + 5 s
    assert fastest(lower, fp32, pictures, 4_000, tmp_path).name == "openvino"  # 40 s against 10 + 20 s


@pytest.mark.parametrize("fault", ["differs", "raises", "is not finite"])
def test_an_engine_that_fails_or_differs_is_left_with_one_line(
    fault, lower, fp32, pictures, tmp_path, monkeypatch, capfd
):
    def wrong(some: np.ndarray) -> list[torch.Tensor]:
        if fault == "raises":
            raise RuntimeError("unsupported operation")
        rows = engine_of(lower, fp32).run(some)
        return [row * 1.2 if fault == "differs" else row * float("nan") for row in rows]

    pretended(monkeypatch, rate=300.0, run=wrong)
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "torch"
    predicted = capfd.readouterr().err.strip().splitlines()
    assert len(predicted) == 1
    assert predicted[0].startswith("not using openvino for the frozen part")
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "torch"
    assert capfd.readouterr().err == ""


def test_an_engine_that_fails_on_the_way_ends_the_pass_and_not_with_other_rows(
    lower, fp32, pictures, tmp_path, monkeypatch
):
    calls: list[int] = []

    def tiring(some: np.ndarray) -> list[torch.Tensor]:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of memory")
        return engine_of(lower, fp32).run(some)

    pretended(monkeypatch, rate=300.0, run=tiring)
    engine = fastest(lower, fp32, pictures, MANY, tmp_path)
    right = reference(lower, fp32, pictures)[0]
    torch.testing.assert_close(engine.run(pictures)[0], right, rtol=1e-3, atol=1e-3)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"openvino failed in the middle of a pass: out of memory"):
            engine.run(pictures)
    plain = plain_engine(lower, fp32)
    assert plain.name not in ("torch", "openvino")
    torch.testing.assert_close(plain.run(pictures)[0], right, rtol=1e-3, atol=1e-3)


def test_an_engine_is_tried_where_it_is_expected_to_save_more_than_it_takes(
    lower, fp32, pictures, tmp_path, monkeypatch
):
    built = pretended(monkeypatch, rate=300.0)  # torch: 100 images/s
    least = int(100 * engines.USUAL_SECONDS / (1 - 1 / engines.USUAL_SPEEDUP))
    monkeypatch.setattr(engines, "FEW", 1)
    assert fastest(lower, fp32, pictures, least - 1, tmp_path).name == "torch"
    assert built == []
    assert fastest(lower, fp32, pictures, least + 2, tmp_path).name == "openvino"
    assert built == ["openvino"]


def test_nothing_of_an_engine_survives_its_release(lower, fp32, pictures, monkeypatch):
    layers: list[weakref.ref[object]] = []
    fuse = eager.fuse_activations

    def watched(part: Part) -> Part:
        fused = fuse(part)
        layers.extend(weakref.ref(module) for module in fused.modules())
        return fused

    monkeypatch.setattr(eager, "fuse_activations", watched)
    release()
    engine_of(lower, fp32).run(pictures)
    assert engine_of(lower, fp32) is engine_of(lower, fp32)
    assert any(layer() is not None for layer in layers)
    release()
    gc.collect()
    assert layers
    assert all(layer() is None for layer in layers)


def test_the_engine_before_is_let_go_before_the_next_one_is_built(lower, fp32, pictures, monkeypatch):
    other = Network(small_model(1), Preprocessing(size=SIZE, resize=36)).cut("head")[0]
    release()
    before = weakref.ref(engine_of(lower, fp32))
    alive: list[bool] = []
    fuse = eager.fuse_activations
    monkeypatch.setattr(eager, "fuse_activations", lambda part: (alive.append(before() is not None), fuse(part))[1])
    engine_of(other, fp32)
    assert alive == [False]


def test_threads_that_ask_at_once_get_the_engine_of_their_own_part(fp32, pictures):
    parts = [Network(small_model(i), Preprocessing(size=SIZE, resize=36)).cut("head")[0] for i in range(4)]
    right = [reference(part, fp32, pictures)[0] for part in parts]

    def ask(number: int) -> int:
        rows = engine_of(parts[number % 4], fp32).run(pictures)[0]
        torch.testing.assert_close(rows, right[number % 4], rtol=1e-3, atol=1e-3)
        return number

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(24))) == list(range(24))


def test_what_is_remembered_holds_for_one_processor_and_one_version(lower, fp32, monkeypatch):
    keys = {engines._key(lower, fp32)}
    monkeypatch.setattr(engines, "cpu_model", lambda: "another processor")
    keys.add(engines._key(lower, fp32))
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: object())
    for version in ("1", "2"):
        monkeypatch.setattr(engines.importlib.metadata, "version", lambda _, version=version: version)
        keys.add(engines._key(lower, fp32))
    assert len(keys) == 4


def test_torch_itself_falls_back_to_what_always_works(lower, fp32, pictures, monkeypatch, capfd):
    def broken(*_: object) -> object:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("frostline.engines.eager.fuse_activations", broken)
    release()
    torch.testing.assert_close(
        engine_of(lower, fp32).run(pictures)[0], reference(lower, fp32, pictures)[0], rtol=1e-3, atol=1e-3
    )
    assert "no such instruction" in capfd.readouterr().err


def test_changed_weights_are_never_run_with_an_engine_of_before(lower, fp32, pictures):
    before = engine_of(lower, fp32).run(pictures)[0]
    with torch.no_grad():
        next(lower.parameters()).mul_(2)
    assert not torch.equal(engine_of(lower, fp32).run(pictures)[0], before)
    torch.testing.assert_close(
        engine_of(lower, fp32).run(pictures)[0], reference(lower, fp32, pictures)[0], rtol=1e-3, atol=1e-3
    )


ODD = ('"3"', "NaN", "-1", "1e999", "9" * 400)
DAMAGED = [f'{{"KEY": {{"openvino": {{"seconds": 0, "rate": {value}, "rounds": 3}}}}}}' for value in ODD]


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "[" * 5000, '{"a": 1}', '{"KEY": {"torch": {"rate": 1}}}', *DAMAGED]
)
def test_a_damaged_memory_is_forgotten(content, lower, fp32, pictures, tmp_path, monkeypatch):
    pretended(monkeypatch, rate=300.0)
    key = engines._key(lower, fp32)
    (tmp_path / "engines.json").write_text(content.replace("KEY", key))
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "openvino"


def test_a_read_only_folder_is_no_reason_to_stop(lower, fp32, pictures, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engines, "write_atomically", full)
    pretended(monkeypatch, rate=300.0)
    assert fastest(lower, fp32, pictures, MANY, tmp_path).name == "openvino"


def test_below_the_first_stage_the_rows_are_the_pictures(fp32, pictures):
    network = Network(small_model(), Preprocessing(size=SIZE, resize=36))
    (rows,) = engine_of(network.cut("stem")[0], fp32).run(pictures)
    assert np.array_equal(rows.numpy(), pictures)


def test_the_real_choice_with_what_is_installed(lower, fp32, pictures, tmp_path: Path):
    """Whatever wins on this machine, the numbers are those of the part."""
    engine = fastest(lower, replace(fp32, workers=1), pictures, 1_000_000, tmp_path)
    torch.testing.assert_close(engine.run(pictures)[0], reference(lower, fp32, pictures)[0], rtol=1e-3, atol=1e-3)


def test_an_engine_is_found_again_by_its_name(lower, fp32, pictures, tmp_path, monkeypatch):
    built = pretended(monkeypatch, rate=300.0)
    assert engine_named("torch", lower, fp32) is engine_of(lower, fp32)
    assert engine_named("plain", lower, fp32).name == "plain"
    assert engine_named("graphs", lower, fp32) is None
    assert engine_named("torch from a lower cut", lower, fp32) is None
    engine = engine_named("openvino", lower, fp32)
    assert engine.name == "openvino"
    assert engine_named("openvino", lower, fp32) is engine is fastest(lower, fp32, pictures, 1, tmp_path)
    assert built == ["openvino"]


def test_an_engine_with_wrong_numbers_is_not_found_by_its_name(lower, fp32, monkeypatch):
    pretended(monkeypatch, rate=300.0, run=lambda pictures: [torch.zeros(len(pictures), 24)])
    assert engine_named("openvino", lower, fp32) is None
