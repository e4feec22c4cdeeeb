"""Turns what ffprobe reports into a result of few, stable names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg, inspect, joined, mp4, output, packets
from ffmpeg_ops.engine.mixing import measure
from ffmpeg_ops.engine.pixels import is_hdr_transfer
from ffmpeg_ops.operation import Work

MAX_STREAMS = 64
_TYPES = frozenset({"video", "audio", "subtitle", "data", "attachment"})


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    original = assets["url_media"]
    path = joined.continuous(original, "url_media", work, warnings.append)
    info = inspect.media_asset(path, "url_media", work)
    warnings += [*info.video_warnings, *info.audio_warnings]
    streams = [_stream(info, stream) for stream in info.streams[:MAX_STREAMS]]
    if len(info.streams) > MAX_STREAMS:
        warnings.append(f"url_media: the file has {len(info.streams)} streams; the first {MAX_STREAMS} are listed")
    result: dict[str, Any] = {
        "container": info.format,
        "duration_s": round(_duration_s(info, path, work), 3),
        "size_bytes": original.stat().st_size,
        "streams": streams,
    }
    if "mov" in info.formats:
        result["faststart"] = mp4.is_index_first(path)
    if params["loudness"]:
        result |= _loudness(info, path, work)
    return {
        "ffmpeg_version": ffmpeg.version(),
        **({"warnings": warnings} if warnings else {}),
        "result": result,
    }


def _duration_s(info: inspect.MediaInfo, path: Path, work: Work) -> float:
    """How long players play the file."""
    audio_s = (info.audio and info.audio.duration_s) or 0.0
    if info.video is not None:
        return max(output.length_s(info, info.video), audio_s)
    # headers of sounds are often missing, and then FFmpeg guesses the length from the first packets
    counted_s = packets.length_s(path, info.audio.index, work) if info.audio else None
    return counted_s or audio_s or info.duration_s or 0.0


def _stream(info: inspect.MediaInfo, raw: Mapping[str, Any]) -> dict[str, Any]:
    kind = raw.get("codec_type", "")
    language = raw.get("tags", {}).get("language", "")
    found = {
        "type": kind if kind in _TYPES else "data",
        "codec": raw.get("codec_name") or None,
        "language": language if language not in {"", "und"} else None,
        "duration_s": _rounded(inspect.seconds(raw)),
        "default": bool(raw.get("disposition", {}).get("default")),
    }
    if kind == "video" and raw.get("width"):
        found |= _picture(info, raw)
    if kind == "audio":
        found |= {
            "channels": raw.get("channels"),
            "layout": raw.get("channel_layout") or None,
            "sample_rate": int(raw["sample_rate"]) if raw.get("sample_rate") else None,
        }
    return {name: value for name, value in found.items() if value is not None}


def _picture(info: inspect.MediaInfo, raw: Mapping[str, Any]) -> dict[str, Any]:
    video = inspect.video_stream(raw)
    if info.video is not None and video.index == info.video.index:
        video = info.video  # its length and frames have been checked
    return {
        "width": max(1, round(video.width * video.pixel_aspect)),
        "height": video.height,
        "rotation": video.rotation,
        "frame_rate": _rounded(float(video.frame_rate) or None),
        "frames": video.frames,
        "duration_s": _rounded(video.duration_s),
        "hdr": is_hdr_transfer(video),
        "cover": bool(raw.get("disposition", {}).get("attached_pic")),
    }


def _loudness(info: inspect.MediaInfo, path: Path, work: Work) -> dict[str, float | None]:
    lufs, peak_db = (-math.inf, -math.inf) if info.audio is None else measure.loudness(path, info.audio, work)
    silent = lufs <= measure.SILENCE_LUFS or not math.isfinite(peak_db)
    return {"loudness_lufs": None if silent else lufs, "true_peak_dbtp": None if silent else peak_db}


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)
