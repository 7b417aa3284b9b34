"""Files of weights: found, fetched, checked and read."""

import hashlib
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.weights import files as weight_files
from models.weights.files import PUBLISHED, fetch, find_weights, read_weights

TORCH_FILE = Path(__file__).parent / "torch_files" / "zip.pth"
TENSORS = {
    "conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fc.bias": np.array([0.5, 2.0], np.float16),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in the place of torchvision's hub, with one true and one false file."""
    folder = tmp_path / "hub"
    folder.mkdir()
    content = TORCH_FILE.read_bytes()
    digits = hashlib.sha256(content).hexdigest()[:8]
    names = {"small": f"small-{digits}.pth", "wrong": "wrong-00000000.pth"}
    for name in names.values():
        (folder / name).write_bytes(content)
    names["absent"] = "absent-12345678.pth"
    monkeypatch.setattr(weight_files, "ADDRESS", folder.as_uri() + "/")
    monkeypatch.setattr(weight_files, "PUBLISHED", names)
    return names


def test_npz_and_safetensors_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", **TENSORS)
    save_file(TENSORS, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        found = read_weights(tmp_path / name)
        assert found.keys() == TENSORS.keys()
        for key, value in TENSORS.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)


def test_torch_files_are_read_without_torch():
    found = read_weights(TORCH_FILE)
    assert found["0.weight"].shape == (3, 2, 3, 3)
    assert "torch" not in sys.modules


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_file_that_is_cut_short_is_called_that(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    np.savez(path, **TENSORS) if suffix == "npz" else save_file(TENSORS, path)
    whole = path.read_bytes()
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"a.{suffix} is cut short"):
            read_weights(path)


def test_an_npz_of_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([{"an": "object"}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_weights(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.h5.*\.pth.*\.safetensors"):
        read_weights(tmp_path / "a.h5")


def test_without_safetensors_the_error_says_what_to_install(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        read_weights(tmp_path / "a.safetensors")


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "resnet50"  # before the published name
    path.write_bytes(b"")
    assert find_weights(str(path), tmp_path / "cache") == path
    assert find_weights("~/resnet50", tmp_path / "cache") == path


def test_what_is_not_there_is_answered_with_the_published_names(tmp_path):
    with pytest.raises(ValueError, match="'resnet51'.*resnet50, .*swin_t.*hf:OWNER"):
        find_weights("resnet51", tmp_path)


def test_a_published_name_is_fetched_once(hub, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    path = find_weights("small", cache)
    assert path == cache / hub["small"]
    assert read_weights(path).keys() == read_weights(TORCH_FILE).keys()
    assert [entry.name for entry in cache.iterdir()] == [hub["small"]]
    monkeypatch.setattr(weight_files, "ADDRESS", "file:///nowhere/")
    assert find_weights("small", cache) == path


def test_a_fetched_file_with_another_checksum_is_not_kept(hub, tmp_path):
    with pytest.raises(ValueError, match=r"SHA-256 begins with \w{8}, not with 000000"):
        find_weights("wrong", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_network_the_error_says_where_to_put_the_file(hub, tmp_path):
    with pytest.raises(ValueError, match=r"absent-12345678.pth cannot be fetched.*put"):
        find_weights("absent", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_file_under_a_published_name_is_checked_when_it_is_read(hub, tmp_path):
    path = tmp_path / hub["small"]
    path.write_bytes(TORCH_FILE.read_bytes())
    read_weights(path)
    path.write_bytes(TORCH_FILE.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged or another file.*fetch it once"):
        read_weights(path)


def test_only_what_can_be_checked_is_fetched(tmp_path):
    with pytest.raises(ValueError, match="checksum in its name"):
        fetch("file:///nowhere/a.pth", tmp_path / "a.pth")


def test_published_files_have_their_checksum_in_their_names():
    for name in PUBLISHED.values():
        assert weight_files._HASH_IN_NAME.fullmatch(name), name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:timm/r18/model.safetensors", ("timm/r18", "model.safetensors", None)),
        ("hf:a/b/sub/x.npz@v1.0", ("a/b", "sub/x.npz", "v1.0")),
    ],
)
def test_the_hugging_face_hub_is_asked(source, expected, tmp_path, monkeypatch):
    asked = []

    def hf_hub_download(repository, name, *, revision, cache_dir):
        asked.append((repository, name, revision))
        return os.path.join(cache_dir, "found")

    module = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert find_weights(source, tmp_path) == tmp_path / "found"
    assert asked == [expected]


def test_errors_of_the_hugging_face_hub_are_told(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="hf:OWNER/REPOSITORY/FILE"):
        find_weights("hf:model", tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface-hub"):
        find_weights("hf:a/b/c.npz", tmp_path)

    def offline(*arguments, **options):
        raise OSError("no route to host")

    module = types.SimpleNamespace(hf_hub_download=offline)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    with pytest.raises(ValueError, match="hf:a/b/c.npz cannot be fetched: no route"):
        find_weights("hf:a/b/c.npz", tmp_path)
