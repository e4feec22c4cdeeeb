"""Makes the film: probe every file, lay out the scenes, mix the sound, then draw and encode all frames once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.compose import drawing, overlays, probing, soundtrack
from ffmpeg_ops.compose.drawing import Plan, Warn
from ffmpeg_ops.compose.params import MAX_FILM_SECONDS
from ffmpeg_ops.compose.probing import Files
from ffmpeg_ops.compose.scenes import Scene
from ffmpeg_ops.engine import ffmpeg, output
from ffmpeg_ops.engine.clips.frames import Target
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.film import Film, encode
from ffmpeg_ops.engine.overlays.store import LayerStore
from ffmpeg_ops.engine.picture_params import parse_size
from ffmpeg_ops.engine.subtitles import captions
from ffmpeg_ops.engine.subtitles.style import look
from ffmpeg_ops.engine.timeline.layout import Span, Timeline, lay_out
from ffmpeg_ops.engine.timeline.rates import exact_rate, exact_s, frame_count
from ffmpeg_ops.operation import Work
from wire.errors import InvalidParams

_PREPARED = 0.1  # the share of the work until the first frame
# The colours of JPEG are BT.601's, those of the film BT.709's.
_TO_JPEG = "scale=in_color_matrix=bt709:flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24,format=yuvj420p"
_JPEG = ["-c:v", "mjpeg", "-q:v", "2", "-huffman", "optimal", "-f", "image2", "-update", "1"]


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    files = probing.probe(assets, work, warnings.append)
    timeline = _timeline(params, files)
    warnings += _captions(params, assets, timeline, work)
    fade_out = min(timeline.frames, frame_count(exact_s(params["fade_out"]), timeline.rate))
    with closing(LayerStore(work.directory / "layers")) as store:
        plan = _plan(params, assets, files, timeline, store, work, warnings.append)
        mixing = replace(work, progress=lambda share: work.progress(_PREPARED * share))
        sound = soundtrack.make(params, files, timeline, plan.overlays, mixing, warnings.append)
        made = encode(
            Film(plan.target.size, timeline.rate, timeline.frames, sound, "captions" in params, fade_out),
            replace(work, progress=lambda share: work.progress(_PREPARED + (1 - _PREPARED) * share)),
            Encoding.of(params),
            lambda: drawing.render(plan, work, warnings.append),
        )
    if "poster" in params:
        _take_poster(work, params["poster"]["at"], timeline)
    info = output.made(plan.target.size, timeline.frames, timeline.length_s)
    stats = output.stats(work, made.stats, info, warnings=dict.fromkeys([*warnings, *made.warnings]))
    return {**stats, "result": {"scenes": [_times(timeline, span) for span in timeline.spans]}}


def _timeline(params: Mapping[str, Any], files: Files) -> Timeline:
    """Raises InvalidParams for times that contradict each other, and for moments after the end of the film."""
    timeline = lay_out(
        list(files.scenes(params)),
        exact_rate(params["frame_rate"]),
        tail=exact_s(params["tail"]),
        narration_end=files.narration_end(params),
        max_s=exact_s(MAX_FILM_SECONDS),
    )
    if params.get("poster", {}).get("at", 0) > timeline.length_s:
        raise InvalidParams(f"poster.at: the film ends after {timeline.length_s:.2f} seconds.")
    return timeline


def _captions(params: Mapping[str, Any], assets: Mapping[str, Path], timeline: Timeline, work: Work) -> list[str]:
    """Write the script of the captions, if there are any; return warnings."""
    if "captions" not in params:
        return []
    warnings: list[str] = []
    wanted, prefix = params["captions"], "captions."
    read = captions.read(wanted, assets, work, warnings.append, prefix)
    cues = captions.fitted(read, wanted, timeline.length_s, warnings.append, prefix)
    style = look(wanted.get("style"), *parse_size(params["size"]))
    return [*warnings, *captions.write_script(work, cues, style, assets, prefix)]


def _plan(
    params: Mapping[str, Any],
    assets: Mapping[str, Path],
    files: Files,
    timeline: Timeline,
    store: LayerStore,
    work: Work,
    warn: Warn,
) -> Plan:
    target = Target(parse_size(params["size"]), timeline.rate)
    scenes = []
    for i, (scene, span) in enumerate(zip(params["scenes"], timeline.spans, strict=True)):
        name = f"scenes[{i}]"
        still, clip = assets.get(f"{name}.url_image"), files.clips.get(f"{name}.url_video")
        scenes.append(Scene(scene, name, span, still, clip))
    laid = overlays.place(params, assets, files, timeline, target.size, store, work, warn)
    return Plan(target, scenes, laid)


def _take_poster(work: Work, at_s: float, timeline: Timeline) -> None:
    """Write the output `poster`: the frame of the finished film, with captions, that is shown at `at_s`."""
    frame = min(timeline.frames - 1, int(exact_s(at_s) * timeline.rate))
    seek_s = max(0.0, float((frame - Fraction(1, 2)) / timeline.rate))
    source = [*ffmpeg.DECODE_LIMITS, "-ss", f"{seek_s:.6f}", "-i", work.output("video").name, "-frames:v", "1"]
    form = ["-vf", _TO_JPEG, *_JPEG, "-map_metadata", "-1"]
    made = work.output("poster")
    silent = replace(work, progress=lambda share: None)
    ffmpeg.encode([*source, *form, made.name], silent, length_s=timeline.length_s, made=made)


def _times(timeline: Timeline, span: Span) -> dict[str, float]:
    """When a scene begins and how long it lasts, in seconds."""
    return {
        "start": round(float(span.first / timeline.rate), 6),
        "duration": round(float(span.frames / timeline.rate), 6),
    }
