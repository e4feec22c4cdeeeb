"""Hostile files in a whole attempt: each ends in a clear error or a valid video, which shows no other file of the disk.

References name planted files on the worker's disk: white pictures, and a text that no output may show.
"""

from __future__ import annotations

import io
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from handler.settings import Settings
from tests.ffmpeg_ops.media import boxes, ffmpeg
from tests.handler.hostile import Outcome, endure, frames
from tests.handler.support import Job
from tests.servers import FileServer, Reply

X264 = "-c:v libx264 -preset ultrafast"
CANARY = b"canary-of-the-disk-5b1e"
ASS = (
    "[Script Info]\nPlayResX: 128\nPlayResY: 72\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\n"
    "Style: D,Arial,20,&H00FFFFFF,&H0,&H0,&H0,0,0,0,0,100,100,0,0,1,2,0,2,9,9,9,1\n\n[Events]\n"
    "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # parsers warn of odd files

Try = Callable[..., Outcome]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the worker's disk: white.mp4, white.png, words.srt, each of them another job's."""
    folder = tmp_path_factory.mktemp("planted")
    white = f"-f lavfi -i color=white:size=128x72:rate=10:duration=1 -metadata title={CANARY.decode()}"
    for name, more in (("white.mp4", ""), ("white.ts", ""), ("white-001.png", "-frames:v 1")):
        made(folder, name, f"{white} {more}")
    (folder / "words.srt").write_bytes(b"1\n00:00:00,000 --> 00:00:01,000\n" + CANARY + b"\n")
    return folder


@pytest.fixture
def attempt(request: pytest.FixtureRequest, files: FileServer, settings: Settings) -> Try:
    def run(content: bytes, operation: str, name: str, timeout_s: int = 20, **more: Any) -> Outcome:
        files.routes["/hostile"] = Reply(body=content)
        quick = {"size": "64x64"} if operation == "img2vid" else {}
        job: Job = request.getfixturevalue(operation)
        return endure(job(**quick, **{name: files.url("/hostile")}, **more), settings, timeout_s)

    return run


def shows_nothing_planted(outcome: Outcome) -> None:
    if outcome.output is not None:
        assert CANARY not in outcome.output.read_bytes()
        assert np.frombuffer(frames(outcome.output), np.uint8).mean() < 200, "the picture that was planted is white"


# --- references to other files ------------------------------------------------------------------------------------------

REFERENCES = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{file}\n#EXT-X-ENDLIST\n",
    "m3u8 by URL": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "m3u8 by concat": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\nconcat:{url}|file://{file}\n#EXT-X-ENDLIST\n",
    "m3u8 with a key": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{file}"\n#EXTINF:1,\n{url}\n',
    "master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
    "ffconcat": "ffconcat version 1.0\nfile '{file}'\n",
    "concat": "file '{file}'\nduration 1\n",
    "xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track><location>file://{file}</location></track></trackList></playlist>',
    "pls": "[playlist]\nFile1={file}\nNumberOfEntries=1\n",
    "asx": '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
    "asf reference": "[Reference]\nRef1={url}\nRef2={file}\n",
    "smil": '<smil><body><video src="{file}"/></body></smil>',
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>urn:uuid:0</Id></CompositionPlaylist>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "rtsp": "RTSPtext\nrtsp://127.0.0.1:{port}/x\n",
    "image2": "{folder}/white-%03d.png\n",
    "avisynth": 'DirectShowSource("{file}")\n',
    "vapoursynth": "import vapoursynth\nopen('{file}')\n",
    "ffmetadata": ";FFMETADATA1\ntitle={file}\n",
    "filter": "movie={file},format=yuv420p\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="file://{file}"/></svg>',
    "postscript": "%!PS\n({file}) run\n",
    "mvg": "push graphic-context\nviewbox 0 0 64 64\nimage over 0,0 64,64 '{url}'\npop graphic-context\n",
    "xml entity": '<!DOCTYPE x [<!ENTITY e SYSTEM "file://{file}">]><tt xmlns="http://www.w3.org/ns/ttml"><body>&e;</body></tt>',
    "sami": "<SAMI><BODY><SYNC Start=0><P>{file}\n",
    "mpl2": "[0][10]{file}\n",
    "microdvd": "{{1}}{{25}}{file}\n",
}
PLACES = [("caption", "url_video"), ("caption", "url_srt"), ("adiciona_audio", "url_video"), ("adiciona_audio", "url_audio"), ("img2vid", "url_image")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFERENCES)
def test_a_text_that_names_other_files_is_no_media(kind: str, attempt: Try, planted: Path, files: FileServer) -> None:
    named = {"file": planted / "white.ts", "folder": planted, "url": files.url("/fetched.ts"), "port": files.port}
    files.routes["/fetched.ts"] = Reply(body=(planted / "white.ts").read_bytes())
    messages = refusals(REFERENCES[kind].format(**named).encode(), attempt)
    assert str(planted) not in messages and CANARY.decode() not in messages
    assert not [request for request in files.requests if request.path.startswith("/fetched")]


def refusals(content: bytes, attempt: Try) -> str:
    """The messages by which `content` is refused as any asset."""
    messages = []
    for operation, name in PLACES:
        outcome = attempt(content, operation, name)
        assert outcome.code in {"asset_invalid", "asset_has_no_audio"} and name in outcome.message, (operation, outcome)
        messages.append(outcome.message)
    return "\n".join(messages)


def with_box(content: bytes, path: list[bytes], new: bytes) -> bytes:
    """An MP4 whose box at `path` holds `new`."""
    changed = {path[0]: lambda body: with_box(body, path[1:], new) if path[1:] else new}
    return b"".join(box(kind, changed.get(kind, bytes)(body)) for kind, body in boxes(content))


@pytest.mark.parametrize("kind", ["url", "alias", "resource"])
@pytest.mark.parametrize("operation", ["caption", "adiciona_audio"])
def test_an_mp4_whose_samples_lie_in_another_file_gets_none_of_them(
    kind: str, operation: str, attempt: Try, planted: Path, media: Path
) -> None:
    target = str(planted / "white.mp4").encode()
    path = b"".join(struct.pack(">hH", tag, len(target)) + target + b"\0" * (len(target) % 2) for tag in (18, 2))
    entry = {
        "url": box(b"url ", bytes(4) + b"file://" + target + b"\0"),
        "alias": box(b"alis", struct.pack(">14xB27s12xB63s36x", 4, b"disk", 4, target[-60:]) + path + b"\xff\xff\0\0"),
        "resource": box(b"rsrc", bytes(4) + target + b"\0"),
    }[kind]
    place = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"]
    hostile = with_box((media / "video.mp4").read_bytes(), place, struct.pack(">II", 0, 1) + entry)
    shows_nothing_planted(attempt(hostile, operation, "url_video"))


# --- archives, and what is no media at all ---------------------------------------------------------------------------


def zipped(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
        archive.writestr("video.mp4", content)
    return file.getvalue()


NOT_MEDIA: dict[str, Callable[[], bytes]] = {
    "zip": lambda: zipped(bytes(5_000_000), zipfile.ZIP_DEFLATED),
    "gzip": lambda: zlib.compress(bytes(30_000_000), wbits=31),
    "tar": lambda: b"video.mp4".ljust(257, b"\0") + b"ustar\x0000" + bytes(4000),
    "pdf": lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "html": lambda: b"<!doctype html><script>alert(1)</script>",
    "elf": lambda: Path("/bin/true").read_bytes(),
    "script": lambda: b"#!/bin/sh\ntouch owned\n",
    "nothing but zeros": lambda: bytes(2_000_000),
    "noise": lambda: np.random.default_rng(1).bytes(2_000_000),
    "one byte": lambda: b"\0",
    "quotes": lambda: b"'; touch owned; $(touch owned) \"`touch owned`\\\n" * 50,
}


@pytest.mark.parametrize("kind", NOT_MEDIA)
def test_other_files_are_named_as_no_media(kind: str, attempt: Try) -> None:
    refusals(NOT_MEDIA[kind](), attempt)


def test_a_video_in_a_stored_archive_is_not_looked_for(attempt: Try, media: Path) -> None:
    assert attempt(zipped((media / "video.mp4").read_bytes()), "caption", "url_video").code == "asset_invalid"


# --- bombs -----------------------------------------------------------------------------------------------------------


def made(tmp_path: Path, name: str, arguments: str) -> bytes:
    path = tmp_path / name
    ffmpeg(*arguments.split(), path)
    return path.read_bytes()


def box(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I4s", len(body) + 8 if size is None else size, kind) + body


def nested(kind: bytes, depth: int) -> bytes:
    """Boxes in boxes, each as large as what it holds."""
    return b"".join(struct.pack(">I4s", 8 * (depth - i), kind) for i in range(depth))


def patched(content: bytes, kind: bytes, at: int, new: bytes) -> bytes:
    place = content.index(kind) + 4 + at
    return content[:place] + new + content[place + len(new) :]


FTYP = box(b"ftyp", b"isom\0\0\0\0isom")
BOXES: dict[str, Callable[[bytes], bytes]] = {
    "boxes in boxes": lambda video: FTYP + nested(b"moov", 200_000),
    "tracks in tracks": lambda video: FTYP + box(b"moov", nested(b"trak", 200_000)),
    "a million empty boxes": lambda video: FTYP + box(b"moov", box(b"trak", b"") * 200_000) + video,
    "meta in meta": lambda video: FTYP + box(b"moov", nested(b"udta", 100_000)),
    "a box larger than the file": lambda video: FTYP + box(b"moov", b"", 0x7FFFFFFF),
    "four billion samples": lambda video: patched(video, b"stsz", 4, struct.pack(">II", 1, 0xFFFFFFFF)),
    "four billion chunks": lambda video: patched(video, b"stco", 4, struct.pack(">I", 0xFFFFFFFF)),
    "four billion times": lambda video: patched(video, b"stts", 4, struct.pack(">III", 1, 0xFFFFFFFF, 1)),
    "frames of no length": lambda video: patched(video, b"stts", 12, struct.pack(">I", 0)),
    "frames of 49 days": lambda video: patched(video, b"stts", 12, struct.pack(">I", 0xFFFFFFFF)),
    "a film of ages": lambda video: patched(video, b"mvhd", 12, struct.pack(">II", 1, 0xFFFFFFFF)),
    "a track of ages": lambda video: patched(video, b"mdhd", 12, struct.pack(">II", 1, 0xFFFFFFFF)),
    "no time scale": lambda video: patched(video, b"mdhd", 12, struct.pack(">I", 0)),
    "an edit without end": lambda video: patched(video, b"elst", 8, struct.pack(">Ii", 0xFFFFFFFF, 0)),
    "a size of 65535": lambda video: patched(video, b"avc1", 24, struct.pack(">HH", 65535, 65535)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOXES)
@pytest.mark.parametrize("operation", ["caption", "adiciona_audio"])
def test_boxes_with_false_sizes_are_the_job_s_fault(kind: str, operation: str, attempt: Try, media: Path) -> None:
    content = BOXES[kind]((media / "video.mp4").read_bytes())
    outcome = attempt(content, operation, "url_video", 10)
    assert outcome.code != "encode_failed", "a lying header is the job's own fault"


def test_nested_elements_of_matroska_are_refused(attempt: Try) -> None:
    element = b"\x18\x53\x80\x67" + b"\x01\xff\xff\xff\xff\xff\xff\xff"  # a segment of unknown length
    ebml = bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282886d6174726f736b614287810442858102")
    assert attempt(ebml + element * 100_000, "caption", "url_video").code == "asset_invalid"


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["caption", "adiciona_audio"])
def test_a_video_of_too_many_frames_ends_at_the_time_limit(operation: str, attempt: Try, tmp_path: Path) -> None:
    many = made(tmp_path, "many.mkv", f"-f lavfi -i color=size=16x16:rate=1000:duration=100 {X264} -g 9999")
    assert len(many) < 20_000_000
    more = {"length": "shortest"} if operation == "adiciona_audio" else {}
    attempt(many, operation, "url_video", 4, **more)


@pytest.mark.slow
def test_a_picture_that_grows_on_the_way_stays_within_memory(attempt: Try, tmp_path: Path) -> None:
    sizes = ("64x64", "4096x2304", "64x64", "8192x8192")
    parts = (
        made(tmp_path, f"{at}.ts", f"-f lavfi -i color=size={size}:rate=10:duration=0.4 {X264}")
        for at, size in enumerate(sizes)
    )
    attempt(b"".join(parts), "caption", "url_video")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["12000x12000", "65500x100"])
def test_a_large_picture_in_a_small_file_is_refused(size: str, attempt: Try, tmp_path: Path) -> None:
    one = f"-f lavfi -i color=size={size}:rate=1:duration=1 -frames:v 1 -c:v mjpeg -pix_fmt yuvj420p"
    outcome = attempt(made(tmp_path, "large.avi", one), "caption", "url_video")
    assert outcome.code in {"asset_too_large", "asset_invalid"}, outcome


@pytest.mark.slow
def test_a_cover_that_is_a_bomb_does_no_harm(attempt: Try, tmp_path: Path) -> None:
    song = made(tmp_path, "song.mp3", "-f lavfi -i sine=duration=1")
    frame = b"\0image/png\0\x03\0" + png(30_000, 30_000)
    size = len(frame) + 10
    tag = b"ID3\x03\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    hostile = tag + b"APIC" + struct.pack(">IH", len(frame), 0) + frame + song
    attempt(hostile, "adiciona_audio", "url_audio")


def sound(rate: int, channels: int, seconds: float) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((channels, 2, rate, 0, "NONE", ""))
        out.writeframes(bytes(int(rate * seconds) * channels * 2))
    return file.getvalue()


SOUNDS: dict[str, Callable[[Path], bytes]] = {
    "256 channels": lambda folder: sound(8000, 256, 1),
    "a rate of two billion": lambda folder: patched(sound(44_100, 1, 1), b"fmt ", 8, struct.pack("<I", 2**31 - 1)),
    "one sample a second": lambda folder: patched(sound(44_100, 1, 1), b"fmt ", 8, struct.pack("<I", 1)),
    "no rate": lambda folder: patched(sound(44_100, 1, 1), b"fmt ", 8, struct.pack("<I", 0)),
    "a length of four gigabytes": lambda folder: patched(sound(44_100, 1, 1), b"data", 0, b"\xff\xff\xff\xff"),
    "hours of silence": lambda folder: made(folder, "day.flac", "-f lavfi -i anullsrc=r=8000:cl=mono:d=16000 -c:a flac -compression_level 0"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("length", ["video", "audio"])
def test_odd_sounds_do_no_harm(kind: str, length: str, attempt: Try, tmp_path: Path) -> None:
    attempt(SOUNDS[kind](tmp_path), "adiciona_audio", "url_audio", 15, length=length)


@pytest.mark.slow
def test_a_file_of_a_thousand_tracks_does_no_harm(attempt: Try, media: Path) -> None:
    parts = boxes((media / "video.mp4").read_bytes())
    tracks = boxes(dict(parts)[b"moov"])
    moov = b"".join(box(kind, body) * (500 if kind == b"trak" else 1) for kind, body in tracks)
    attempt(b"".join(box(kind, moov if kind == b"moov" else body) for kind, body in parts), "caption", "url_video")


# --- images ----------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *between: bytes, rows: bool = True) -> bytes:
    """A grey PNG of nothing, with chunks in it."""
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(width // 8 + 1)) for _ in range(height if rows else 0)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(between) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str, **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def animated(count: int) -> bytes:
    rest = [Image.new("P", (64, 64), i % 250) for i in range(count)]
    return saved(rest[0], "GIF", save_all=True, append_images=rest[1:])


def texts() -> bytes:
    info = PngImagePlugin.PngInfo()
    for i in range(200):
        info.add_text(f"key{i}", "x" * 900_000, zip=True)
    return saved(Image.new("L", (64, 64)), "PNG", pnginfo=info)


def scans(count: int) -> bytes:
    """A progressive JPEG of 96 megapixels that says `count` times how its first coefficients go on: with nothing."""
    width, height = 12_000, 8_000
    blocks = (width // 8) * (height // 8)
    lengths = bytes([0, 0, 0, 15] + [0] * 12) + bytes(range(0x00, 0xF0, 0x10))
    tables = (
        b"\xff\xc4"
        + struct.pack(">HB", 19 + 15, 0x10)
        + lengths
        + b"\xff\xc4"
        + struct.pack(">HB", 20, 0x00)
        + bytes([1] + [0] * 15)
        + b"\0"
    )
    head = b"\xff\xd8\xff\xdb" + struct.pack(">HB", 67, 0) + b"\x01" * 64
    head += b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00" + tables
    first = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + bytes(blocks // 8 + 1)
    runs = -(-blocks // 32767)
    bits = ("1110" + "1" * 14) * runs  # the longest run of blocks that end here, again and again
    packed = int(bits + "1" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big").replace(b"\xff", b"\xff\0")
    return head + first + (b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + packed) * count + b"\xff\xd9"


IMAGES: dict[str, Callable[[], bytes]] = {
    "30,000 by 30,000": lambda: png(30_000, 30_000),
    "9,900 by 9,900": lambda: png(9900, 9900),
    "two billion wide": lambda: png(2**31 - 1, 1, rows=False),
    "of no height": lambda: png(64, 0),
    "ten million chunks": lambda: png(64, 64, chunk(b"tEXt", b"a\0b") * 300_000),
    "texts that unfold": texts,
    "a profile that unfolds": lambda: png(64, 64, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "a text that unfolds": lambda: png(64, 64, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "many frames": lambda: animated(2000),
    "a GIF of 65535": lambda: patched(b"1234" + animated(1), b"1234", 6, b"\xff\xff\xff\xff")[4:],
    "a BMP of two billion": lambda: patched(b"1234" + saved(Image.new("L", (8, 8)), "BMP"), b"1234", 18, b"\xff\xff\xff\x7f" * 2)[4:],
    "a BMP upside down": lambda: patched(b"1234" + saved(Image.new("L", (8, 8)), "BMP"), b"1234", 22, b"\xf8\xff\xff\xff")[4:],
    "a TIFF that goes round": lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8),
    "a TIFF of strips": lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 5) + b"".join(struct.pack("<HHII", tag, 4, n, v) for tag, n, v in ((256, 1, 64), (257, 1, 64), (273, 0x7FFFFFFF, 8), (278, 1, 1), (279, 0x7FFFFFFF, 8))) + bytes(4),
    "a large TIFF packed well": lambda: saved(Image.new("1", (9900, 9900)), "TIFF", compression="group4"),
    "a large WebP": lambda: saved(Image.new("RGB", (16_383, 6000)), "WEBP", lossless=True, method=0),
    "a wide WebP": lambda: saved(Image.new("RGB", (16_383, 6200)), "WEBP", lossless=True, method=0),
    "an SVG that unfolds": lambda: b'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">' + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)) + b"]><svg>&j;</svg>",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_all_kinds_do_no_harm(kind: str, attempt: Try) -> None:
    attempt(IMAGES[kind](), "img2vid", "url_image")


@pytest.mark.parametrize("count", [10, 20_000])
def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(count: int, attempt: Try) -> None:
    outcome = attempt(scans(count), "img2vid", "url_image")
    assert outcome.code == ("completed" if count == 10 else "asset_invalid"), outcome
    assert count == 10 or "scans" in outcome.message


# --- subtitles -------------------------------------------------------------------------------------------------------


def srt(count: int, text: str, together: bool = True) -> bytes:
    def time(i: int) -> str:
        return "00:00:00,000 --> 00:00:01,000" if together else f"00:00:00,{i % 900:03} --> 00:00:00,{i % 900 + 50:03}"

    return "".join(f"{i}\n{time(i)}\n{text}\n\n" for i in range(1, count + 1)).encode()


def line(text: str, count: int = 1) -> bytes:
    return (ASS + f"Dialogue: 0,0:00:00.00,0:00:01.00,D,,0,0,0,,{text}\n" * count).encode()


POINTS = " ".join(f"{i % 5000} {i * 7 % 5000}" for i in range(300_000))
SUBTITLES: dict[str, Callable[[], bytes]] = {
    "a million cues": lambda: srt(1_000_000, "a"),
    "as many cues as fit, at once": lambda: srt(125_000, "a"),
    "as many events as fit, at once": lambda: line("a", 95_000),
    "as many cues as fit, in turn": lambda: srt(100_000, "a", together=False),
    "long cues at once": lambda: srt(900, "palavra " * 600),
    "a font": lambda: (ASS + "\n[Fonts]\nfontname: evil.ttf\n" + "!" * 80 + "\n" + ("A" * 80 + "\n") * 20_000).encode() + line("a"),
    "a drawing of a million points": lambda: line("{\\p1}m 0 0 l " + POINTS + "{\\p0}"),
    "drawings behind text": lambda: line("a{\\p1}m 0 0 l " + POINTS[:4000] + "{\\p0}b"),
    "changes in changes": lambda: line("{" + "\\t(0,1000,\\fscx900" * 5000 + ")" * 5000 + "}a"),
    "a huge letter": lambda: line("{\\fs100000\\fscx100000\\blur9999\\bord9999\\shad9999\\be9999\\fax999}A"),
    "a huge style": lambda: line("A").replace(b"Arial,20", b"Arial,2000000000"),
    "a clip of many points": lambda: line("{\\clip(m 0 0 l " + POINTS[:400_000] + ")}a"),
    "another file's name": lambda: (ASS + "Dialogue: 0,0:00:00.00,0:00:01.00,D,,0,0,0,,{\\fn/etc/passwd}a\n").encode(),
    "marks on marks": lambda: srt(1, "a" + "\u0301" * 4900),
    "right to left and back": lambda: srt(1, "\u202e\u202d\u2066\u2067" * 1000 + "a"),
    "emoji that join": lambda: srt(1, "\U0001f468\u200d" * 2000),
    "filter syntax": lambda: srt(1, "',movie=/etc/passwd[a];[a]overlay,drawtext=textfile=/etc/passwd:x='%{pts}'\\N{\\p9}"),
    "odd times": lambda: b"1\n99:99:99,999 --> 00:00:00,000\na\n\n2\n00:00:00,000 --> 999:00:00,000\nb\n",
    "zeros": lambda: b"1\n00:00:00,000 --> 00:00:01,000\na\0b\0" + b"\0" * 100_000,
    "UTF-16 cut off": lambda: srt(1, "a").decode().encode("utf-16")[:-1],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUBTITLES)
def test_subtitles_of_all_kinds_do_no_harm(kind: str, attempt: Try) -> None:
    outcome = attempt(SUBTITLES[kind](), "caption", "url_srt", 90)  # reached by none, however busy the machine is
    assert outcome.code != "job_timeout", outcome
    shows_nothing_planted(outcome)


# --- names and streams -----------------------------------------------------------------------------------------------


NAMES = ["a'b.mp4", "a%0Ab.mp4", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "a:b,c;d[e]=f.mp4", "-i", "%03d.png", "|id", "con%00.mp4", "x" * 2000]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_file_is_a_command_or_a_path(name: str, caption: Job, files: FileServer) -> None:
    files.routes[f"/{name}"] = files.routes["/video.mp4"]
    outcome = endure(caption(url_video=files.url(f"/{name}")), caption.settings)
    assert outcome.code in {"completed", "asset_not_found"}


@pytest.mark.parametrize("length", [10**12, None])
def test_a_stream_without_end_is_cut(length: int | None, caption: Job, files: FileServer, media: Path) -> None:
    files.routes["/endless"] = Reply(body=(media / "video.mp4").read_bytes(), trickle_s=0.05, content_length=length)
    outcome = endure(caption(url_video=files.url("/endless")), caption.settings, 4)
    assert outcome.code in {"asset_too_large", "asset_unavailable", "job_timeout"}
