"""Tests of files written by PyTorch: state dicts, TorchScript archives, and files that must not run code."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import state_dict
from helpers.clip_files import OPENAI, assert_same_weights

torch = pytest.importorskip("torch")

from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights.checkpoint_files import open_tensors
from dist_jax.weights.openai_sizes import ClipSettings


def assert_holds_openai(loaded: clip_weights.ClipModel) -> None:
    assert_same_weights(loaded, clip_weights.from_openai(OPENAI, "expected"))


def as_torch(tensors: dict[str, np.ndarray]) -> dict:
    return {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}


@pytest.mark.parametrize("new_format", [True, False])
def test_a_state_dict_loads(tmp_path, new_format):
    torch.save(as_torch(OPENAI), tmp_path / "clip.pt", _use_new_zipfile_serialization=new_format)
    assert_holds_openai(clip_weights.load(str(tmp_path / "clip.pt"), settings=ClipSettings("quick_gelu", (2, 1))))


def test_an_open_clip_training_checkpoint_loads(tmp_path):
    tensors = as_torch({f"module.{name}": value for name, value in OPENAI.items()})
    torch.save({"epoch": 3, "name": "run", "state_dict": tensors}, tmp_path / "epoch_3.pt")
    with pytest.raises(UserError, match=r"epoch_3\.pt: the file does not contain whether .*set --activation"):
        clip_weights.load(str(tmp_path / "epoch_3.pt"))
    for activation in ("gelu", "quick_gelu"):
        loaded = clip_weights.load(str(tmp_path / "epoch_3.pt"), settings=ClipSettings(activation, (2, 1)))
        assert (loaded.vision.activation, loaded.text.activation) == (activation, activation)
    assert_holds_openai(loaded)


def test_the_clip_of_a_published_dist_checkpoint_loads(tmp_path):
    tensors = as_torch({f"backbone.base_encoder.{name}": value for name, value in state_dict().items()})
    torch.save({"epoch": 1, "model_state": tensors, "cfg": "text"}, tmp_path / "dist.pyth")
    assert_holds_openai(clip_weights.load(str(tmp_path / "dist.pyth")))


def test_half_precision_tensors_keep_their_dtype(tmp_path):
    values = {"half": torch.tensor([1.5, -2.0]).half(), "brain": torch.tensor([1.5, 3.0]).bfloat16()}
    torch.save(values, tmp_path / "values.pt")
    tensors = open_tensors(tmp_path / "values.pt")
    assert (tensors["half"].dtype, tensors["brain"].dtype) == (np.float16, jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(tensors["brain"], np.float32), [1.5, 3.0])


class Node(torch.nn.Module):
    """A module with only parameters and children."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Lists(Node):
    """A module with typed lists and dictionaries in its archive. Older PyTorch writes them for convolutions."""

    names: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.padding, self.means, self.flags = [0, 0], [0.5], [True]
        self.names, self.others = {"a": 1}, [torch.ones(2)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = len(self.padding) + len(self.means) + len(self.flags) + len(self.names) + len(self.others)
        return x * count


class Runs(Node):
    """A module that runs code when its archive is loaded."""

    @torch.jit.export
    def __getstate__(self):
        return (self.training,)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool]):
        print("archive code was run")
        self.training = state[0]


def archive(tensors: dict, file: Path, root: torch.nn.Module) -> None:
    """Saves tensors with dotted names as TorchScript, the format of OpenAI."""
    for name, value in tensors.items():
        *parents, last = name.split(".")
        node = root
        for parent in parents:
            if parent not in dict(node.named_children()):
                node.add_module(parent, Node())
            node = getattr(node, parent)
        if value.ndim:
            node.register_parameter(last, torch.nn.Parameter(value, requires_grad=False))
        else:
            node.register_buffer(last, value)
    torch.jit.script(root).save(str(file))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_loads(tmp_path):
    sizes = {name: np.asarray(48) for name in ("input_resolution", "context_length", "vocab_size")}
    half = {name: value.astype(np.float16) if "weight" in name else value for name, value in OPENAI.items()}
    archive(as_torch(half | sizes), tmp_path / "ViT.pt", Lists())
    loaded = clip_weights.load(str(tmp_path / "ViT.pt"))
    expected = clip_weights.from_openai({name: value.astype(np.float32) for name, value in half.items()}, "expected")
    assert loaded.fingerprint == expected.fingerprint
    assert loaded.vision.activation == "quick_gelu"
    tensors = open_tensors(tmp_path / "ViT.pt")
    script = torch.jit.load(tmp_path / "ViT.pt").state_dict()
    assert tensors.keys() == script.keys()
    assert all(np.array_equal(tensors[name].read(), value.numpy()) for name, value in script.items())


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_code_of_a_torchscript_archive_does_not_run(tmp_path, capfd):
    archive({"proj": torch.ones(2)}, tmp_path / "runs.pt", Runs())
    with pytest.raises(UserError, match="runs code of the archive"):
        open_tensors(tmp_path / "runs.pt")
    assert "was run" not in capfd.readouterr().out


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, new_format):
    harmful = {"model_state": as_torch(OPENAI), "cfg": Malicious(tmp_path / "trace")}
    torch.save(harmful, tmp_path / "x.pyth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match=r"refused.*mkdir") as error:
        clip_weights.load(str(tmp_path / "x.pyth"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("length", [0, 10, -100])
def test_a_truncated_pytorch_file_is_an_error(tmp_path, length):
    file = tmp_path / "clip.pt"
    torch.save(as_torch(OPENAI), file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match="truncated or not a PyTorch file"):
        clip_weights.load(str(file))


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", b"(lp0\n."])
def test_a_file_of_another_kind_is_an_error(tmp_path, content):
    (tmp_path / "clip.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"clip\.pt: truncated or not a PyTorch file \(first byte b"):
        clip_weights.load(str(tmp_path / "clip.pt"))


def test_a_file_without_state_dict_is_an_error(tmp_path):
    torch.save({"weights": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="no state dict"):
        clip_weights.load(str(tmp_path / "x.pt"))
    torch.save([torch.ones(2)], tmp_path / "y.pt")
    with pytest.raises(UserError, match="contains a list"):
        clip_weights.load(str(tmp_path / "y.pt"))
