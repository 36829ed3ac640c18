from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from conftest import assert_same_state, small_model, state_of
from frostline.backbones.weights import load_weights, read_state_dict
from frostline.errors import UsageError, WeightsError

HEADS = ("head",)


def without_head(state):
    return {name: value for name, value in state.items() if not name.startswith("head")}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_weights_come_back_as_they_were(tmp_path, suffix):
    donor, model = small_model(1), small_model(2)
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(donor.state_dict(), file)
    match = load_weights(model, file, HEADS)
    assert match.missing == ()
    for name, value in without_head(donor.state_dict()).items():
        if "num_batches" not in name:
            assert torch.equal(model.state_dict()[name], value), name
    assert not torch.equal(model.head.weight, donor.head.weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module.model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema"])
def test_wrappers_are_taken_off(tmp_path, prefix, wrapper):
    donor = small_model(1)
    state = {prefix + name: value for name, value in donor.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    match = load_weights(small_model(2), tmp_path / "w.pth", HEADS)
    assert match.missing == ()
    assert match.unexpected == ()


def test_half_precision_is_widened(tmp_path):
    save_file(
        {n: v.half() if v.is_floating_point() else v for n, v in small_model(1).state_dict().items()},
        tmp_path / "w.safetensors",
    )
    model = small_model(2)
    load_weights(model, tmp_path / "w.safetensors", HEADS)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.conv.weight, small_model(1).conv.weight, rtol=1e-3, atol=1e-3)


def test_the_report_names_what_is_missing_and_left_over(tmp_path):
    state = small_model(1).state_dict()
    del state["block1.conv1.weight"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    match = load_weights(small_model(2), tmp_path / "w.pth", HEADS)
    assert match.missing == ("block1.conv1.weight",)
    assert match.unexpected == ("extra",)
    assert "not in the file: block1.conv1.weight; not in the network: extra" in str(match)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: v for n, v in s.items() if n.startswith("block1")}, "for another architecture"),
        (lambda s: {**s, "conv.weight": torch.zeros(9, 3, 3, 3)}, r"conv.weight is \(9, 3, 3, 3\) in the file"),
        (
            lambda s: {**s, "conv.weight": torch.full((8, 3, 3, 3), torch.nan)},
            "conv.weight holds values that are not finite",
        ),
        (lambda s: {"state_dict": 3}, "holds no tensors"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path, change, message):
    torch.save(change(small_model(1).state_dict()), tmp_path / "w.pth")
    model = small_model(2)
    before = state_of(model)
    with pytest.raises(WeightsError, match=message):
        load_weights(model, tmp_path / "w.pth", HEADS)
    assert_same_state(before, model)


class Attack:
    def __init__(self, marker) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_code_in_a_pickle_is_never_run(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"a": Attack(marker)}))
    torch.save({"a": torch.zeros(1), "b": Attack(marker)}, tmp_path / "zip.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    for name in ("raw.pth", "zip.pth", "module.pth"):
        with pytest.raises(WeightsError, match="holds more than tensors.*nothing in it was run"):
            read_state_dict(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_broken_file_is_refused(tmp_path, content, suffix):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(WeightsError):
        read_state_dict(tmp_path / f"w{suffix}")


def test_no_file_and_no_known_kind(tmp_path):
    with pytest.raises(UsageError, match="there is no weights file"):
        read_state_dict(tmp_path / "none.pth")
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="has no known extension"):
        read_state_dict(tmp_path / "w.onnx")
