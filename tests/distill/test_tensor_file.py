"""A file of tensors says of every byte of it that changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from distill.errors import UserError
from distill.tensor_file import open_tensors, write_tensors

TENSORS = {
    "rows": torch.arange(6.0).view(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "mask": torch.tensor([True, False]),
}
META = {"trained_through": 2, "seed": 0}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    with open_tensors(path) as file:
        return {name: file.tensor(name) for name in file.keys()}, file.meta


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "a.safetensors", TENSORS, META)
    return tmp_path / "a.safetensors"


def test_what_is_written_is_read(path: Path) -> None:
    tensors, meta = read(path)
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype


def test_same_content_is_the_same_file(path: Path) -> None:
    for copy in range(8):
        write_tensors(path.with_stem(f"copy{copy}"), TENSORS, META)
    assert len({file.read_bytes() for file in path.parent.iterdir()}) == 1


def test_others_can_read_it(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("rows"), TENSORS["rows"])


def test_every_flipped_byte_is_noticed_and_the_file_named(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"a\.safetensors: cut off or damaged .*Remove it and repeat"):
            read(path)


def test_a_part_is_checked_by_itself(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[whole.index(TENSORS["rows"].numpy().tobytes())] ^= 1
    path.write_bytes(whole)
    with open_tensors(path) as file:
        assert torch.equal(file.tensor("half"), TENSORS["half"])
        with pytest.raises(UserError, match="the checksum of 'rows' is not its own"):
            file.tensor("rows")


def test_a_file_of_an_earlier_version_is_read_and_said_to_be_unchecked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file({"rows": TENSORS["rows"]}, tmp_path / "old.safetensors", metadata={"meta": '{"seed": 3}'})
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path / "old.safetensors")[1] == {"seed": 3}
    assert "old.safetensors: written before such files had checksums" in caplog.text


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    save_file({"rows": TENSORS["rows"]}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors: .*no readable facts in it"):
        read(tmp_path / "other.safetensors")
