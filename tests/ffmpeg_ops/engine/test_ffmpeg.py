from __future__ import annotations

from collections.abc import Iterator

import pytest

from ffmpeg_ops.engine import ffmpeg
from tests.ffmpeg_ops.media import VideoWork, frame_count
from wire.envelope import Limits
from wire.errors import EncodeFailed, OutputTooLarge

X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-f", "mp4", "output-video.mp4"]
FRAME = bytes(64 * 64)


def short(seconds: float = 1.0) -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=size=64x64:rate=25:duration={seconds}", *X264]


# --- what goes well --------------------------------------------------------------------------------------------------


def test_a_command_makes_the_output_and_noise_on_standard_error_does_not_block_it(work: VideoWork) -> None:
    assert ffmpeg.encode(["-loglevel", "debug", *short(4)], work, length_s=4).frames == 100
    assert frame_count(work.video) == 100


@pytest.mark.parametrize("length_s", [1.5, 0.1], ids=["right", "too small"])
def test_progress_is_a_share_that_never_falls_and_ends_at_one(length_s: float, work: VideoWork) -> None:
    ffmpeg.encode(["-re", *short(1.5)], work, length_s=length_s)
    assert work.shares == sorted(work.shares) and work.shares[-1] == 1.0
    assert all(0 <= share <= 1 for share in work.shares)
    assert length_s == 0.1 or any(0.05 < share < 0.95 for share in work.shares)


def test_frames_are_fed_through_standard_input_and_need_not_be_read_to_the_end(work: VideoWork) -> None:
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield FRAME

    raw = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-video_size",
        "64x64",
        "-framerate",
        "25",
        "-i",
        "pipe:0",
        "-frames:v",
        "5",
    ]
    ffmpeg.encode([*raw, *X264], work, length_s=0.2, feed=endless())
    assert frame_count(work.video) == 5 and made < 5000


# --- limits ----------------------------------------------------------------------------------------------------------

NOISE = "-f lavfi -i nullsrc=size=320x240:rate=25:duration=4,geq=random(1)*255:128:128"
STILL = "-f lavfi -i color=size=64x64:duration=1:rate=5"
FITS = 5 * 64 * 64


@pytest.mark.parametrize(
    ("arguments", "max_bytes"),
    [
        (f"{NOISE} -c:v rawvideo -f avi output-video.mp4", 1_000_000),
        (f"{NOISE} -c:v libx264 -preset ultrafast -crf 0 -movflags +faststart -f mp4 output-video.mp4", 20_000),
        (f"{STILL} -c:v rawvideo -pix_fmt gray -f rawvideo output-video.mp4", FITS - 1),
        (f"{STILL} -c:v rawvideo -pix_fmt gray -f rawvideo output-video.mp4", FITS),
    ],
    ids=["raw", "second pass of mp4", "a byte too large", "exactly as large"],
)
def test_an_output_past_the_limit_is_too_large(arguments: str, max_bytes: int, work: VideoWork) -> None:
    limited = VideoWork(work.directory, Limits(timeout_s=30, max_output_bytes=max_bytes))
    if max_bytes == FITS:
        ffmpeg.encode(arguments.split(), limited, length_s=1)
        assert work.video.stat().st_size == FITS
        return
    with pytest.raises(OutputTooLarge):
        ffmpeg.encode(arguments.split(), limited, length_s=4)
    assert work.video.stat().st_size <= max_bytes + 1


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_a_failing_command_prints_is_logged_and_not_returned(work: VideoWork) -> None:
    with pytest.raises(EncodeFailed) as caught:
        ffmpeg.encode(["-i", "missing-file.mp4", *X264], work, length_s=1)
    assert "missing-file.mp4" in (caught.value.detail or "")
    assert caught.value.message == EncodeFailed.text
    with pytest.raises(EncodeFailed, match=EncodeFailed.text):  # success without an output
        ffmpeg.encode(["-f", "lavfi", "-i", "color=duration=0.1", "-f", "null", "-"], work, length_s=1)


def test_the_release_is_read_from_any_build_s_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int(ffmpeg.version().lstrip("n").partition(".")[0]) >= 5
    new = ("6.0", "7.1.5-0+deb13u1", "n7.1", "N-117-gabcdef")
    for version in ("5.1.9-0+deb12u1", *new):
        monkeypatch.setattr(ffmpeg, "version", lambda version=version: version)
        assert ffmpeg.is_from.__wrapped__(6) is (version in new)


# --- what counts as damage -------------------------------------------------------------------------------------------

DECODERS = [  # in the forms of 5.1 and of 7.1
    "[h264 @ 0x55e68d48ad80] [error] error while decoding MB 2 5, bytestream -19",
    "[hevc @ 0x5610e0fa5340] [error] Error splitting the input into NAL units.",
    "[mpeg2video @ 0x55a8350d3680] [error] Warning MVs not available",
    "[mp3float @ 0x5611476760c0] [error] Header missing",
    "[aac @ 0x55dd25dc2840] [error] decode_pce: Input buffer exhausted before END element found",
    "[ac3 @ 0x55e858f4e900] [error] exponent -2 is out-of-range",
    "[ogg @ 0x564d30fa8980] [error] CRC mismatch!",
    "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55b0a52c0a00] [error] stream 0, offset 0x30: partial file",
    "[error] Error while decoding stream #1:0: Invalid data found when processing input",
    "[vist#0:0/hevc @ 0x5610e0d5ec40] [dec:hevc @ 0x5610e0d83400] [error] Error submitting packet to decoder: Invalid data",
    "[aist#0:0/flac @ 0x55d09e6ba100] [dec:flac @ 0x55d09e6b5ac0] [error] Decoding error: Invalid data found",
    "[in#0/mov,mp4,m4a,3gp,3g2,mj2 @ 0x5581c0c4a600] [error] Error during demuxing: Invalid data found",
    "[in#0 @ 0x55a54ee6ae00] [error] Error opening input: Invalid data found when processing input",
    "[h264 @ 0x55e68d48ad80] [fatal] no frame!",
]
OTHERS = [
    "[aac @ 0x55b6940c1d80] [error] Input contains (near) NaN/+-Inf",
    "[error] Error submitting audio frame to the encoder",
    "[aost#0:0/aac @ 0x55d901379180] [error] Error submitting audio frame to the encoder",
    "Svt[error]: Instance 1: Source Width must be at least 64",
    "x265 [error]: the bitrate is too low",
    "[libsvtav1 @ 0x55a5cc85e980] [error] Error setting encoder parameters: bad parameter (0x80001005)",
    "[libx264 @ 0x558b3ee0c6c0] [error] b-pyramid normal + refs 1 is not supported",
    "[libx265 @ 0x55c766cb0040] [error] Image size is too small (8x8).",
    "[libaom-av1 @ 0x5574bdecb440] [error]   Additional information: Cannot find aom option foo",
    "[h264_nvenc @ 0x55f822f26400] [error] Cannot load libcuda.so.1",
    "[vost#0:0/libx265 @ 0x55b8092f4300] [error] Could not open encoder before EOF",
    "[vf#0:0 @ 0x55b8092f4b00] [error] Task finished with error code: -22 (Invalid argument)",
    "[out#0/mp4 @ 0x5581c0c4a600] [error] Error writing trailer: No space left on device",
    "[mp4 @ 0x557074c77300] [error] Application provided invalid, non monotonically increasing dts to muxer in stream 0",
    "[error] av_interleaved_write_frame(): Invalid data found when processing input",
    "[in#0 @ 0x563c848a8480] [error] Error opening input: No such file or directory",
    "[in#0 @ 0x55a919e87e00] [error] Error opening input: Permission denied",
    "[Parsed_ass_0 @ 0x55cf9a1c1d40] [error] Neither PlayResX nor PlayResY defined.",
    "[h264 @ 0x55e68d48ad80] [warning] error while decoding MB 2 5, which is hidden",
    "[mp3 @ 0x56547fa80a80] [warning] Estimating duration from bitrate, this may be inaccurate",
    "",
]


@pytest.mark.parametrize(
    ("line", "damage"), [*((line, True) for line in DECODERS), *((line, False) for line in OTHERS)]
)
def test_only_errors_of_demuxers_and_decoders_are_damage(line: str, damage: bool) -> None:
    assert ffmpeg.is_decode_error(line) is damage
