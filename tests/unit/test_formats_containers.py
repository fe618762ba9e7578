"""Files of tensors: read in chunks, checked, hashed in the same pass; damage is one sentence."""

import hashlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_core.formats import container
from sae_core.formats.container import Container, HashedFile, Header, row_chunks
from sae_core.formats.npz_file import NpzFile
from sae_core.formats.safetensors_file import SafetensorsFile
from sae_core.formats.torch_file import TorchFile

TENSORS = {
    "matrix": torch.arange(7 * 5, dtype=torch.float32).view(7, 5) / 3,
    "vector": torch.linspace(-1, 1, 11),
    "number": torch.tensor(0.25),
}


def write_npz(path: Path, tensors: dict[str, Tensor] = TENSORS) -> None:
    np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})  # pyright: ignore


def write_safetensors(path: Path, tensors: dict[str, Tensor] = TENSORS) -> None:
    save_file(tensors, path)


def write_torch(path: Path, tensors: dict[str, Tensor] = TENSORS) -> None:
    torch.save(tensors, path)


KINDS: dict[str, tuple[str, Callable[..., None], type[Container]]] = {
    "npz": ("w.npz", write_npz, NpzFile),
    "safetensors": ("w.safetensors", write_safetensors, SafetensorsFile),
    "torch": ("w.pt", write_torch, TorchFile),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def written(kind: str, folder: Path, tensors: dict[str, Tensor] = TENSORS) -> Path:
    name, write, _ = KINDS[kind]
    write(folder / name, tensors)
    return folder / name


def opened(kind: str, path: Path) -> Container:
    return KINDS[kind][2](path)  # pyright: ignore[reportCallIssue]


def read_all(weights: Container) -> tuple[dict[str, Tensor], str]:
    into = {name: torch.full(h.shape, -9.0) for name, h in weights.headers.items()}
    return into, weights.read(into)


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_every_number_arrives_and_the_hash_is_the_files(
    kind: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "CHUNK_BYTES", chunk)
    path = written(kind, tmp_path)
    weights = opened(kind, path)
    assert {n: h.shape for n, h in weights.headers.items()} == {
        name: tuple(tensor.shape) for name, tensor in TENSORS.items()
    }
    assert all(header.is_float for header in weights.headers.values())
    read, digest = read_all(weights)
    for name, tensor in TENSORS.items():
        assert torch.equal(read[name], tensor), name
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_part_can_be_read_and_into_a_transpose(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    target = torch.empty(5, 7)
    digest = opened(kind, path).read({"matrix": target.T})
    assert torch.equal(target, TENSORS["matrix"].T)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


FLOATS = (torch.float16, torch.float32, torch.float64, torch.bfloat16)


@pytest.mark.parametrize(
    ("kind", "dtype"),  # NumPy has no bfloat16
    [(kind, dtype) for kind in KINDS for dtype in FLOATS[: 3 if kind == "npz" else 4]],
)
def test_floats_of_any_size_become_float32(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    matrix = TENSORS["matrix"].to(dtype)
    weights = opened(kind, written(kind, tmp_path, {"matrix": matrix}))
    target = torch.empty(7, 5)
    weights.read({"matrix": target})
    assert torch.equal(target, matrix.float())


def test_integers_are_told_from_floats(kind: str, tmp_path: Path) -> None:
    weights = opened(kind, written(kind, tmp_path, {"k": torch.arange(3)}))
    assert not weights.headers["k"].is_float
    assert "int64" in weights.headers["k"].dtype.replace("I64", "int64")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_in_float32_are_refused(
    kind: str, bad: float, tmp_path: Path
) -> None:
    matrix = TENSORS["matrix"].double()
    matrix[6, 4] = bad
    weights = opened(kind, written(kind, tmp_path, {"matrix": matrix}))
    with pytest.raises(ValueError, match=r"matrix in .* holds values that are not finite"):
        weights.read({"matrix": torch.empty(7, 5)})


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 302066738\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (LFS, "is a Git LFS pointer, not the weights: run git lfs pull."),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page saved in place of the weights"),
        (b"<html><body>404</body></html>", "is a web page"),
        (b"\x93NUMPY\x01\x00" + bytes(300), r"\w"),
        (b"\x00" * 4000, r"\w"),
    ],
)
def test_what_is_no_container_is_named(
    kind: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / KINDS[kind][0]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        opened(kind, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97, 0.999])
def test_a_file_that_was_cut_short_is_refused(kind: str, keep: float, tmp_path: Path) -> None:
    path = written(kind, tmp_path, {"matrix": torch.randn(60, 50), "vector": torch.randn(60)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ValueError, match=r"damaged or cut short|is no PyTorch file") as caught:
        read_all(opened(kind, path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["npz", "torch"])
def test_a_changed_byte_is_found_by_its_checksum(kind: str, tmp_path: Path) -> None:
    """safetensors has no checksum: there a changed number is a number like any other."""
    path = written(kind, tmp_path, {"matrix": torch.ones(60, 50)})
    content = bytearray(path.read_bytes())
    at = content.index(torch.ones(8).numpy().tobytes()) + 2000
    content[at] ^= 1
    path.write_bytes(content)
    weights = opened(kind, path)
    with pytest.raises(ValueError, match=r"damaged or cut short.*CRC"):
        read_all(weights)


# NumPy's


def test_columns_first_and_compressed_arrays_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "CHUNK_BYTES", 40)
    matrix = np.arange(35, dtype=np.float32).reshape(7, 5)
    np.savez_compressed(tmp_path / "w.npz", matrix=np.asfortranarray(matrix))
    read, _ = read_all(NpzFile(tmp_path / "w.npz"))
    assert torch.equal(read["matrix"], torch.from_numpy(matrix))


def test_numbers_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    vector = np.linspace(0, 1, 5, dtype=">f4")
    np.savez(tmp_path / "w.npz", vector=vector)
    read, _ = read_all(NpzFile(tmp_path / "w.npz"))
    assert read["vector"].tolist() == vector.tolist()


class Trap:
    """Unpickling it would write a file."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return (Path.touch, (Path("trap"),))  # pyright: ignore[reportReturnType]


def test_nothing_is_unpickled_from_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("w.npz", allow_pickle=True, W_enc=np.array([Trap()], dtype=object))
    assert not NpzFile(Path("w.npz")).headers["W_enc"].is_float
    assert not Path("trap").exists()


def test_an_array_of_another_length_than_its_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(8, np.float32))
    content = (tmp_path / "a.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("W_enc.npy", content[:-4])
    with pytest.raises(ValueError, match="W_enc is shorter or longer than its shape"):
        NpzFile(tmp_path / "w.npz")


def test_an_array_that_ends_early_is_refused_though_its_checksum_fits(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(8, np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vector.npy", whole[:-8])
    content = (tmp_path / "w.npz").read_bytes()
    told, true = (struct.pack("<I", size) for size in (len(whole), len(whole) - 8))
    assert content.count(true) == 2  # its size, before it and in the directory
    (tmp_path / "w.npz").write_bytes(content.replace(true, told))
    with pytest.raises(ValueError, match="vector is shorter than its shape"):
        read_all(NpzFile(tmp_path / "w.npz"))


@pytest.mark.parametrize(
    ("name", "content", "compression", "sentence"),
    [
        ("notes.txt", b"x", zipfile.ZIP_STORED, "notes.txt, which is no NumPy array"),
        ("W_enc.npy", b"x" * 99, zipfile.ZIP_STORED, "no NumPy array"),
        ("W_enc.npy", b"x" * 99, zipfile.ZIP_LZMA, "packed in an unknown way"),
    ],
)
def test_other_zip_files_are_refused(
    name: str, content: bytes, compression: int, sentence: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w", compression) as archive:
        archive.writestr(name, content)
    with pytest.raises(ValueError, match=sentence):
        NpzFile(tmp_path / "w.npz")


# PyTorch's


@pytest.mark.parametrize("as_zip", [True, False])
def test_no_code_is_run_from_a_pytorch_file(
    as_zip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if as_zip:
        torch.save({"encoder.weight": Trap()}, "ae.pt")
    else:
        Path("ae.pt").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(ValueError, match="holds more than tensors, which is not unpickled"):
        TorchFile(Path("ae.pt"))
    assert not Path("trap").exists()


def test_pytorch_files_of_the_old_kind_are_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "ae.pt", _use_new_zipfile_serialization=False)
    read, digest = read_all(TorchFile(tmp_path / "ae.pt"))
    assert torch.equal(read["matrix"], TENSORS["matrix"])
    assert digest == hashlib.sha256((tmp_path / "ae.pt").read_bytes()).hexdigest()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1.0}, torch.zeros(3)], ids=str)
def test_what_is_no_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        TorchFile(tmp_path / "ae.pt")


# Chunks and hashes


def test_chunks_are_whole_rows_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "CHUNK_BYTES", 100)
    assert list(row_chunks(Header((7, 5), "f4", True), 4)) == [25, 10]
    assert list(row_chunks(Header((3, 50), "f4", True), 4)) == [50, 50, 50]
    assert list(row_chunks(Header((30,), "f4", True), 4)) == [25, 5]
    assert list(row_chunks(Header((), "f4", True), 4)) == [1]


@pytest.mark.parametrize(
    "places", [[(0, 100)], [(0, 10), (10, 90)], [(90, 10), (0, 20), (20, 5)], [(50, 10)], []]
)
def test_the_hash_is_the_whole_files_whatever_was_read(
    places: list[tuple[int, int]], tmp_path: Path
) -> None:
    content = bytes(range(100))
    (tmp_path / "file").write_bytes(content)
    with HashedFile(tmp_path / "file") as file:
        for start, count in places:
            file.seek(start)
            assert file.read(count) == content[start : start + count]
        assert file.hexdigest() == hashlib.sha256(content).hexdigest()
