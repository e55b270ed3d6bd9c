"""One video: file in, three feature tracks and utterances out.

    tools = Extractors(PipelineSettings())
    analysis = tools.analyse(Path("clip.mp4"))
    analysis.tracks["visual"], analysis.words, analysis.clips, analysis.reasons

Missing modalities are reasons and masks, never exceptions; exceptions are files that cannot be used at all.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.clip import Clip, Word, words_to_text
from data.errors import InputError, ToolError
from data.spec import FeatureSpec, Modality
from data.track import FeatureTrack
from extractors.acoustic import acoustic_spec, covarep_features
from extractors.frame import Frame
from extractors.media import SPEECH_RATE_HZ, Audio, Limits, MediaInfo, decode_audio, probe, read_frames
from extractors.weights import sha256_file
from pipeline.events import Event, Notify, ignore
from pipeline.parts import AcousticPart, FacialPart, Loudness, SpeechPart
from pipeline.settings import PipelineSettings
from pipeline.utterances import Utterance, WordTimes, cut_utterances, mask_outside, speech_blocks

Stage = Literal["text", "acoustic", "facial"]

TRUNCATED_S = 0.75  # declared length minus decoded length beyond which a file counts as cut short
ENERGY_RATE_HZ = 25  # of the loudness curve that "--face speaker" compares mouths with
UNDECODABLE = ("audio_unreadable", "ffmpeg_timeout", "video_timeout")  # tool errors that only mask a modality


@dataclass(frozen=True)
class Analysis:
    """Everything the extractors found in one file. Reasons are codes: no_audio, silence, no_speech, no_words, no_video,
    no_face, truncated, audio_damaged, audio_unreadable, ffmpeg_timeout, video_timeout."""

    info: MediaInfo
    sha256: str
    duration_s: float
    words: tuple[Word, ...]
    tracks: dict[Modality, FeatureTrack]
    blendshapes: FeatureTrack | None
    faces: tuple[FeatureTrack, ...]
    utterances: tuple[Utterance, ...]
    clips: tuple[Clip, ...]
    reasons: tuple[str, ...]

    @property
    def outcome(self) -> str:
        return "partial" if self.reasons else "ok"


@dataclass(frozen=True)
class Sound:
    """A file's decoded sound, or None; ``reasons`` says why it is missing or damaged."""

    audio: Audio | None
    reasons: tuple[str, ...]


class Extractors:
    """The three extractors with their weights, loaded once per process and used for any number of files."""

    def __init__(self, settings: PipelineSettings) -> None:
        self.settings = settings
        self.limits = Limits(max_duration_s=settings.max_duration_s)

    def prepare(self, only: Stage | None = None) -> None:
        """Check what can be checked before the first file: device, weights, vectors, or what one stage needs of them.
        Raises LambError."""
        from extractors.speech import locate

        if only in (None, "text"):
            _ = self.vectors
            locate(self.speech_settings)
        if only in (None, "facial"):
            from extractors.facial import check_backend

            check_backend(self.face_settings)

    @cached_property
    def vectors(self) -> Any:
        from extractors.embedding import EmbeddingSettings, WordVectors

        path = self.settings.vectors_path or self.settings.weights.get(self.settings.vectors)
        return WordVectors.open(EmbeddingSettings(name=self.settings.vectors, path=path))

    @cached_property
    def face_settings(self) -> Any:
        from extractors.facial import FaceSettings

        return FaceSettings(
            backend=self.settings.face_backend,
            follow=self.settings.face,
            landmarker_path=self.settings.weights.get("face-landmarker"),
            emotions_path=self.settings.weights.get("facial-emotions"),
            pyfeat_path=self.settings.weights.get(self.settings.face_backend),
            device=self.settings.compute_device if self.settings.face_backend.startswith("py-feat") else "cpu",
            threads=self.settings.threads,
        )

    @cached_property
    def speech_settings(self) -> Any:
        from extractors.speech import SpeechSettings

        return SpeechSettings(
            engine=self.settings.asr_engine,
            model=self.settings.asr_model,
            model_dir=self.settings.asr_model_dir or self.settings.weights.get(f"whisper-{self.settings.asr_model}"),
            language=self.settings.language,
            threads=self.settings.threads,
            device=self.settings.compute_device,
        )

    @cached_property
    def specs(self) -> dict[Modality, FeatureSpec]:
        """What the tracks of these settings will be, known before any file is read."""
        from extractors.embedding import text_spec
        from extractors.facial import facial_spec

        return {
            "text": text_spec(self.vectors),
            "audio": acoustic_spec(self.settings.acoustic_mode),
            "visual": facial_spec(self.face_settings),
        }

    def analyse(self, path: Path, notify: Notify = ignore) -> Analysis:
        """Extract all tracks of one file and cut it into clips.

        Raises InputError (see ``extractors.media.probe``; ``no_content`` where nothing can be decoded at all) and
        WeightsError.
        """
        info, digest = self.open(path, notify)
        with self.sound(info) as sound:
            speech = self.speech(sound, info, notify)
            acoustic = self.acoustic(sound, info, notify)
        facial = self.facial(info, speech.loudness, notify)
        return self.assemble(path, info, digest, speech, acoustic, facial)

    def extract_one(self, stage: Stage, path: Path, notify: Notify = ignore) -> Analysis:
        """One track of a file, whole and without the others: no utterances, and the acoustic one also where nobody speaks.

        Raises InputError as :meth:`analyse` does.
        """
        info, digest = self.open(path, notify)
        if stage == "facial":
            return self.assemble_one(info, digest, self.facial(info, None, notify))
        with self.sound(info) as sound:
            part = self.acoustic(sound, info, notify) if stage == "acoustic" else self.speech(sound, info, notify)
        return self.assemble_one(info, digest, part)

    # ---- stages: each reads the file for itself and waits for no other ---------------------------------------------------

    def open(self, path: Path, notify: Notify = ignore) -> tuple[MediaInfo, str]:
        """What the file holds and its content's sha256 (hex). Raises InputError (see ``extractors.media.probe``)."""
        info = probe(path, self.limits)
        digest = sha256_file(info.path)
        notify(Event(path.name, "probe", 1.0, f"{info.duration_s:.1f} s"))
        return info, digest

    @contextlib.contextmanager
    def sound(self, info: MediaInfo, only: Literal["speech", "native"] | None = None) -> Iterator[Sound]:
        """The file's decoded sound, or why there is none; ``only`` decodes it at one of the two rates alone.

        Its native samples are what the acoustic mode measures: ``compat`` takes the first channel, as the original does.
        """
        if not info.has_audio:
            yield Sound(None, ("no_audio",))
            return
        with contextlib.ExitStack() as stack:
            try:
                first = self.settings.acoustic_mode == "compat"
                decoded = stack.enter_context(decode_audio(info, self.limits, only, native_first_channel=first))
            except ToolError as error:
                if error.code not in UNDECODABLE:
                    raise
                yield Sound(None, (error.code,))
                return
            wanted = {"speech": decoded.speech_16k, "native": decoded.native}
            if not all(len(samples) for name, samples in wanted.items() if only in (None, name)):
                yield Sound(None, ("no_audio",))
            else:
                yield Sound(decoded, ("audio_damaged",) if decoded.damaged else ())

    def speech(self, sound: Sound, info: MediaInfo, notify: Notify = ignore) -> SpeechPart:
        """Words, voice activity and loudness of a file's sound at 16 kHz. Raises WeightsError."""
        from extractors.speech import transcribe

        if sound.audio is None:
            return SpeechPart(reasons=sound.reasons)
        name, samples = info.path.name, sound.audio.speech_16k
        transcript = transcribe(samples, self.speech_settings, on_progress=_step(name, "speech", notify))
        notify(Event(name, "speech", 1.0, f"{len(transcript.words)} words"))
        return SpeechPart(transcript.words, transcript.segments, _loudness(samples), sound.reasons)

    def speech_of_many(self, sounds: Sequence[Sound]) -> list[SpeechPart]:
        """:meth:`speech` of several files in common batches, for a GPU."""
        from extractors.speech import transcribe_many

        heard = [sound.audio.speech_16k for sound in sounds if sound.audio is not None]
        transcripts = iter(transcribe_many(heard, self.speech_settings))
        parts = []
        for sound in sounds:
            if sound.audio is None:
                parts.append(SpeechPart(reasons=sound.reasons))
            else:
                found = next(transcripts)
                parts.append(SpeechPart(found.words, found.segments, _loudness(sound.audio.speech_16k), sound.reasons))
        return parts

    def acoustic(self, sound: Sound, info: MediaInfo, notify: Notify = ignore) -> AcousticPart:
        """The acoustic columns of a file's sound at its native rate."""
        mode, name = self.settings.acoustic_mode, info.path.name
        if sound.audio is None:
            return AcousticPart(FeatureTrack.empty(acoustic_spec(mode), sound.reasons[-1]), sound.reasons)
        # Global quantities (polarity, F0 range, residual scale) need the whole file; utterances are slices of it.
        report = _step(name, "acoustic", notify)
        track = covarep_features(sound.audio.native, sound.audio.native_rate_hz, mode, on_progress=report)
        notify(Event(name, "acoustic", 1.0, f"{len(track)} steps"))
        return AcousticPart(track, sound.reasons)

    def facial(self, info: MediaInfo, loudness: Loudness | None, notify: Notify = ignore) -> FacialPart:
        """The facial columns of the whole file; ``loudness`` is what ``--face speaker`` compares mouths with.

        Raises WeightsError; ToolError where a library is missing.
        """
        from extractors.facial import extract_faces

        frames: Iterator[Frame] = iter(())
        if info.has_video:
            frames = read_frames(
                info, max_rate_hz=self.settings.max_rate_hz, limits=self.limits, threads=self.settings.threads
            )
        total_s = max(info.duration_s, 1e-3)
        report = _step(info.path.name, "facial", notify)
        look = functools.partial(
            extract_faces,
            settings=self.face_settings,
            speech_energy=loudness,
            on_progress=lambda end_s: report(end_s / total_s),
        )
        reasons: tuple[str, ...] = ()
        try:
            face = look(frames)
        except ToolError as error:
            if error.code not in UNDECODABLE:
                raise
            reasons, face = (error.code,), look(iter(()))
        else:
            if not len(face.track):
                reasons = ("no_video",)
            elif not face.track.observed:
                reasons = ("no_face",)
        notify(Event(info.path.name, "facial", 1.0, f"{face.n_faces} face(s), {len(face.track)} frames"))
        return FacialPart(face.track, face.blendshapes, face.faces, reasons)

    # ---- what the stages found, put together --------------------------------------------------------------------------

    def assemble(
        self, path: Path, info: MediaInfo, digest: str, speech: SpeechPart, acoustic: AcousticPart, facial: FacialPart
    ) -> Analysis:
        """Tracks, utterances and clips of one file from its three parts. Raises InputError (no_content)."""
        tracks, why = self.tracks_of(speech, acoustic, facial)
        reasons, audio = [*why], tracks["audio"]
        seen_s = max((float(t.end_s[-1]) for t in (audio, facial.track) if len(t)), default=0.0)
        if seen_s == 0.0:
            raise InputError(
                f"Expected sound or pictures but nothing in {str(path)!r} can be decoded.", code="no_content"
            )
        duration_s = info.duration_s or seen_s
        if duration_s - seen_s > TRUNCATED_S:
            reasons.append("truncated")
        elif seen_s - duration_s > TRUNCATED_S:  # the header says less than there is
            duration_s = seen_s
        anyone = _anyone(facial.track, facial.faces)
        utterances = cut_utterances(speech.segments, speech.words, anyone, self.settings)
        words = WordTimes(speech.words)
        clips = [
            self._clip(u, path, digest, _seen(tracks, visual), words, extra)
            for u in utterances
            for visual, extra in self._faces_in(u, facial)
        ]
        return Analysis(
            info=info,
            sha256=digest,
            duration_s=duration_s,
            words=speech.words,
            tracks=tracks,
            blendshapes=facial.blendshapes,
            faces=facial.faces,
            utterances=tuple(utterances),
            clips=tuple(clip for clip in clips if any(t.observed for t in clip.tracks.values())),
            reasons=tuple(reasons),
        )

    def tracks_of(
        self, speech: SpeechPart, acoustic: AcousticPart, facial: FacialPart
    ) -> tuple[dict[Modality, FeatureTrack], tuple[str, ...]]:
        """Tracks of a whole file from its three parts, the voice only where somebody speaks; and why something is missing."""
        from extractors.embedding import embed

        reasons = [*speech.reasons]
        if speech.heard:
            text, audio = embed(speech.words, self.vectors), acoustic.track
            if audio.reason:
                reasons.append(audio.reason)
            elif not speech.segments:
                reasons.append("no_speech")
            elif not speech.words:
                reasons.append("no_words")
            blocks = speech_blocks(speech.segments, speech.words, self.settings.merge_gap_s)
            audio = mask_outside(audio, blocks, self.settings.speech_margin_s)
        else:
            text, audio = (FeatureTrack.empty(self.specs[name], reasons[-1]) for name in ("text", "audio"))
        return {"text": text, "audio": audio, "visual": facial.track}, (*reasons, *facial.reasons)

    def assemble_one(self, info: MediaInfo, digest: str, part: SpeechPart | AcousticPart | FacialPart) -> Analysis:
        """One part alone as an Analysis without utterances."""
        from extractors.embedding import embed

        reasons, words = list(part.reasons), ()
        if isinstance(part, SpeechPart):
            words = part.words
            empty = None if part.heard else FeatureTrack.empty(self.specs["text"], reasons[-1])
            modality, track = "text", empty or embed(words, self.vectors)
            if part.heard and not words:
                reasons.append("no_words")
        elif isinstance(part, AcousticPart):
            modality, track = "audio", part.track
            if track.reason and track.reason not in reasons:
                reasons.append(track.reason)
        else:
            modality, track = "visual", part.track
        return Analysis(
            info=info,
            sha256=digest,
            duration_s=info.duration_s or (float(track.end_s[-1]) if len(track) else 0.0),
            words=words,
            tracks={modality: track},  # type: ignore[dict-item]
            blendshapes=part.blendshapes if isinstance(part, FacialPart) else None,
            faces=part.faces if isinstance(part, FacialPart) else (),
            utterances=(),
            clips=(),
            reasons=tuple(reasons),
        )

    def _faces_in(self, utterance: Utterance, face: FacialPart) -> list[tuple[FeatureTrack, dict[str, str]]]:
        """The followed face; with ``face="all"`` every face seen for long enough, numbered by prominence."""
        seen = [
            (track, {"face": str(number)})
            for number, track in enumerate(face.faces)
            if track.coverage(utterance.start_s, utterance.end_s) >= self.settings.min_face_coverage
        ]
        return seen or [(face.track, {})]

    def _clip(
        self,
        utterance: Utterance,
        path: Path,
        digest: str,
        tracks: dict[Modality, FeatureTrack],
        words: WordTimes,
        extra: dict[str, str],
    ) -> Clip:
        start_s, end_s = utterance.start_s, utterance.end_s
        cut: dict[Modality, FeatureTrack] = {name: track.slice(start_s, end_s) for name, track in tracks.items()}
        if not utterance.spoken:  # the margin around a neighbour's speech is not this window's voice
            cut["audio"] = mask_outside(cut["audio"], [], 0.0)
        return Clip(
            id=":".join(
                [digest[:16], f"{start_s:.3f}-{end_s:.3f}", *(f"{key}{value}" for key, value in extra.items())]
            ),
            source=str(path),
            start_s=start_s,
            end_s=end_s,
            tracks=cut,
            text=words_to_text(words.within(start_s, end_s)),
            extra=extra,
        )


def _seen(tracks: dict[Modality, FeatureTrack], visual: FeatureTrack) -> dict[Modality, FeatureTrack]:
    return {**tracks, "visual": visual}


def _anyone(track: FeatureTrack, faces: tuple[FeatureTrack, ...]) -> FeatureTrack:
    """A track that is valid wherever any face is seen (its values are the followed face's, or 0)."""
    if not faces:
        return track
    valid = np.logical_or.reduce([track.valid, *(face.valid for face in faces)])
    return FeatureTrack(track.values, track.start_s, track.end_s, valid, track.spec, track.reason)


def _loudness(samples: np.ndarray) -> Loudness:
    hop = SPEECH_RATE_HZ // ENERGY_RATE_HZ
    n_steps = len(samples) // hop
    frames = np.asarray(samples[: n_steps * hop]).reshape(n_steps, hop)
    return (np.arange(n_steps) + 0.5) / ENERGY_RATE_HZ, np.sqrt(np.mean(frames.astype(np.float32) ** 2, axis=1))


def _step(name: str, stage: str, notify: Notify) -> Callable[[float], None]:
    return lambda fraction: notify(Event(name, stage, min(fraction, 0.99)))
