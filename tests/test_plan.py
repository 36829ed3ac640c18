from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frostline import plan as module
from frostline.errors import UsageError
from frostline.network.counting import work_shares
from frostline.network.stages import Stage
from frostline.plan import (
    DEPTHS,
    LEARNING_RATES,
    PRESETS,
    SCHEDULES,
    SOLVED,
    Phase,
    phase_from,
    plan_as_yaml,
    read_plan,
    resolve_plan,
)


def stages(**parameters: int) -> Any:
    """As much of a network as presets look at."""
    return SimpleNamespace(stages=[Stage(name, None, count, (), ()) for name, count in parameters.items()])


RESNET = stages(stem=9, layer1=70, layer2=200, layer3=800, layer4=3000, pool=0, head=50)

phases = st.builds(
    Phase,
    frostline=st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1),
    epochs=st.integers(0, 100_000),
    lr=st.none() | st.floats(0, 100, exclude_min=True),
    lr_decay=st.floats(0, 1, exclude_min=True),
    views=st.none() | st.integers(1, 1000),
    patience=st.integers(1, 10_000),
    batch_size=st.integers(1, 100_000),
    weight_decay=st.floats(0, 1),
    optimizer=st.sampled_from(list(LEARNING_RATES)),
    momentum=st.floats(0, 1, exclude_max=True),
    schedule=st.sampled_from(SCHEDULES),
    mixup=st.floats(0, 10),
    clip=st.floats(0, allow_infinity=False),
    batchnorm=st.sampled_from([None, "frozen", "updated"]),
    freeze=st.lists(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1), max_size=3).map(tuple),
)


@pytest.fixture
def plan(tmp_path: Path):
    def write(text: str) -> Path:
        file = tmp_path / "plan.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def names(planned: list[Phase]) -> list[str]:
    return [phase.frostline for phase in planned]


def test_probe_is_the_solved_head() -> None:
    assert Phase("head", epochs=0) == SOLVED
    assert resolve_plan("probe", RESNET, 100) == [Phase("head", epochs=0, views=1)]


def test_gradual_sinks_by_two_stages_that_have_parameters() -> None:
    assert resolve_plan("gradual", RESNET, 1_000_000) == [
        Phase("head", epochs=0, views=1),
        Phase("layer4", views=1),
        Phase("layer3", views=1),
    ]


@pytest.mark.parametrize(
    ("few", "expected"),
    [(stages(pool=0, head=5), []), (stages(stem=3, head=5), ["stem"]), (stages(a=1, b=0, c=2, head=0), ["c", "a"])],
)
def test_gradual_takes_what_there_is(few: Any, expected: list[str]) -> None:
    assert names(resolve_plan("gradual", few, 100)) == ["head", *expected]


def test_full_goes_to_the_bottom() -> None:
    assert resolve_plan("full", RESNET, 1_000_000) == [
        Phase("head", epochs=0, views=1),
        Phase("stem", views=1),
    ]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "auto"])
def test_presets_solve_the_head_first_and_end_where_training_is_gentler(preset: str) -> None:
    planned = resolve_plan(preset, RESNET, 100)
    assert (planned[0].frostline, planned[0].epochs) == ("head", 0)
    rates = [phase.learning_rate for phase in planned[1:]]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("images", "epochs"), [(10, 10), (768, 10), (1151, 7), (2000, 4), (1_000_000, 3)])
def test_auto_sinks_by_work_and_has_to_prove_itself(images: int, epochs: int, small: Any) -> None:
    network = small.network(3)
    first, *deeper = resolve_plan("auto", network, images)
    assert first == replace(SOLVED, views=4 if images <= 10_000 else 1)
    shares = work_shares(network)
    assert [phase.frostline for phase in deeper][-1] == "stem"
    for phase, share in zip(deeper, DEPTHS, strict=True):
        above = network.stage_names()[network.stage_names().index(phase.frostline) + 1]
        assert shares[phase.frostline] >= share > shares[above]
        assert (phase.race, phase.lr, phase.batchnorm, phase.epochs) == (True, None, None, epochs)


def test_a_head_that_is_solved_has_nothing_to_race() -> None:
    with pytest.raises(UsageError, match="race is True; it must be false where the head is solved"):
        Phase("head", epochs=0, race=True)


def test_presets_may_be_named_by_a_path() -> None:
    assert resolve_plan(Path("probe"), RESNET, 100) == resolve_plan("probe", RESNET, 100)


def test_list_is_taken_as_it_is() -> None:
    given = (Phase("layer4", epochs=2, views=3), Phase("layer1", lr=0.5, views=1))
    assert resolve_plan(given, RESNET, 100) == list(given)


@pytest.mark.parametrize(
    ("images", "views"), [(1, 4), (2_000, 4), (2_001, 2), (10_000, 2), (10_001, 1), (1_000_000, 1)]
)
def test_views_left_open_are_chosen_by_the_number_of_images(images: int, views: int) -> None:
    planned = resolve_plan([SOLVED, Phase("layer4"), Phase("layer3", views=7)], RESNET, images)
    assert [phase.views for phase in planned] == [1, views, 7]


def test_common_values_go_to_every_phase_that_trains() -> None:
    planned = resolve_plan("gradual", RESNET, 100, epochs=3, views=5, lr=None, batch_size=None)
    assert planned == [
        Phase("head", epochs=0, views=5),
        Phase("layer4", epochs=3, views=5),
        Phase("layer3", epochs=3, views=5),
    ]


def test_what_was_asked_for_has_views_to_be_seen_in() -> None:
    assert [phase.views for phase in resolve_plan("gradual", RESNET, 50_000)] == [1, 1, 1]
    assert [phase.views for phase in resolve_plan("gradual", RESNET, 50_000, least_views=2)] == [1, 2, 2]
    assert [phase.views for phase in resolve_plan("gradual", RESNET, 100, least_views=2)] == [1, 4, 4]


def test_what_a_plan_says_for_itself_is_not_replaced_in_silence(capsys) -> None:
    resolve_plan([SOLVED, Phase("layer4", epochs=7), Phase("layer3", lr=0.5)], RESNET, 100, epochs=2, batch_size=8)
    assert "note: every phase that trains gets epochs 2 instead of the plan's value" in capsys.readouterr().err
    resolve_plan("gradual", RESNET, 100, epochs=2, batch_size=8)
    assert capsys.readouterr().err == ""


def test_common_values_are_checked() -> None:
    with pytest.raises(UsageError, match="views is 0; it must be 1 … 1000"):
        resolve_plan("full", RESNET, 100, views=0)


def test_no_phases() -> None:
    with pytest.raises(UsageError, match="the plan has no phases"):
        resolve_plan([], RESNET, 100)


@pytest.mark.parametrize(("name", "nearest"), [("prob", "probe"), ("graduall", "gradual"), ("ful", "full")])
def test_unknown_preset_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"unknown plan '{name}'; nearest: {nearest}"):
        resolve_plan(name, RESNET, 100)


def test_preset_like_nothing_known_names_all() -> None:
    with pytest.raises(UsageError, match=r"unknown plan 'xyzw'; there are auto, probe, gradual, full, FILE\.yaml$"):
        resolve_plan("xyzw", RESNET, 100)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"there is no plan file .*gone\.yaml; give another file, or a preset: auto, probe, gradual, full",
    ):
        resolve_plan(tmp_path / "gone.yaml", RESNET, 100)


def test_plan_of_the_docstring(plan) -> None:
    file = plan(module.__doc__.split("\n\n", 1)[1])
    assert read_plan(file) == [
        SOLVED,
        Phase("layer4", epochs=10, lr=0.001, optimizer="sgd", freeze=("layer4.0*",)),
        Phase("stem", race=True),
    ]
    expected = ["head", "layer4", "stem"]
    assert names(resolve_plan(file, RESNET, 100)) == names(resolve_plan(str(file), RESNET, 100)) == expected


@pytest.mark.parametrize("text", ["[head, layer4]", "phases: [head, layer4]", "- head\n- frostline: layer4"])
def test_names_alone_are_phases(text: str, plan) -> None:
    assert read_plan(plan(text)) == [SOLVED, Phase("layer4")]


def test_any_file_name_will_do(tmp_path: Path) -> None:
    (tmp_path / "myplan").write_text("[head]")
    assert read_plan(tmp_path / "myplan") == [SOLVED]


@pytest.mark.parametrize(
    ("value", "expected"), [("1e-3", 0.001), ("0.001", 0.001), ("1", 1.0), ("1.0e-3", 0.001), ("'0.5'", 0.5)]
)
def test_learning_rates_as_people_write_them(value: str, expected: float, plan) -> None:
    (phase,) = read_plan(plan(f"[{{frostline: head, lr: {value}}}]"))
    assert phase.lr == expected
    assert isinstance(phase.lr, float)


def test_whole_floats_are_whole_numbers(plan) -> None:
    (phase,) = read_plan(plan("[{frostline: head, epochs: 4.0}]"))
    assert phase.epochs == 4
    assert isinstance(phase.epochs, int)


@settings(max_examples=60, deadline=None)
@given(st.lists(phases, min_size=1, max_size=3))
@example([SOLVED, Phase("layer4")])
def test_plan_survives_yaml(tmp_path_factory, planned: list[Phase]) -> None:
    file = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    file.write_text(yaml.safe_dump({"phases": plan_as_yaml(planned)}), encoding="utf-8")
    assert read_plan(file) == planned
    file.write_text(yaml.safe_dump(plan_as_yaml(planned), allow_unicode=True), encoding="utf-8")
    assert read_plan(file) == planned


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no list of phases"),
        ("phases: []", "has no list of phases"),
        ("phases: head", "has no list of phases"),
        ("phase: [head]", "has no list of phases"),
        ("just text", "has no list of phases"),
        ("phases: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("[7]", "phase 1: found 7; a phase must be a mapping with at least `frostline`"),
        ("[head, [layer4]]", "phase 2: found ['layer4']; a phase must be a mapping"),
        ("[{epochs: 3}]", "phase 1: found {'epochs': 3}; a phase must be a mapping with at least `frostline`"),
        ("[{frostline: head, epoch: 3}]", "phase 1: unknown key 'epoch'; nearest: epochs"),
        ("[head, {frostline: head, learning_rate: 3}]", "phase 2: unknown key 'learning_rate'; there are "),
        ("[{frostline: head, 3: 4}]", "phase 1: unknown key '3'; there are frostline, epochs"),
        ("[{frostline: head, epochs: many}]", "phase 1: epochs is 'many'; it must be a whole number"),
        ("[{frostline: head, epochs: 2.5}]", "phase 1: epochs is 2.5; it must be a whole number"),
        ("[{frostline: head, epochs: [3]}]", "phase 1: epochs is "),
        ("[{frostline: head, lr: fast}]", "phase 1: lr is 'fast'; it must be a number"),
        ("[{frostline: head, momentum: null}]", "phase 1: momentum is None; it must be a number"),
        ("[{frostline: head, mixup: yes}]", "phase 1: mixup is True; it must be a number"),
        ("[{frostline: head, clip: tight}]", "phase 1: clip is 'tight'; it must be a number"),
        ("[{frostline: head, clip: -1}]", "phase 1: clip is -1.0; it must be 0 or above"),
        ("[{frostline: head, optimiser: sgd}]", "phase 1: unknown key 'optimiser'; nearest: optimizer"),
        ("[{frostline: head, optimizer: adamv}]", "phase 1: unknown optimizer 'adamv'; nearest: adam"),
        ("[{frostline: head, optimizer: 3}]", "phase 1: optimizer is 3; it must be one of adamw, adam, sgd"),
        ("[{frostline: head, schedule: cosin}]", "phase 1: unknown schedule 'cosin'; nearest: cosine"),
        ("[{frostline: head, schedule: null}]", "phase 1: schedule is None; it must be one of cosine, step, constant"),
        ("[{frostline: stem, freeze: 3}]", "phase 1: freeze is 3; it must be a list of names or globs"),
        ("[{frostline: stem, freeze: [a, 3]}]", "phase 1: freeze is ['a', 3]; it must be a list of names or globs"),
        ("[{frostline: stem, freeze: {a: b}}]", "phase 1: freeze is {'a': 'b'}; it must be a list of names or globs"),
        ("[{frostline: stem, freeze: null}]", "phase 1: freeze is None; it must be a list of names or globs"),
    ],
)
def test_bad_plan_names_the_file_and_what_is_wrong(text: str, message: str, plan) -> None:
    file = plan(text)
    with pytest.raises(UsageError) as caught:
        read_plan(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["[head, {frostline: layer4, epochs: -1}]", "[head, {frostline: layer4, lr: .nan}]"])
def test_value_out_of_range_names_the_file_and_the_phase(text: str, plan) -> None:
    file = plan(text)
    with pytest.raises(UsageError, match="it must be") as caught:
        read_plan(file)
    assert f"{file}, phase 2" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[{frostline: head, epochs: .inf}]",
        "[{frostline: head, lr: 1" + "0" * 400 + "}]",
        "[{frostline: head, epochs: 1" + "0" * 5000 + "}]",
        "[{frostline: 2024-13-45}]",
        "[" * 2000,
    ],
    ids=["infinite", "long number", "longer number", "date", "deep"],
)
def test_odd_values_are_usage_errors_too(text: str, plan) -> None:
    with pytest.raises(UsageError):
        read_plan(plan(text))


@pytest.mark.parametrize(("text", "names"), [("layer4", ("layer4",)), ("[a, 'b.*']", ("a", "b.*")), ("[]", ())])
def test_one_name_or_several_are_frozen(text: str, names: tuple[str, ...], plan) -> None:
    (phase,) = read_plan(plan(f"[{{frostline: stem, freeze: {text}}}]"))
    assert phase.freeze == names


def test_nothing_in_place_of_a_learning_rate_is_what_suits_the_optimizer(plan) -> None:
    (phase,) = read_plan(plan("[{frostline: head, lr: null, optimizer: sgd}]"))
    assert phase.lr is None
    assert phase.learning_rate == Phase("stem", optimizer="sgd").learning_rate


@given(phases)
def test_the_learning_rate_is_what_was_asked_for_else_what_suits_the_optimizer(phase: Phase) -> None:
    assert phase.learning_rate == (LEARNING_RATES[phase.optimizer] if phase.lr is None else phase.lr)
    assert 0 < phase.learning_rate <= 100


def test_sgd_takes_larger_steps_than_adam() -> None:
    rates = {name: Phase("head", optimizer=name).learning_rate for name in ("sgd", "adam", "adamw")}
    assert rates["sgd"] > rates["adam"] == rates["adamw"] == 3e-4


def test_common_values_of_every_kind_go_to_what_trains() -> None:
    common = {"optimizer": "sgd", "momentum": 0.5, "schedule": "step", "mixup": 0.2, "clip": 1.0, "weight_decay": 0.0}
    head, *others = resolve_plan("gradual", RESNET, 100, **common)
    assert head == Phase("head", epochs=0, views=1)
    for phase in others:
        assert {name: getattr(phase, name) for name in common} == common


@pytest.mark.parametrize(("name", "value", "nearest"), [("optimizer", "adamx", "adam"), ("schedule", "cos", "cosine")])
def test_an_unknown_common_value_names_the_nearest(name: str, value: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"unknown {name} '{value}'; nearest: .*{nearest}"):
        resolve_plan("full", RESNET, 100, **{name: value})


@pytest.mark.parametrize("text", ["[{frostline: }]", "[{frostline: [head]}]", "[{frostline: {a: 1}}]"])
def test_frostline_must_be_a_name(text: str, plan) -> None:
    with pytest.raises(UsageError, match="phase 1: frostline"):
        read_plan(plan(text))


def test_binary_file_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match=r"plan\.yaml is not valid YAML"):
        read_plan(tmp_path / "plan.yaml")


def test_huge_file_is_no_plan(tmp_path: Path) -> None:
    with (tmp_path / "plan.yaml").open("wb") as file:
        file.truncate(1_000_001)
    with pytest.raises(UsageError, match="larger than 1,000,000 bytes"):
        read_plan(tmp_path / "plan.yaml")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="[]{}:,-&*!?|>'\"%@ \n\tab01.e~#", max_size=40))
@example("[{frostline: head, lr: 1e999}]")
def test_any_text_is_a_plan_or_a_usage_error(tmp_path_factory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8")
    with contextlib.suppress(UsageError):
        assert all(isinstance(phase, Phase) for phase in read_plan(file))


GOOD = {
    "frostline": ["head", "layer4.0.conv1"],
    "epochs": [0, 1, 100_000],
    "lr": [None, 1e-300, 1e-4, 100],
    "lr_decay": [1e-9, 1],
    "views": [None, 1, 1000],
    "patience": [1, 10**9],
    "batch_size": [1, 100_000],
    "weight_decay": [0, 1],
    "optimizer": ["adamw", "adam", "sgd"],
    "momentum": [0, 0.999],
    "schedule": ["cosine", "step", "constant"],
    "mixup": [0, 0.2, 10],
    "clip": [0, 1e9],
    "freeze": [(), ("layer4.0*", "bn1")],
    "batchnorm": [None, "frozen", "updated"],
    "race": [False, True],
}
BAD: dict[str, list[Any]] = {
    "frostline": [""],
    "epochs": [-1, 100_001],
    "lr": [0, -1, 100.1, float("nan"), float("inf")],
    "lr_decay": [0, -0.5, 1.01, float("nan")],
    "views": [0, -1, 1001],
    "patience": [0, -1],
    "batch_size": [0, 100_001],
    "weight_decay": [-0.01, 1.01, float("nan")],
    "optimizer": ["", "SGD", "rmsprop"],
    "momentum": [-0.1, 1, float("nan")],
    "schedule": ["", "linear"],
    "mixup": [-0.1, 10.1, float("nan")],
    "clip": [-1, float("inf"), float("nan")],
    "freeze": [],
    "batchnorm": ["train", ""],
    "race": ["yes", None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_values_in_range(name: str, value: object) -> None:
    assert getattr(Phase(**{"frostline": "head", name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_values_out_of_range(name: str, value: object) -> None:
    with pytest.raises(
        UsageError,
        match=f"^{name} is {value!r}(\\.0)?; it must be .+|^unknown {name} {value!r}; (nearest:|there are) .+",
    ):
        Phase(**{"frostline": "head", name: value})


def test_every_field_of_a_phase_has_a_range_here() -> None:
    assert list(GOOD) == list(BAD) == list(plan_as_yaml([SOLVED])[0])


def test_phase_from_a_mapping_says_where_it_went_wrong() -> None:
    assert phase_from({"frostline": "layer4", "epochs": 2}, "here") == Phase("layer4", epochs=2)
    with pytest.raises(UsageError, match=r"^here: unknown key 'vews'; nearest: views"):
        phase_from({"frostline": "layer4", "vews": 2}, "here")


def test_auto_trains_as_long_as_somebody_says(small: Any) -> None:
    _, *deeper = resolve_plan("auto", small.network(3), 1_000, epochs=2)
    assert {(phase.epochs, phase.views) for phase in deeper} == {(2, 2)}
    _, *deeper = resolve_plan("auto", small.network(3), 9_000, epochs=30)
    assert {phase.epochs for phase in deeper} == {30}


def test_no_epochs_for_all_phases_is_told_with_its_number():
    with pytest.raises(UsageError, match="epochs is 0; it must be at least 1; use --plan probe to train nothing"):
        resolve_plan("gradual", RESNET, 100, epochs=0)
