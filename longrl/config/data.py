"""Settings of the stages that make the dataset, from the files of videos to the splits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from longrl.config.base import Effort, Settings, Share


class StoriesSettings(Settings):
    """The rendered corpus that stands in when no videos are given."""

    count: int = Field(720, ge=4, description="Number of stories to render, one H.264 file each.")
    scenes: int = Field(6, ge=2, le=6, description="Scenes of a story, ten seconds and one agent each.")
    sound: bool = Field(False, description="Give the stories a sound track: a sound for each agent, low or high.")
    workers: int = Effort(2, ge=1, description="Rendering processes.")


class IngestSettings(Settings):
    """Finding, naming and probing the video files."""

    extensions: tuple[str, ...] = Field(
        (".mp4", ".mkv", ".webm", ".mov", ".avi"), description="File name endings taken as videos."
    )
    minimum_frames: int = Field(2, ge=1, description="Videos with fewer decodable frames are quarantined.")
    workers: int = Effort(2, ge=1, description="Probing processes.")


class SegmentSettings(Settings):
    """Cutting videos into clips."""

    mode: Literal["fixed", "scene"] = Field("fixed", description="Clips of one length, or clips that end at cuts.")
    clip_seconds: float = Field(10.0, gt=0.0, description="Mode `fixed`: length of a clip in seconds.")
    minimum_tail: float = Field(
        2.0, ge=0.0, description="Mode `fixed`: a last clip shorter than this (seconds) joins the one before."
    )
    detector: Literal["adaptive", "content"] = Field(
        "adaptive", description="Mode `scene`: PySceneDetect's detector; `adaptive` is steadier where the camera moves."
    )
    threshold: float | None = Field(
        None, gt=0.0, description="Mode `scene`: change that makes a cut, in the detector's units; empty: its default."
    )
    shortest: float = Field(2.0, gt=0.0, description="Mode `scene`: a shorter scene (seconds) joins a neighbour.")
    longest: float = Field(10.0, gt=0.0, description="Mode `scene`: a longer scene (seconds) is split evenly.")
    motion: Literal["off", "score_only", "enable"] = Field(
        "off", description="Score the motion of clips, and with `enable` also reject those below `minimum_motion`."
    )
    minimum_motion: float = Field(
        2.0, ge=0.0, description="Mean change of a pixel per second (0-255) that a clip needs with motion `enable`."
    )
    frames_per_second: float = Field(5.0, gt=0.0, description="Frames looked at for cuts and motion.")
    size: int = Field(96, ge=28, description="Longer side, in pixels, of the frames looked at for cuts and motion.")
    workers: int = Effort(2, ge=1, description="Processes that look for cuts and motion.")

    @model_validator(mode="after")
    def _room_to_split(self) -> SegmentSettings:
        if self.longest < 2 * self.shortest:
            raise ValueError("segment.longest must be at least twice segment.shortest, or long scenes can't be split")
        return self


Language = Literal["", "English", "French", "German", "Spanish", "Russian", "Greek", "Arabic", "Hindi", "Chinese",
                   "Japanese", "Korean"]  # fmt: skip


class TeacherServer(Settings):
    """An OpenAI-compatible server (vLLM, DeepSeek, OpenAI, ...). The key is read from the environment, never stored."""

    base_url: str = Field("http://127.0.0.1:8000/v1", description="Address of the server, up to and including /v1.")
    model: str = Field("", description="Model name; empty takes the server's first model.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key.")
    api_key_secret: str = Effort("", description="Prefect Secret block to take the key from instead; empty takes none.")
    concurrency: int = Effort(8, ge=1, description="Requests in flight.")
    timeout: float = Effort(120.0, gt=0.0, description="Seconds until a request is given up and retried.")
    retries: int = Effort(4, ge=0, description="Retries of a request after 429, 5xx, a timeout or a lost connection.")
    max_tokens: int = Field(1024, ge=16, description="Longest answer in tokens.")
    temperature: float = Field(0.0, ge=0.0, description="Sampling temperature.")
    context: int = Field(
        32768, ge=0, description="The model's context in tokens; 0 asks the server (`max_model_len` of vLLM's /models)."
    )
    language: Language = Field(
        "English", description="Language to be written; an answer in another script is rejected. Empty: any."
    )
    price_input: float = Effort(0.0, ge=0.0, description="Price of a million prompt tokens, in any currency.")
    price_output: float = Effort(0.0, ge=0.0, description="Price of a million answer tokens, in the same currency.")


class CaptionSettings(Settings):
    """Describing each clip."""

    teacher: Literal["measured", "openai"] = Field("measured", description="Who captions the clips.")
    frames_per_clip: int = Field(20, ge=2, description="Frames sampled from a clip for its caption.")
    size: int = Field(112, ge=28, description="Longer side, in pixels, of the frames the teacher sees.")
    send: Literal["images", "video"] = Field(
        "images", description="Teacher `openai`: send the frames as pictures, each after its time, or as one mp4."
    )
    listen: bool = Field(
        False, description="Teacher `measured`: also measure the sound track; clips of videos without one are rejects."
    )
    boxes: bool = Field(False, description="Teacher `openai`: also ask for objects with their boxes and times.")
    mode: Literal["live", "batch"] = Effort(
        "live", description="Teacher `openai`: request by request, or as files of requests (OpenAI's batch API)."
    )
    server: TeacherServer = Field(default_factory=TeacherServer, description="The server behind teacher `openai`.")
    workers: int = Effort(2, ge=1, description="Decoding and measuring processes.")


class ReasonSettings(Settings):
    """Writing questions with a chain of thought over all captions of a video."""

    teacher: Literal["measured", "openai"] = Field("measured", description="Who writes the questions.")
    questions_per_video: int = Field(6, ge=1, description="Questions asked of each video, spread over the categories.")
    open_share: Share = Field(0.0, description="Teacher `openai`: share of open questions, answered in words.")
    rewrite: bool = Field(
        True, description="Teacher `openai`: have each reasoning rewritten so that it speaks of the video alone."
    )
    mode: Literal["live", "batch"] = Effort(
        "live", description="Teacher `openai`: request by request, or as files of requests (OpenAI's batch API)."
    )
    server: TeacherServer = Field(default_factory=TeacherServer, description="The server behind teacher `openai`.")


class VerifySettings(Settings):
    """Asking a model about the questions before they are curated; left out while both checks are off."""

    blind_samples: int = Field(
        0, ge=0, description="Times a text-only model answers each question without the video; 0: no blind check."
    )
    judge: bool = Field(False, description="Let a model judge each question against the captions.")
    server: TeacherServer = Field(
        default_factory=lambda: TeacherServer(temperature=0.7), description="The server that answers and judges."
    )


class CurateSettings(Settings):
    """Filtering questions in DuckDB and splitting them by video."""

    disabled_rules: tuple[str, ...] = Field((), description="Names of rules in longrl/data/rules/ to leave out.")
    benchmarks: tuple[str, ...] = Field(
        (),
        description="Benchmark files (json, jsonl, parquet, csv) whose videos and questions must not be in the data.",
    )
    benchmark_ngram: int = Field(13, ge=1, description="Words of the n-grams compared with benchmark questions.")
    benchmark_share: float = Field(
        0.5, gt=0.0, le=1.0, description="Share of a question's n-grams found in benchmarks from which it is dropped."
    )
    blind_threshold: float = Field(
        0.8, gt=0.0, le=1.0, description="Share of blind answers that are right from which a question is dropped."
    )
    near_duplicate_threshold: float = Field(
        0.9, gt=0.0, le=1.0, description="Jaccard similarity of five-word shingles from which items are duplicates."
    )
    embedding_threshold: float = Field(
        0.0, ge=0.0, le=1.0, description="Cosine of embeddings from which texts are duplicates; 0: no embeddings."
    )
    server: TeacherServer = Field(
        default_factory=TeacherServer, description="The server behind `embedding_threshold` (/v1/embeddings)."
    )
    category_cap: int = Field(0, ge=0, description="Most questions of one category; 0: no cap.")
    sft_share: Share = Field(0.6, description="Share of videos whose questions go to SFT.")
    eval_share: Share = Field(0.1, description="Share of videos held out for evaluation; the rest goes to RL.")
    memory_mib: int = Effort(512, ge=128, description="Memory of DuckDB, in MiB; what exceeds it goes to disk.")
    threads: int = Effort(2, ge=1, description="Threads of DuckDB.")


class ImportSettings(Settings):
    """Questions that somebody wrote elsewhere; they take the place of reason and curate."""

    path: str = Field("", description="File or folder of the dataset; empty: questions are written here.")
    format: Literal["huggingface", "llava", "longvideo-reason", "video-r1"] = Field(
        "huggingface", description="What the dataset is written as."
    )
    split: Literal["sft", "rl", "eval"] = Field(
        "sft", description="Split of rows that neither they nor their file name."
    )
    category: Literal["", "temporal", "goal", "spatial", "plot", "sound", "general"] = Field(
        "",
        description="Category of rows that name none; empty: those of videos are rejects, others general.",
    )
