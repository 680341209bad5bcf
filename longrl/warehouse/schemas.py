"""The tables that cross a stage border, as pandera schemas checked on write and on read.

Times are seconds from the start of the video, sizes are pixels as displayed (after rotation).
"""

from __future__ import annotations

from collections.abc import Mapping

import pandera.polars as pa
import polars as pl

from longrl.errors import LongrlError


class SchemaError(LongrlError):
    """A table is not what its stage promises; the message names the column, the check and some offending values."""


CATEGORY = pa.Check.isin(["temporal", "goal", "spatial", "plot", "sound"])
ANY_CATEGORY = pa.Check.isin(["temporal", "goal", "spatial", "plot", "sound", "general"])  # general: of no video
SPLIT = pa.Check.isin(["sft", "rl", "eval"])


def column(dtype, *checks, unique: bool = False, nullable: bool = False, required: bool = True) -> pa.Column:
    return pa.Column(dtype, list(checks), unique=unique, nullable=nullable, required=required)


VIDEOS = {
    "video_id": column(pl.String, pa.Check.str_length(64, 64), unique=True),  # sha256 of the file's bytes
    "path": column(pl.String),
    "bytes": column(pl.Int64, pa.Check.gt(0)),
    "container": column(pl.String),
    "codec": column(pl.String),
    "duration": column(pl.Float64, pa.Check.gt(0)),
    "fps": column(pl.Float64, pa.Check.gt(0)),  # average frames per second
    "frames": column(pl.Int64, pa.Check.gt(0)),  # decodable frames
    "width": column(pl.Int64, pa.Check.gt(0)),
    "height": column(pl.Int64, pa.Check.gt(0)),
    "rotation": column(pl.Int64),  # degrees, as stored in the file
    "variable_rate": column(pl.Boolean),
    "audio": column(pl.Boolean),
}

SPANS = {
    "clip_id": column(pl.String, unique=True),
    "video_id": column(pl.String),
    "index": column(pl.Int64, pa.Check.ge(0)),  # 0, 1, ... in the order of time
    "start": column(pl.Float64, pa.Check.ge(0)),
    "end": column(pl.Float64, pa.Check.gt(0)),
}

CLIPS = SPANS | {
    "motion": column(pl.Float64, pa.Check.ge(0), nullable=True),  # mean change of a pixel per second, 0-255; null: off
}

CAPTIONS = SPANS | {
    "caption": column(pl.String, pa.Check.str_length(min_value=1)),
    "facts": column(pl.String),  # JSON of what the teacher measured; "{}" where it only wrote text
    "teacher": column(pl.String),
}

QUESTIONS = {
    "question_id": column(pl.String, unique=True),
    "video_id": column(pl.String),
    "category": column(pl.String, CATEGORY),
    "kind": column(pl.String, pa.Check.isin(["choice", "open"])),
    "question": column(pl.String, pa.Check.str_length(min_value=1)),
    "options": column(pl.List(pl.String)),  # without letters; the letter is the position: A, B, ...; none when open
    "answer": column(pl.String, pa.Check.str_length(min_value=1)),  # the letter, or the text of an open answer
    "reasoning": column(pl.String, pa.Check.str_length(min_value=1)),  # what happens when, citing clips by time spans
    "conclusion": column(pl.String),  # the sentence from which the option follows; may be empty
    "evidence": column(pl.List(pl.Int64)),  # indices of the clips the answer rests on
    "teacher": column(pl.String),
}

MEDIA = pl.List(
    pl.Struct(
        {
            "kind": pl.String,  # image
            "media_id": pl.String,  # sha256 of the file's bytes
            "path": pl.String,
            "width": pl.Int64,  # pixels
            "height": pl.Int64,
        }
    )
)

DATASET = QUESTIONS | {
    "category": column(pl.String, ANY_CATEGORY),
    # What a question shows in place of a video, in order; null: the video; empty: nothing. Then `video_id` names the
    # group. Datasets of videos alone are without this column.
    "media": column(MEDIA, nullable=True, required=False),
    "split": column(pl.String, SPLIT),
    "pass_rate": column(pl.Float64, pa.Check.in_range(0, 1), nullable=True),  # of the student; null: it was not asked
}

VERDICTS = {
    "question_id": column(pl.String),
    "check": column(pl.String, pa.Check.isin(["blind", "judge"])),
    "sample": column(pl.Int64, pa.Check.ge(0)),
    "response": column(pl.String),  # as the model wrote it
    "answer": column(pl.String, nullable=True),  # what was read from it; null where nothing could be
    "correct": column(pl.Boolean, nullable=True),  # blind: it found the answer; judge: the question is a good one
    "reason": column(pl.String),  # the model's own
    "error": column(pl.String, nullable=True),  # why there is no verdict
    "teacher": column(pl.String),
}

SAMPLES = {
    "model": column(pl.String),  # base, sft, rl
    "question_id": column(pl.String),
    "video_id": column(pl.String),
    "category": column(pl.String, ANY_CATEGORY),
    "mode": column(pl.String, pa.Check.isin(["greedy", "sampled", "shuffled_video"])),
    "sample": column(pl.Int64, pa.Check.ge(0)),  # 0 .. samples-1; 0 for greedy
    "frames": column(pl.Int64, pa.Check.gt(0)),  # frame budget
    "plan": column(pl.String),  # digest of the frame plan
    "response": column(pl.String),
    "extracted": column(pl.String, nullable=True),  # the option letter found in the response, null if none
    "gold": column(pl.String),
    "correct": column(pl.Boolean),
    "well_formed": column(pl.Boolean),
    "tokens": column(pl.Int64),
    "finish": column(pl.String),  # stop, length, error
    "error": column(pl.String, nullable=True),  # why this row could not be answered (broken video, ...)
}

ANSWERS = {
    "model": column(pl.String),  # as MODEL=... names it, or the endpoint's model
    "benchmark": column(pl.String),
    "item_id": column(pl.String),
    "row": column(pl.Int64, pa.Check.ge(0)),  # in the publisher's file
    "video": column(pl.String),  # as the publisher calls it
    "video_id": column(pl.String, nullable=True),  # sha256 of the file's bytes; null: there is no file
    "path": column(pl.String, nullable=True),
    "start": column(pl.Float64, pa.Check.ge(0), nullable=True),  # the span that is asked about; null: the whole video
    "end": column(pl.Float64, pa.Check.gt(0), nullable=True),
    "question": column(pl.String),
    "options": column(pl.List(pl.String)),
    "groups": column(pl.String),  # JSON: what the score is also reported by
    "mode": column(pl.String, pa.Check.isin(["greedy", "sampled"])),
    "sample": column(pl.Int64, pa.Check.ge(0)),
    "frames": column(pl.Int64, pa.Check.gt(0)),  # frame budget
    "plan": column(pl.String),  # digest of the frames' times and size; empty: no frames could be planned
    "pixels": column(pl.Int64, pa.Check.ge(0)),  # of a frame
    "prompt": column(pl.String),  # hash of the user's turn
    "response": column(pl.String),
    "extracted": column(pl.String, nullable=True),  # letter or open answer found in the response, null if none
    "gold": column(pl.String),
    "correct": column(pl.Boolean),
    "strict": column(pl.Boolean),  # byte for byte, as the papers count
    "well_formed": column(pl.Boolean),
    "grade": column(pl.Float64, pa.Check.in_range(0, 5), nullable=True),  # of a judge; null: none was asked
    "tokens": column(pl.Int64),
    "finish": column(pl.String),  # stop, length, error
    "seconds": column(pl.Float64, nullable=True),  # until the answer was there; of an engine's batch its share
    "error": column(pl.String, nullable=True),  # why this row counts as wrong whatever the response
}

PROMPTS = {
    "prompt_id": column(pl.String, pa.Check.str_length(16, 16), unique=True),  # of the sha256 of its text
    "prompt": column(pl.String, pa.Check.str_length(min_value=1)),
    "split": column(pl.String, pa.Check.isin(["train", "eval"])),
}

DRAWN = {
    "model": column(pl.String, pa.Check.isin(["base", "rl"])),
    "prompt_id": column(pl.String),
    "prompt": column(pl.String),
    "sample": column(pl.Int64, pa.Check.ge(0)),
    "file": column(pl.String),  # picture or clip, relative to the artifact
    "reward": column(pl.Float64, nullable=True),  # weighted sum; null: not a finite number
    "rewards": column(pl.String),  # JSON: each reward by its name
    "diversity": column(pl.Float64, pa.Check.ge(0)),  # mean distance (RMS, 0..1) to the prompt's other samples
}

SCHEMAS = {
    "ingest": VIDEOS,
    "segment": CLIPS,
    "caption": CAPTIONS,
    "reason": QUESTIONS,
    "verify": VERDICTS,
    "curate": DATASET,
    "difficulty": DATASET,
    "evaluate": SAMPLES,
    "benchmark": ANSWERS,
    "prompts": PROMPTS,
    "compare": DRAWN,
}


def validate(
    stage: str, frame: pl.DataFrame, where: str, columns: Mapping[str, pa.Column] | None = None
) -> pl.DataFrame:
    """Check a frame against its stage's schema (or some of its `columns`) and return it; stages without a table pass.

    Raises `SchemaError` naming `where`, the column, the check and up to five offending values.
    """
    columns = columns or SCHEMAS.get(stage)
    if columns is None:
        return frame
    try:
        return pa.DataFrameSchema(dict(columns), strict=True).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        lines = []
        for (name, check), cases in errors.failure_cases.group_by("column", "check"):
            examples = ", ".join(repr(case) for case in cases["failure_case"].head(5).to_list())
            lines.append(f"{where}: column {name!r} fails {check}: {examples}")
        raise SchemaError("\n".join(sorted(lines))) from None


def empty(stage: str) -> pl.DataFrame:
    """A frame with the stage's columns and no rows."""
    required = {name: column for name, column in SCHEMAS[stage].items() if column.required}
    return pl.DataFrame(schema={name: column.dtype.type for name, column in required.items()})
