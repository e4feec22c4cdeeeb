"""One of the sounds of a mix, while it is decoded by an FFmpeg of its own and shaped."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.engine import ffmpeg, process
from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.mixing import filters
from ffmpeg_ops.operation import Work
from wire import sniffing
from wire.errors import AssetInvalid, EncodeFailed

Wave = NDArray[np.float32]  # 48 kHz stereo: a row of two for every sample

SAMPLE_BYTES = 8
_DECODE = ("ffmpeg", "-hide_banner", "-nostdin", "-v", "repeat+level+error")
_BLOCK_BYTES = filters.RATE * SAMPLE_BYTES
_KEPT = 20 * filters.RATE  # samples of a round that are kept for the next ones
# These containers have an index, so that FFmpeg finds a packet before the moment that is sought.
_INDEXED = frozenset({sniffing.MP4, sniffing.MATROSKA})
_WORTH_SEEKING_S, _EARLY_S = 5.0, 1.0  # decoders need some packets before they make the right sound


@dataclass(frozen=True)
class Sound:
    """A sound, and how it is heard in the mix. All samples are counted at 48 kHz."""

    #: The file.
    path: Path
    #: The stream that is heard; `start_s` counts from the start of the file, or with `zero_s` is its timestamp.
    stream: AudioStream
    #: The param that names it, for errors and warnings.
    name: str
    #: The sample of the mix at which it begins.
    at: int
    #: How many samples it may last at most. Where it is shorter, silence follows.
    samples: int
    #: How many seconds of its beginning are left out.
    skip_s: float = 0.0
    #: The timestamp in the file from which `skip_s` counts, such as that of the first video frame. By default the sound
    #: counts from its own beginning, whatever its timestamps are.
    zero_s: float | None = None
    #: What its samples are multiplied with.
    volume: float = 1.0
    #: Whether it is repeated until `samples`, always from `skip_s` on.
    loop: bool = False
    #: How long one repetition is, in samples: cut, or followed by silence. By default as long as the sound.
    loop_samples: int | None = None
    #: Over how many samples it fades in.
    fade_in: int = 0
    #: Over how many samples it fades out before it ends or is cut. They are held in memory.
    fade_out: int = 0
    #: Whether it is lowered while a sound with `keys` is heard. Not together with `keys`.
    ducked: bool = False
    #: Whether it lowers sounds that are `ducked`.
    keys: bool = False

    @property
    def end(self) -> int:
        """The sample of the mix before which it has ended."""
        return self.at + self.samples


class Voice:
    """A sound that is being read. It holds a running FFmpeg until it is closed."""

    def __init__(self, sound: Sound, work: Work) -> None:
        self.sound = sound
        #: How many parts of it could not be decoded, as far as it was read.
        self.errors = 0
        #: How many of its samples have been taken.
        self.taken = 0
        #: Whether no more samples follow.
        self.ended = False
        self._work = work
        self._running = ExitStack()
        self._rest: Wave = np.empty((0, 2), np.float32)
        self._waves = self._shaped(self._running.enter_context(self._read()))

    def take(self, count: int) -> Wave:
        """The next samples, fewer than `count` only where the sound ends.

        Raises AssetInvalid, with the sound's name, for one that cannot be decoded, JobTimeout and the reason of
        `work.stop`.
        """
        parts: list[Wave] = []
        while count > 0 and not self.ended:
            if not len(self._rest):
                self._rest = next(self._waves, self._rest)
                if not len(self._rest):
                    self.ended = True
                    break
            part, self._rest = self._rest[:count], self._rest[count:]
            parts.append(part)
            count -= len(part)
            self.taken += len(part)
            self.ended = self.taken >= self.sound.samples
        return np.concatenate(parts) if parts else np.empty((0, 2), np.float32)

    def close(self) -> None:
        """End the FFmpeg."""
        self._waves.close()
        self._running.close()

    def _read(self) -> AbstractContextManager[Iterator[bytes]]:
        return process.read(
            command(self.sound),
            self._work,
            block_bytes=_BLOCK_BYTES,
            timeout_s=self._work.limits.timeout_s,
            on_error=self._on_error,
        )

    def _on_error(self, line: str) -> None:
        self.errors += ffmpeg.is_decode_error(line)

    def _shaped(self, blocks: Iterator[bytes]) -> Generator[Wave, None, None]:
        sound = self.sound
        waves: Iterable[Wave] = self._decoded(blocks)
        if sound.loop:
            waves = self._repeated(waves)
        waves = _first(waves, sound.samples)
        if sound.fade_in:
            waves = _faded_in(waves, min(sound.fade_in, sound.samples))
        if sound.fade_out:
            waves = _faded_out(waves, min(sound.fade_out, sound.samples))
        for wave in waves:
            yield wave * np.float32(sound.volume)

    def _decoded(self, blocks: Iterator[bytes]) -> Iterator[Wave]:
        """One round of the sound. Raises AssetInvalid or EncodeFailed."""
        name, skipped = self.sound.name, 0 if self.sound.zero_s is not None else round(self.sound.skip_s * filters.RATE)
        try:
            for block in blocks:
                wave = np.frombuffer(block[: len(block) // SAMPLE_BYTES * SAMPLE_BYTES], np.float32).reshape(-1, 2)
                if not np.isfinite(wave).all():
                    raise AssetInvalid(f"{name}: the file is damaged: its sound has values that are no numbers.")
                if len(wave) > skipped:
                    yield wave[skipped:]
                skipped = max(0, skipped - len(wave))
        except EncodeFailed as error:
            failure = ffmpeg.failure(error.detail or "", self.errors)
            if isinstance(failure, AssetInvalid):
                raise AssetInvalid(f"{name}: the file's sound cannot be decoded.", detail=failure.detail) from error
            raise failure from error

    def _repeated(self, waves: Iterable[Wave]) -> Iterator[Wave]:
        """The sound again and again: from memory where it is short, else decoded anew."""
        kept: list[Wave] = []
        length = 0
        for wave in _fitted(waves, self.sound.loop_samples):
            length += len(wave)
            kept = [*kept, wave] if length <= _KEPT else []
            yield wave
        self._running.close()
        if kept:
            whole = np.concatenate(kept)
            yield from repeat(np.tile(whole, (-(-filters.RATE // len(whole)), 1)))
        while length:
            with self._read() as blocks:
                yield from _fitted(self._decoded(blocks), self.sound.loop_samples)


def command(sound: Sound) -> list[str]:
    """FFmpeg's command that writes a sound's samples to standard output; without `zero_s` with those to skip."""
    seek, chain = list[str](), filters.from_its_start(sound.stream)
    if sound.zero_s is not None:
        origin_s = sound.zero_s + sound.skip_s
        chain = filters.from_timestamp(sound.stream, origin_s)
        seek = [*_seek(sound), "-copyts"]
    return [
        *[*_DECODE, *ffmpeg.INPUT_LIMITS, *seek, "-i", str(sound.path), "-map", f"0:{sound.stream.index}"],
        *["-af", f"{chain},aformat=sample_fmts=flt", "-c:a", "pcm_f32le", *ffmpeg.OUTPUT_LIMITS],
        *["-f", "f32le", "pipe:1"],
    ]


def _seek(sound: Sound) -> list[str]:
    """Options of the input that begin to read somewhat before what is heard, where FFmpeg finds that place."""
    if sound.zero_s is None or sound.skip_s < _WORTH_SEEKING_S or sniffing.sniff_file(sound.path) not in _INDEXED:
        return []
    position_s = sound.zero_s + sound.skip_s - _EARLY_S
    return ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", f"{position_s:.6f}"]


def _first(waves: Iterable[Wave], count: int) -> Iterator[Wave]:
    """The first `count` samples."""
    for wave in waves:
        yield wave[:count]
        count -= len(wave)
        if count <= 0:
            return


def _fitted(waves: Iterable[Wave], count: int | None) -> Iterator[Wave]:
    """Exactly `count` samples, of which the last are silent where there are fewer; all of them for None."""
    left = count or 0
    for wave in waves if count is None else _first(waves, count):
        left -= len(wave)
        yield wave
    if left > 0:
        yield np.zeros((left, 2), np.float32)


def _faded_in(waves: Iterable[Wave], count: int) -> Iterator[Wave]:
    position = 0
    for wave in waves:
        ramp = np.arange(position, position + len(wave), dtype=np.float32) / np.float32(count)
        yield wave * np.minimum(1, ramp)[:, None]
        position += len(wave)


def _faded_out(waves: Iterable[Wave], count: int) -> Iterator[Wave]:
    """Hold back the last `count` samples, because only the end of a sound shows when it has to begin to fade."""
    held: Wave = np.empty((0, 2), np.float32)
    for wave in waves:
        held = np.concatenate([held, wave])
        if len(held) > count:
            yield held[:-count]
            held = held[-count:]
    ramp = np.arange(len(held), 0, -1, dtype=np.float32) / np.float32(max(1, len(held)))
    yield held * ramp[:, None]
