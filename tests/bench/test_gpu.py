"""`python -m bench gpu` on the stand-in for NVIDIA's driver, with a few frames."""

from __future__ import annotations

import pytest

from bench import gpu as bench
from tests.emulators.nvenc import Driver


@pytest.mark.slow
def test_every_figure_is_measured_and_named_as_the_stand_ins(
    nvenc: Driver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nvenc.set(sessions=3)
    monkeypatch.setattr(nvenc, "set", lambda **settings: None)  # the bench has no log, because its sandbox admits none
    monkeypatch.setattr(bench, "PRESETS", ("p4",))
    monkeypatch.setattr(bench, "FRAMES", 100)
    monkeypatch.setattr(bench, "RUNS", 1)
    monkeypatch.setattr(bench.gpu, "present", lambda: False)
    monkeypatch.setattr(bench.stand_in, "build", lambda folder: folder)
    monkeypatch.setattr(bench.stand_in, "Driver", lambda folder, libraries: nvenc)
    figures = {figure.name: figure for figure in bench.measure()}
    of_codecs = {f"{codec}.{name}" for codec in ("h264", "hevc") for name in ("p4_fps", "quality_db")}
    assert of_codecs | {"caption.software_fps", "caption.cuda_fps", "img2vid_fps", "sessions"} <= figures.keys()
    assert "STAND-IN" in figures["h264.p4_fps"].meaning and "STAND-IN" in capsys.readouterr().err
    assert all(figure.value > 0 for name, figure in figures.items() if name.endswith("_fps"))
    assert "the GPU does not decode the video" in figures["caption.cuda_fps"].meaning
    assert figures["sessions"].value >= 3
    asked = [encode["codec"] for encode in nvenc.encodes]
    assert asked.count("h264") >= 1 + 1 + 2 + 1 + 1 + 3, "probe, preset, two captions, shot, quality, sessions"
