"""Mixes any number of sounds to one file, each placed by the sample.

The sounds are summed here in blocks of a second. Only those that are heard, and the next ones, are being decoded at a
time, so that neither their number nor the length of the mix takes memory. One FFmpeg takes the sum, lowers what is
ducked, limits the peaks and writes the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.engine.mixing import filters, measure, predecode
from ffmpeg_ops.engine.mixing.voice import SAMPLE_BYTES, Sound, Voice
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid

Block = NDArray[np.float32]  # a row for every sample, with left and right of every bus

_BLOCK = filters.RATE
# How many sounds are decoded before they are heard, because starting FFmpeg takes a while, and how many may be heard at
# once; where there are more, some are mixed to a file first.
_AHEAD, _AT_ONCE = 3, 8
_OTHERS, _QUIETER, _LOUDER = range(3)  # the buses of a mix in which something is ducked
_LAYOUTS = {1: "stereo", 3: "hexagonal"}  # FFmpeg's names of any layouts with two channels for every bus
_HEADER_BYTES = 1_000_000
_MIXED = 0.7  # the share of the work until the loudness can be measured


@dataclass(frozen=True)
class Mixed:
    """What was found out about the sounds while they were mixed."""

    #: What is wrong with them, in plain words.
    warnings: tuple[str, ...]
    #: How many parts of them could not be decoded, as far as they are heard.
    errors: int


def mix(
    sounds: Iterable[Sound],
    samples: int,
    made: Path,
    work: Work,
    *,
    fade_out: int = 0,
    loudness: float | None = None,
) -> Mixed:
    """Mix the sounds to `made`, a W64 file in the work directory with exactly `samples` of 48 kHz stereo, at least one.

    The mix fades out over its last `fade_out` samples. Its true peaks stay below −1 dBTP, also after AAC. `loudness` is
    the integrated loudness that it gets, in LUFS.

    Raises AssetInvalid, with the sound's name, for one that cannot be decoded, JobTimeout, EncodeFailed,
    WorkerDiskFull and the reason of `work.stop`.
    """
    heard = sorted((s for s in sounds if s.at < samples and s.samples > 0), key=lambda sound: sound.at)
    ducks = any(sound.ducked for sound in heard) and any(sound.keys for sound in heard)
    summed = _Sum(samples, 3 if ducks else 1, work)
    *first, last = _layers(heard) or [[]]
    below: Path | None = None
    for number, layer in enumerate(first):
        below = summed.to_file(layer, below, work.directory / f"{made.stem}-{number}.f32")
    source = ["-protocol_whitelist", "pipe", "-format_whitelist", "f32le", "-f", "f32le", "-ar", str(filters.RATE)]
    source += ["-channel_layout", _LAYOUTS[summed.buses], "-i", "pipe:0"]
    graph = _graph(summed.buses, samples, fade_out)
    feed = summed.blocks(last, below)
    if loudness is None:
        _encode([*source, *_finished(graph, filters.TRUE_PEAK_LIMITER, samples)], made, samples, work, feed)
        return summed.found()
    whole = made.with_name(f"{made.stem}-whole.w64")
    mixing = replace(work, progress=lambda share: work.progress(_MIXED * share))
    _encode([*source, *_finished(graph, "anull", samples)], whole, samples, mixing, feed)
    again = [*ffmpeg.INPUT_LIMITS, "-i", str(whole)]
    gain = filters.gain(measure.loudness_lufs(again, f"[0:a]{measure.METER}[sound]", work), loudness)
    ending = replace(work, progress=lambda share: work.progress(_MIXED + (1 - _MIXED) * share))
    _encode([*again, *_finished("[0:a]", gain, samples)], made, samples, ending)
    whole.unlink()
    return summed.found()


class _Sum:
    """The sum of sounds, block by block, and what is wrong with them."""

    def __init__(self, samples: int, buses: int, work: Work) -> None:
        self.buses = buses
        self._warnings: list[str] = []
        self._errors = 0
        self._samples, self._work = samples, work

    def blocks(self, sounds: Sequence[Sound], below: Path | None) -> Generator[bytes, None, None]:
        """The raw sum, on all buses, of `sounds` that are sorted and of the file `below`, which is removed then."""
        pending, voices = deque(sounds), list[Voice]()
        with ExitStack() as opened:
            opened.callback(_close, voices)
            under = opened.enter_context(below.open("rb")) if below else None
            for start in range(0, self._samples, _BLOCK):
                self._work.stop.check()
                block = self._block(min(_BLOCK, self._samples - start), under)
                voices[:] = [voice for voice in voices if self._add(voice, block, start)]
                while pending and (pending[0].at < start + len(block) or len(voices) < _AHEAD):
                    voices.append(Voice(pending.popleft(), self._work))
                    if not self._add(voices[-1], block, start):
                        voices.pop()
                yield block.tobytes()
            for voice in voices:
                self._end(voice)
        if below:
            below.unlink()

    def found(self) -> Mixed:
        """What is wrong with the sounds, once all of them were added."""
        return Mixed(tuple(self._warnings), self._errors)

    def to_file(self, sounds: Sequence[Sound], below: Path | None, made: Path) -> Path:
        """Write `blocks` to a file."""
        with made.open("wb") as file:
            for block in self.blocks(sounds, below):
                file.write(block)
        return made

    def _block(self, count: int, under: BinaryIO | None) -> Block:
        if under is None:
            return np.zeros((count, 2 * self.buses), np.float32)
        return np.fromfile(under, np.float32, count * 2 * self.buses).reshape(count, -1)

    def _add(self, voice: Voice, block: Block, start: int) -> bool:
        """Add what is heard of a voice to a block; False where that was all of it."""
        sound = voice.sound
        offset = max(0, sound.at - start)
        wave = voice.take(len(block) - offset)
        bus = 0 if self.buses == 1 else _QUIETER if sound.ducked else _LOUDER if sound.keys else _OTHERS
        block[offset : offset + len(wave), 2 * bus : 2 * bus + 2] += wave
        if voice.ended:
            self._end(voice)
        return not voice.ended

    def _end(self, voice: Voice) -> None:
        voice.close()
        self._errors += voice.errors
        if not voice.taken and (voice.errors or (voice.sound.stream.duration_s or 0) > voice.sound.skip_s):
            raise AssetInvalid(f"{voice.sound.name}: the file's sound cannot be decoded.")
        if voice.errors:
            self._warnings.append(f"{voice.sound.name}: parts of the sound could not be decoded")
        elif not voice.taken:
            self._warnings.append(f"{voice.sound.name}: nothing is heard of its sound, which has ended before")


def _close(voices: Iterable[Voice]) -> None:
    for voice in voices:
        voice.close()


def _layers(sounds: Iterable[Sound]) -> list[list[Sound]]:
    """The sounds in groups of which at most _AT_ONCE are heard at a time."""
    layers: list[list[Sound]] = []
    ends: list[list[int]] = []  # of each layer's sounds that are still heard, as heaps
    for sound in sounds:
        for heap in ends:
            while heap and heap[0] <= sound.at:
                heappop(heap)
        number = next((number for number, heap in enumerate(ends) if len(heap) < _AT_ONCE), len(ends))
        if number == len(ends):
            layers.append([])
            ends.append([])
        layers[number].append(sound)
        heappush(ends[number], sound.end)
    return layers


def _graph(buses: int, samples: int, fade_out: int) -> str:
    """The beginning of the filter graph: from the raw buses to one sound, to which a filter can be appended."""
    fade = f"afade=type=out:start_sample={samples - fade_out}:nb_samples={fade_out}," if fade_out else ""
    if buses == 1:
        return f"[0:a]{fade}"
    names = ["others", "quieter", "louder"]
    parts = ["[0:a]asplit=3" + "".join(f"[all{bus}]" for bus in range(buses))]
    parts += [f"[all{i}]channelmap={2 * i}|{2 * i + 1}:stereo[{name}]" for i, name in enumerate(names)]
    parts += filters.duck("quieter", "louder", samples)
    return ";".join([*parts, f"[others][quieter][louder]amix=inputs=3:duration=first:normalize=0,{fade}"])


def _finished(graph: str, finish: str, samples: int) -> list[str]:
    return ["-filter_complex", f"{graph}{finish},{filters.fit(samples)}[sound]", "-map", "[sound]"]


def _encode(arguments: list[str], made: Path, samples: int, work: Work, feed: Iterable[bytes] | None = None) -> None:
    limits = replace(work.limits, max_output_bytes=SAMPLE_BYTES * samples + _HEADER_BYTES)
    # W64 pads its content to 8 bytes, which players may take for samples: one sample of floats has 8
    command = [*arguments, "-c:a", predecode.CODEC, "-f", "w64", made.name]
    ffmpeg.encode(command, replace(work, limits=limits), length_s=samples / filters.RATE, feed=feed, made=made)
