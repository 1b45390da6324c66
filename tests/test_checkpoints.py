"""Weights on disk: every public layout is understood, everything else refused in one line."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d

from augkd.errors import UserError
from augkd.models import SRNetwork, create_model, load_checkpoint, load_network, save_checkpoint
from augkd.models.checkpoint import read_header
from augkd.models.network import rgb_mean
from augkd.models.quantize import quantize
from tests.golden_networks import CASES
from tests.public_layouts import official
from tests.test_models import TINY, distance, tiny

Write = Callable[[Path], object]


def same(a: SRNetwork, b: SRNetwork) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


# --- ours -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_saved_network_comes_back_whole_from_its_file_alone(name: str, tmp_path: Path) -> None:
    model = tiny(name, 3)
    path = tmp_path / "deep" / "model.safetensors"
    save_checkpoint(path, model, {"student": "augkd", "steps": "7"})
    described = {"network": name, "scale": 3, "sizes": json.loads(json.dumps(model.sizes))}
    assert read_header(path) == described | {"student": "augkd", "steps": "7"}
    again = load_network(path)
    assert (type(again), again.sizes, again.scale) == (type(model), model.sizes, 3)
    assert same(again, model)
    filled = create_model(model.name, scale=model.scale, **model.sizes)  # of other weights
    assert not same(filled, model)
    load_checkpoint(path, filled)
    assert same(filled, model)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_bytes_are_the_same_again_and_a_header_of_any_length_is_known(tmp_path: Path) -> None:
    """A header of several entries would be written in random order. Its length comes first in the
    file, and one in 32 begins as a pickle does."""
    model, path, contents, first = tiny("edsr"), tmp_path / "a.safetensors", set(), set()
    for _ in range(8):
        save_checkpoint(path, model, {key: key for key in "abcdef"})
        contents.add(path.read_bytes())
    assert len(contents) == 1
    for length in range(0, 256, 8):
        save_checkpoint(path, model, {"note": "x" * length})
        first.add(path.read_bytes()[0])
        assert same(load_network(path), model)
    assert 0x80 in first


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, tiny("edsr"))
    old = path.read_bytes()

    def full(weights: dict[str, Tensor], partial: Path, metadata: dict[str, str]) -> None:
        partial.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("augkd.models.checkpoint.save_file", full)
    with pytest.raises(UserError, match=r"a\.safetensors: cannot be written \(no space left\)"):
        save_checkpoint(path, tiny("edsr"))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def _header(content: str | None, name: str = "") -> Write:
    """A file of such a header, with the weights of a network or others."""
    metadata = None if content is None else {"augkd": content}
    weights = tiny(name).state_dict() if name else {"a": torch.zeros(1)}
    return lambda path: save_file(weights, path, metadata=metadata)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_header(None), "no EDSR, RCAN or SwinIR: not understood: a: "),
        (_header("{"), "no EDSR, RCAN or SwinIR"),
        (_header("[]"), "no EDSR, RCAN or SwinIR"),
        (_header("{}"), "no EDSR, RCAN or SwinIR"),
        (_header('{"network":"vdsr","scale":2,"sizes":{}}', "edsr"), "'vdsr' is unknown"),
        (_header('{"network":"edsr","scale":2,"sizes":[]}'), "no EDSR, RCAN or SwinIR"),
        (_header('{"network":"edsr","sizes":{}}', "edsr"), "not such a network .'scale'"),
        (_header('{"network":"edsr","scale":-1,"sizes":{}}', "edsr"), "scale -1 is not supported"),
        (_header('{"sizes":{"channels":1000000}}', "edsr"), "says channels 1000000, its weights 8"),
        (_header('{"sizes":{"num_heads":[false, 2]}}', "swinir"), "says num_heads .False, 2., its"),
        (_header('{"network":"swinir","scale":2,"sizes":{"drop_path":{}}}', "swinir"), "not such"),
        (
            lambda path: torch.save(tiny("edsr").state_dict(), path),
            "without a role needs res_scale",
        ),
        (lambda path: path.write_bytes(b"\x09\0\0\0\0\0\0\0{"), "damaged safetensors"),
        (lambda path: None, "no such checkpoint"),
    ],
)
def test_a_file_must_describe_itself(write: Write, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    _refuses(lambda: load_network(path), path, message)


def _refuses(load: Callable[[], object], path: Path, message: str) -> None:
    """In one line that names the file."""
    with pytest.raises(UserError, match=message) as caught:
        load()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


# --- public layouts -----------------------------------------------------------------------------


def loaded(name: str, folder: Path, weights: dict[str, Any] | None = None) -> SRNetwork:
    """The network of a golden case, from its published file or from one of other weights."""
    case, path = CASES[name], folder / "other.pt"
    model = case.create()
    if weights is not None:
        torch.save(weights, path)
    load_checkpoint(case.checkpoint(folder) if weights is None else path, model)
    return model


@pytest.mark.parametrize("name", ["edsr_x2_res0p1", "rcan_x2", "rcan_basicsr_x4", "swinir_x2"])
def test_converted_checkpoints_do_the_same(name: str, tmp_path: Path) -> None:
    model, path = loaded(name, tmp_path), tmp_path / "ours.safetensors"
    save_checkpoint(path, model)
    assert same(load_network(path), model)
    weights = model.state_dict()
    for mean in weights.keys() & {"mean_in", "mean_out"}:  # as published
        assert torch.equal(weights[mean], rgb_mean())
    official = CASES[name].weights().get("head.0.weight", weights["conv_first.weight"])
    assert torch.equal(weights["conv_first.weight"], official)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(weights)


def test_both_layouts_of_one_network_give_the_same_weights() -> None:
    """The reference's own conversion of the x2 EDSR is the independent source."""
    case = CASES["edsr_basicsr_x2_res1"]
    model, tensors = case.create(), case.tensors()
    load_checkpoint(case.path.with_suffix(".pth"), model)  # as published, nested
    with torch.no_grad():
        assert distance(model(tensors["input"]), tensors["output"]) <= 1e-5
    published = case.weights()["params"] | {"mean_in": rgb_mean()}
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in published.items())


def test_swinir_files_may_hold_masks_of_any_image_size(tmp_path: Path) -> None:
    weights = CASES["swinir_x2"].weights()
    masks = [key for key in weights if key.endswith("attn_mask")]
    assert masks
    weights |= dict.fromkeys(masks, torch.zeros(36, 64, 64))  # that of 48 x 48 images
    model = loaded("swinir_x2", tmp_path, {"params": weights})
    assert same(model, loaded("swinir_x2", tmp_path))


@pytest.mark.parametrize("name", ["edsr_x3_res1", "rcan_x2"])
def test_means_that_training_has_moved_are_kept(name: str, tmp_path: Path) -> None:
    """Expected: the file's two 1 x 1 convolutions, run as such around a network without means."""
    image, weights = CASES[name].tensors()["input"], CASES[name].weights()
    torch.manual_seed(5)
    for shift in ("sub_mean", "add_mean"):
        weights[f"{shift}.weight"] = weights[f"{shift}.weight"] + 0.02 * torch.randn(3, 3, 1, 1)
        weights[f"{shift}.bias"] = weights[f"{shift}.bias"] + torch.randn(3)
    model, bare = loaded(name, tmp_path, weights), loaded(name, tmp_path)
    published = bare.state_dict()
    nought = torch.zeros(1, 3, 1, 1)
    bare.load_state_dict(published | {"mean_in": nought, "mean_out": nought})
    with torch.no_grad():
        shifted = conv2d(image * 255, weights["sub_mean.weight"], weights["sub_mean.bias"])
        inner = bare(shifted / 255) * 255
        expected = conv2d(inner, weights["add_mean.weight"], weights["add_mean.bias"]) / 255
        assert distance(model(image), expected) <= 1e-5
        bare.load_state_dict(published)
        assert distance(bare(image), expected) > 1e-3  # dropping them would have shown


_OTHER, _ONE = {"conv_first.weight": torch.zeros(1)}, torch.ones(1)
_COUNTED = {"n_averaged": torch.tensor(3), "module.total_ops": _ONE, "module.a.total_params": _ONE}
# the names within which weights are, their prefix, and what else is left there
WRAPPED: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    *(((), p, {}) for p in ("", "_orig_mod.", "module.module.", "net_g.", "model.", "generator.")),
    (("state_dict",), "model._orig_mod.module.", {"optimizer": {"state": {0: _OTHER}}}),
    ((), "module.", _COUNTED),
    ((), "generator.", {"discriminator.a": _ONE, "gan_loss.b": _ONE}),
    (("ema",), "", {"epoch": 3, "model": _OTHER}),
    (("model_ema", "module"), "", {"net_d_ema": _OTHER, "model": _OTHER}),
    (("params_ema",), "module.", {"params": _OTHER}),
    (("ema", "shadow"), "", {"model": _OTHER}),
    ((), "ema_model.", {"online_model.a": _ONE, "step": _ONE}),
]


@pytest.mark.parametrize("name", TINY)
def test_wrapped_weights_are_found_with_their_sizes(name: str, tmp_path: Path) -> None:
    """In our layout and the official one, by files of each other's names."""
    model = tiny(name, 4)
    for names, prefix, beside in WRAPPED:
        for weights in (model.state_dict(), official(model)):
            found = {prefix + k: v for k, v in weights.get("params", weights).items()}
            save_file(found, path := tmp_path / "a.pth")
            if names or beside:
                for part in reversed(names):
                    found = {part: found}
                torch.save(beside | found, path := tmp_path / "a.safetensors")
            again = load_network(path, given={"res_scale": 0.1} if name == "edsr" else {})
            assert same(again, model), (names, prefix)
            assert again.sizes | {"scale": again.scale} == model.sizes | {"scale": 4}


@pytest.mark.parametrize("name", TINY)
def test_unsound_tensors_are_refused_by_name(name: str, tmp_path: Path) -> None:
    model, path = tiny(name), tmp_path / "a.pt"
    key, value = next((k, v) for k, v in model.state_dict().items() if k[-4:] in ("n_in", "able"))
    for spoilt in (value.where(value < value.max(), torch.nan), value / 0, value.double() * 1e300):
        torch.save(model.state_dict() | {key: spoilt}, path)
        _leaves(model, path, f"'{re.escape(key)}' is not finite")
    for kind in (torch.int8, torch.bool, torch.complex64):
        torch.save(model.state_dict() | {key: value.to(kind)}, path)
        _leaves(model, path, f"'{re.escape(key)}' holds {kind}")
    nowhere = {key: value.to("meta"), "other.mask": torch.empty(3, device="meta")}
    for missing, held in nowhere.items():
        torch.save(model.state_dict() | {missing: held}, path)
        _leaves(model, path, f"'{re.escape(missing)}' holds no numbers that can be read")
    # of a file of a few bytes, four terabytes
    torch.save(model.state_dict() | {key: torch.ones(1).expand(10**6, 10**6)}, path)
    _leaves(model, path, f"entry '{re.escape(key)}' is not a tensor")


def test_what_no_shape_tells_is_not_overlooked(tmp_path: Path) -> None:
    model, path, x = tiny("edsr"), tmp_path / "a.safetensors", torch.rand(1, 3, 9, 8)
    quantized = quantize(model, 3, step="behind")
    save_checkpoint(path, quantized)
    assert torch.equal(load_network(path)(x), quantized(x))
    _leaves(model, path, "its quantised is {'bits': 3")
    save_checkpoint(path, model)
    load_checkpoint(path, quantized)  # it may start from this
    rescaled = create_model("edsr", scale=2, **TINY["edsr"] | {"res_scale": 1.0})
    _leaves(rescaled, path, "its res_scale is 0.1, not 1.0")


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("rcan_x2", {"scale": 4}, r"'upsample\.2\.weight' is absent, expected \(64,"),
        ("rcan_x2", {"scale": 3}, r"'upsample\.0\.weight' is \(64, 16, 3, 3\), expected \(144,"),
        ("edsr_x4_res1", {"scale": 2}, r"'upsample\.2\.bias' is \(32,\), expected no such"),
        ("edsr_x2_res0p1", {"blocks": 4}, r"'body\.3\.conv1\.weight' is absent"),
        ("swinir_x2", {"depths": [2], "num_heads": [2]}, r"'layers\.1\..*expected no such entry"),
        ("swinir_x2", {"window_size": 4}, "relative_position_bias_table"),
    ],
)
def test_sizes_must_fit(name: str, sizes: dict[str, Any], message: str, tmp_path: Path) -> None:
    case = CASES[name]
    right = case.create()
    model = create_model(right.name, **{"scale": right.scale, **right.sizes, **sizes})
    _leaves(model, case.checkpoint(tmp_path), message)


@pytest.mark.parametrize("name", ["edsr_x2_res0p1", "rcan_x2", "swinir_x2"])
def test_other_networks_are_refused(name: str, tmp_path: Path) -> None:
    for model in (tiny(wanted) for wanted in TINY if not name.startswith(wanted)):
        problem = f"not a checkpoint of this {type(model).__name__}"
        _leaves(model, CASES[name].checkpoint(tmp_path), problem)


class Malicious:
    """Runs code where it is unpickled carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('the code ran')",)


def _bytes(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def _saved(content: Any, legacy: bool = False) -> Write:
    return lambda path: torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def _cut(write: Write) -> Write:
    return lambda path: (write(path), path.write_bytes(path.read_bytes()[:-2000]))


_TINY = tiny("edsr")
_CODE = "holds Python objects, which could run code"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such checkpoint"),
        (lambda path: path.mkdir(), "no such checkpoint"),
        (_bytes(b""), "is empty"),
        (_bytes(b"\xef\xbb\xbf\n<!DOCTYPE html>\n<title>not found</title>"), "is a web page"),
        (_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"), "git lfs pull"),
        (_bytes(b"Entry not found"), "is neither a safetensors nor a PyTorch file"),
        (_bytes(bytes(4000)), "is neither a safetensors nor a PyTorch file"),
        (_cut(lambda path: save_checkpoint(path, _TINY)), "damaged safetensors file"),
        (_cut(_saved(_TINY.state_dict())), "damaged PyTorch file"),
        (_cut(_saved(_TINY.state_dict(), legacy=True)), "damaged PyTorch file"),
        (_bytes(pickle.dumps(Malicious(), protocol=2)), _CODE),
        (_bytes(pickle.dumps({"a": 1.5}, protocol=2)[:-3]), "damaged PyTorch file"),
        (_saved({"a": Malicious()}), _CODE),
        (_saved({"a": Malicious()}, legacy=True), _CODE),
        (_saved(torch.nn.Conv2d(1, 1, 1)), _CODE),
        (_saved([torch.zeros(1)]), "holds no weights"),
        (_saved({}), "holds no weights"),
        (_saved({"epoch": 3, "weights": {}}), "entry 'epoch' is not a tensor"),
        (_saved(dict.fromkeys(("sub_mean.weight", "head.0.weight"), torch.zeros(9))), "conv_first"),
    ],
)
def test_what_holds_no_weights_is_refused(write: Write, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    write(path)
    _leaves(tiny("edsr"), path, message)


def _leaves(model: SRNetwork, path: Path, message: str) -> None:
    """The file is refused, and the model is as before."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _refuses(lambda: load_checkpoint(path, model), path, message)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
