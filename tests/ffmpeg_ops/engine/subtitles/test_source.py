"""Subtitles through a confined child: the same cues as without one, and an end for whatever takes too long."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.engine import confined
from ffmpeg_ops.engine.subtitles import parse, source
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, AssetTooLarge, Cancelled, WorkerError

SRT = "1\n00:00:01,000 --> 00:00:02,500\nJá é <i>manhã</i>\n\n2\n00:00:03,000 --> 00:00:04,000\n{\\an8}Bom dia\n"
VTT = "WEBVTT\n\n00:01.000 --> 00:02.000 line:10%\n<00:01.000>one <00:01.500>two\n"
ASS = "[Script Info]\n[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,,,0,0,0,,{\\k50}one {\\k50}two\n"


@pytest.fixture
def path(work: Work) -> Path:
    return work.directory / "asset-1"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1252", "utf-16-le"])
@pytest.mark.parametrize("text", [SRT, VTT, ASS], ids=["srt", "vtt", "ass"])
def test_a_file_has_the_cues_and_warnings_that_it_has_without_a_child(
    text: str, encoding: str, work: Work, path: Path
) -> None:
    path.write_bytes(text.encode(encoding))
    warned: list[str] = []
    here: list[str] = []
    assert source.from_file(path, "url_srt", work, warned.append) == parse.parse_file(path, "url_srt", here.append)
    assert warned == here


@pytest.mark.parametrize(
    "raw", [b"\x82\xb1\x82\xf1\x82\xc9", "你好世界".encode("gb18030"), "안녕".encode("cp949"), b"\xcf\xf0\xe8"]
)
def test_every_guess_of_an_encoding_works_in_a_child(raw: bytes, work: Work, path: Path) -> None:
    """Python imports its codecs when they are first used, which a confined child could not."""
    path.write_bytes(b"1\n00:00:01,000 --> 00:00:02,500\n" + raw * 20)
    assert source.from_file(path, "url_srt", work, lambda _: None) == parse.parse_file(path, "url_srt")


@pytest.mark.parametrize("text", [SRT, VTT, ASS, SRT.replace("\n", "\r\n"), "\ufeff" + SRT], ids=range(5))
def test_a_text_has_the_cues_that_it_has_without_a_child(text: str, work: Work) -> None:
    assert source.from_text(text, "subtitles", work) == parse.parse_text(text, "subtitles")


def test_a_text_that_no_file_can_hold_is_read(work: Work) -> None:
    (cue,) = source.from_text("00:00:00,000 --> 00:00:01,000\nlone \ud800 surrogate", "subtitles", work)
    assert cue.text == "lone ? surrogate"


def test_errors_name_the_param_and_the_line(work: Work, path: Path) -> None:
    with pytest.raises(AssetInvalid, match="^subtitles: line 1 has no valid cue times"):
        source.from_text("00:00:01 --> never\nx", "subtitles", work)
    path.write_text("<!doctype html>")
    with pytest.raises(AssetInvalid, match="^url_srt: the file is an HTML page"):
        source.from_file(path, "url_srt", work, lambda _: None)
    path.write_bytes(b" " * (parse.MAX_BYTES + 1))
    with pytest.raises(AssetTooLarge, match="^url_srt: "):
        source.from_file(path, "url_srt", work, lambda _: None)


def test_subtitles_that_take_too_long_are_refused(work: Work, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(path)  # it never begins
    monkeypatch.setattr(source, "TIMEOUT_S", 0.3)
    with pytest.raises(AssetInvalid, match="url_srt: the subtitles take too long"):
        source.from_file(path, "url_srt", work, lambda _: None)


def test_a_stop_ends_the_reading_with_its_reason(work: Work, path: Path) -> None:
    os.mkfifo(path)
    work.stop.set(Cancelled())
    with pytest.raises(Cancelled):
        source.from_file(path, "url_srt", work, lambda _: None)


@pytest.mark.parametrize("warnings", [None, "text", [1]])
def test_warnings_that_make_no_sense_are_refused(
    warnings: Any, work: Work, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confined, "run", lambda *_, **__: confined.Result({"warnings": warnings}, b"[]"))
    with pytest.raises(AssetInvalid):
        source.from_file(path, "url_srt", work, lambda _: None)


def test_warnings_are_limited(work: Work, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = confined.Result({"warnings": ["x" * 10_000] * 50}, b"[]")
    monkeypatch.setattr(confined, "run", lambda *_, **__: result)
    warned: list[str] = []
    source.from_file(path, "url_srt", work, warned.append)
    assert warned == ["x" * 500] * 10


@pytest.mark.parametrize(("error", "wanted"), [(confined.Crashed(), AssetInvalid), (WorkerError(), WorkerError)])
def test_a_crash_is_the_file_s_fault(
    error: Exception, wanted: type[Exception], work: Work, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> confined.Result:
        raise error

    monkeypatch.setattr(confined, "run", crash)
    with pytest.raises(wanted):
        source.from_file(path, "url_srt", work, lambda _: None)
