from __future__ import annotations

from pathlib import Path

import pytest

from ffmpeg_ops.engine import gpu

CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}.57.08  Sat Jul 19 15:33:16 UTC 2025\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}.57.08  Release Build  (dvs@host)\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu, "_root", tmp_path)
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def machine(root: Path, *, driver: int, opened: int, attached: int, model: str, version: str = CLOSED) -> None:
    (root / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{n}" for n in range(opened))):
        (root / "dev" / name).touch()
    for number in range(attached):
        card = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        card.mkdir(parents=True)
        (card / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 33\n")
    (root / "proc/driver/nvidia").mkdir(parents=True, exist_ok=True)
    (root / "proc/driver/nvidia/version").write_text(version.format(driver))


@pytest.mark.parametrize("version", [CLOSED, OPEN])
@pytest.mark.parametrize(
    ("driver", "opened", "attached", "model", "reason"),
    [
        (575, 1, 4, "NVIDIA GeForce RTX 4090", "the host's driver 575 does not let a container with one GPU of four encode"),
        (570, 2, 12, "NVIDIA L4", "the host's driver 570 does not let a container with two GPUs of 12 encode"),
        (609, 1, 1, "NVIDIA L4", "this GPU has no NVENC, or the host's driver 609 does not let a container with some of its GPUs encode"),
        (565, 1, 4, "NVIDIA L4", "this GPU has no NVENC, or its host does not let the container use it"),
        (610, 1, 4, "NVIDIA L4", "this GPU has no NVENC, or its host does not let the container use it"),
        (575, 1, 4, "NVIDIA H100 80GB HBM3", "the NVIDIA H100 80GB HBM3 has no NVENC"),
        (550, 1, 1, "NVIDIA A100-SXM4-40GB", "the NVIDIA A100-SXM4-40GB has no NVENC"),
    ],
)  # fmt: skip
def test_a_refusal_is_explained_by_driver_and_model(
    driver: int, opened: int, attached: int, model: str, reason: str, version: str, root: Path
) -> None:
    machine(root, driver=driver, opened=opened, attached=attached, model=model, version=version)
    assert gpu.release() == driver
    assert gpu.refusal() == reason


def test_files_of_the_driver_that_cannot_be_read_are_no_reason_to_fail(root: Path) -> None:
    machine(root, driver=575, opened=1, attached=2, model="NVIDIA L4")
    cards = root / "proc/driver/nvidia/gpus"
    (cards / "0000:00:00.0/information").write_bytes(b"Model: \xff\xfe\n")
    (cards / "0000:02:00.0").mkdir()
    (cards / "0000:02:00.0/information").symlink_to("gone")
    (root / "proc/driver/nvidia/version").write_bytes(b"\xff\xfe\n")
    assert gpu.release() is None
    assert gpu.models() == ["\N{REPLACEMENT CHARACTER}" * 2, "NVIDIA L4"]
    assert gpu.refusal() == "this GPU has no NVENC, or its host does not let the container use it"


def test_an_unknown_machine_is_not_blamed_for_a_driver(root: Path) -> None:
    assert gpu.release() is None
    assert gpu.refusal() == "this GPU has no NVENC, or its host does not let the container use it"


def test_a_gpu_is_expected_with_a_driver_or_a_container_made_for_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not gpu.expected()
    for value, expected in (("void", False), ("none", False), ("", False), ("all", True), ("GPU-1", True)):
        monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", value)
        assert gpu.expected() is expected
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES")
    machine(root, driver=575, opened=0, attached=0, model="")
    assert gpu.present() and gpu.expected()
