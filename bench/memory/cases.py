"""The cases of `python -m bench memory`, and the small programs that make their inputs."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SMALL_BYTES, LARGE_BYTES = 1_500_000_000, 3_000_000_000  # up to 1920x1080, and up to 4096x2304
LARGE, HD = "4096x2304", "1920x1080"
Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    """One attempt whose memory is measured."""

    #: Name of the figure.
    name: str
    #: What the attempt does.
    operation: str
    #: What is in the inputs.
    meaning: str
    #: Param of an asset → the function that makes its file in a folder.
    assets: Mapping[str, Make]
    #: The other params.
    params: Mapping[str, Any]
    #: Maximum of the peak.
    limit_bytes: int = SMALL_BYTES
    #: Whether it is among those that are measured with `--quick`.
    quick: bool = False


def made(name: str, *arguments: str) -> Make:
    """A file that FFmpeg makes."""

    def make(folder: Path) -> Path:
        path = folder / name
        words = [word for argument in arguments for word in argument.split()]
        subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *words, path], check=True, cwd=folder)
        return path

    return make


def video(size: str, seconds: float = 2, rate: int = 25, codec: str = "libx264 -preset ultrafast -bf 0") -> Make:
    return made("video.mkv", f"-f lavfi -i testsrc2=size={size}:rate={rate}:duration={seconds} -c:v {codec}")


def sound(seconds: float) -> Make:
    return made("sound.mp3", f"-f lavfi -i sine=duration={seconds} -c:a libmp3lame -b:a 64k")


fast_sound = made("sound.wav", "-f lavfi -i anoisesrc=r=768000:d=30 -ac 8")


def text(name: str, content: Callable[[], str]) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content(), encoding="utf-8")
        return folder / name

    return make


def image(name: str, make_image: Callable[[], Image.Image], **options: Any) -> Make:
    def make(folder: Path) -> Path:
        make_image().save(folder / name, **options)
        return folder / name

    return make


def srt(cues: list[tuple[float, float, str]]) -> str:
    return "\n".join(f"{i}\n{_time(a)} --> {_time(b)}\n{words}\n" for i, (a, b, words) in enumerate(cues, 1))


def _time(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"


def at_once() -> str:
    """Fifty cues at the same time, each of which fills the frame with other ideographs."""
    return srt([(0, 3, "".join(chr(0x4E00 + 18 * i + j) for j in range(18))) for i in range(50)])


def glyphs() -> str:
    """Every cue draws other ideographs."""
    return srt([(i / 25, (i + 1) / 25, "".join(chr(0x4E00 + 60 * i + j) for j in range(60))) for i in range(75)])


def plain(width: int, height: int, mode: str) -> Callable[[], Image.Image]:
    return lambda: Image.new(mode, (width, height))


def noise(width: int, height: int) -> Image.Image:
    """Rows of noise that compress well, because few of them differ."""
    row = np.random.default_rng(1).integers(0, 256, (16, width, 3), np.uint8)
    return Image.fromarray(np.tile(row, (height // 16, 1, 1)))


def png(width: int, height: int, depth: int, color: int, bits: int) -> Make:
    """A PNG of zeros, with `bits` a pixel."""

    def make(folder: Path) -> Path:
        line, packer = bytes(1 + width * bits // 8), zlib.compressobj(9)
        data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
        header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
        path = folder / "image.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, (b"IHDR", b"IDAT", b"IEND"), (header, data, b""))))
        return path

    return make


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def many_samples(folder: Path) -> Path:
    """A small MP4 whose header claims 200 million samples of one byte in one chunk."""
    path = made("video.mp4", "-f lavfi -i testsrc=size=64x64:rate=10:duration=1 -c:v libx264 -bf 0")(folder)
    content = bytearray(path.read_bytes())
    at = content.index(b"stsz") + 8
    content[at : at + 8] = struct.pack(">II", 1, 200_000_000)
    at = content.index(b"stsc") + 12
    content[at : at + 8] = struct.pack(">II", 1, 200_000_000)
    path.write_bytes(content)
    return path


def with_attachment(folder: Path) -> Path:
    """A Matroska file with 300 MB of attached file."""
    attached = folder / "attached.ttf"
    attached.write_bytes(bytes(300_000_000))
    attach = f"-attach {attached} -metadata:s:t mimetype=application/x-truetype-font"
    return made("video.mkv", f"-f lavfi -i testsrc=size=128x72:rate=10:duration=3 {attach} -c:v libx264")(folder)


def many_channels(folder: Path) -> Path:
    """Ten seconds of WAV with 255 channels."""
    channels, rate = 255, 8000
    data = np.random.default_rng(1).bytes(10 * rate * channels)
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels, channels, 8)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path = folder / "sound.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


CAPTION, AUDIO, SHOT = "caption", "adicionaAudio", "img2vid"
CUE = text("cues.srt", lambda: srt([(0, 3, "One short line")]))
HUGE = {"size": 0.3, "line_length": 100, "max_lines": 10, "outline": 0.3, "shadow": 0.3, "margin_y": 0, "margin_x": 0}
MANY_REFERENCES = "libx264 -preset ultrafast -refs 16 -bf 16"
PQ = "-color_trc smpte2084 -color_primaries bt2020 -colorspace bt2020nc"
HDR = f"libx265 -preset ultrafast -pix_fmt yuv420p10le {PQ} -x265-params log-level=none"


def best(codec: str, **more: Any) -> dict[str, Any]:
    return {"encoding": {"codec": codec, "quality": "best"}, **more}


def caption(name: str, meaning: str, make: Make, params: Mapping[str, Any], cues: Make = CUE, **more: Any) -> Case:
    limit_bytes = SMALL_BYTES if name.endswith("hd") else LARGE_BYTES
    return Case(f"caption.{name}", CAPTION, meaning, {"url_video": make, "url_srt": cues}, params, limit_bytes, **more)


def audio(name: str, meaning: str, make: Make, new: Make, params: Mapping[str, Any], **more: Any) -> Case:
    limit_bytes = LARGE_BYTES if name.endswith("4k") else SMALL_BYTES
    return Case(f"audio.{name}", AUDIO, meaning, {"url_video": make, "url_audio": new}, params, limit_bytes, **more)


def shot(name: str, meaning: str, make: Make, quick: bool = False, **params: Any) -> Case:
    """With a name that ends in `4k`, a video of 3840x2160, which counts as large."""
    large = name.endswith("4k")
    given = {"duration": 3, **({"size": "4k"} if large else {}), **params}
    return Case(
        f"image.{name}", SHOT, meaning, {"url_image": make}, given, LARGE_BYTES if large else SMALL_BYTES, quick
    )


def deflated(mode: str) -> Make:
    return image("image.tiff", plain(10_000, 10_000, mode), compression="tiff_deflate")


CASES = (
    caption(
        "cues_4k", "50 cues that fill the frame", video(LARGE, 1), {"style": HUGE}, text("c.srt", at_once), quick=True
    ),
    caption("cues_hd", "50 cues that fill the frame, 1080p", video(HD, 1), {"style": HUGE}, text("c.srt", at_once)),
    caption("glyphs_4k", "4500 large ideographs", video(LARGE), {"style": HUGE}, text("c.srt", glyphs)),
    caption("x264_4k", "x264, 4096x2304", video(LARGE), {}),
    caption("x265_4k", "x265, 4096x2304", video(LARGE), best("hevc")),
    caption("av1_4k", "SVT-AV1, 4096x2304", video(LARGE), best("av1")),
    caption("x264_hd", "x264, 1080p", video(HD), {}),
    caption("x265_hd", "x265, 1080p", video(HD), best("hevc")),
    caption("av1_hd", "SVT-AV1, 1080p", video(HD), best("av1")),
    caption("hdr_4k", "HDR to SDR with x265, 4096x2304", video(LARGE, 1, codec=HDR), best("hevc")),
    caption("references_4k", "16 reference frames, to AV1", video(LARGE, 2, codec=MANY_REFERENCES), best("av1")),
    caption("narrow_4k", "16384x576, to AV1", video("16384x576", 2), best("av1")),
    caption("sparse_4k", "a frame a second, to AV1", video(LARGE, 10, 1), best("av1")),
    caption("samples_hd", "an MP4 whose header claims 200 million samples", many_samples, {}, quick=True),
    caption("attachment_hd", "an attachment of 300 MB", with_attachment, {}),
    audio("loop", "fifteen minutes, repeated", video("64x64", 1200, 1), sound(900), {"loop": True}),
    audio("loop_short", "a second, repeated", video("64x64", 600, 1), sound(1), {"loop": True}, quick=True),
    audio("hold_4k", "a last frame held, 4096x2304 to AV1", video(LARGE, 1), sound(10), best("av1", length="audio")),
    audio("rate", "768 kHz, 8 channels, loudness", video("64x64", 60), fast_sound, {"loudness": -14, "mode": "mix"}),
    audio("channels", "255 channels", video("64x64", 60), many_channels, {"loudness": -14}),
    audio("late", "a sound that begins after ten minutes", video("64x64", 1200, 1), sound(60), {"start": 600}),
    shot("float", "TIFF of 100 megapixels, 32-bit floats", deflated("F"), quick=True),
    shot("integer", "TIFF of 100 megapixels, 32-bit integers", deflated("I")),
    shot("tall_4k", "2x100000 pixels, `contain`", image("i.png", plain(2, 100_000, "L")), quick=True, fit="contain"),
    shot("wide_4k", "100000x2 pixels, to AV1", image("i.png", plain(100_000, 2, "L")), **best("av1")),
    shot("webp", "WebP of 50 megapixels", image("i.webp", plain(7000, 7000, "RGBA"), lossless=True, method=0)),
    shot("avif", "AVIF of 50 megapixels", image("i.avif", plain(7000, 7000, "RGBA"), speed=10)),
    shot("png", "PNG of 100 megapixels, 16 bits, alpha", png(10_000, 10_000, 16, 6, 64)),
    shot("palette", "PNG of 100 megapixels, palette", image("i.png", plain(10_000, 10_000, "P"), transparency=0)),
    shot("jpeg", "CMYK JPEG of 100 megapixels", image("i.jpg", plain(10_000, 10_000, "CMYK"), progressive=True)),
    shot("photo_4k", "JPEG of 100 megapixels, to HEVC", image("i.jpg", lambda: noise(10_000, 10_000)), **best("hevc")),
)
