"""The words of a prompt and its response, and how they become tokens: all parts of longrl build them here.

    <|im_start|>user
    <|vision_start|><|video_pad|><|vision_end|>{text}<|im_end|>
    <|im_start|>assistant
    <think>{reasoning} {conclusion}</think><answer>B</answer><|im_end|>

What stands around the user's words is the checkpoint's own chat template, a system turn included where it has one; what
stands around a medium is the family's (`ChatFormat.slot`). The marks of the format are token ids, never text, so a
question that contains `<|im_end|>` or `<|video_pad|>` is read as those letters and cannot end a turn or claim a video.
Options carry their letter after the text, which a small model learns to copy sooner than `A. red`.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, ClassVar

from longrl.errors import LongrlError
from longrl.models.prompt import Grid, Medium, Prompt, Slot

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
WORDS = "longrl asks here"  # stands for the user's words when a chat template is read
PLAIN = (  # for a tokenizer without a template of its own
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

THINK = (
    "Think step by step about what the video shows, between <think> and </think>. Then give {form}, and nothing else, "
    "between <answer> and </answer>."
)
DIRECT = "Answer with {form} and nothing else."


def question_text(question: str, options: Sequence[str], subtitles: Sequence[str] = (), instruction: str = "") -> str:
    """A question and its options, one per line; an open question has none.

    Students trained here get no more than that. `subtitles`, where there are any, come before the question;
    `instruction` (`THINK`, `DIRECT`) tells a model that does not know the form of an answer, after the options.

    >>> print(question_text("Which comes first?", ["red", "blue"]))
    Which comes first?
    - red (A)
    - blue (B)
    >>> print(question_text("Who speaks?", [], ["Hello!"], DIRECT))
    Subtitles of the video:
    Hello!
    <BLANKLINE>
    Who speaks?
    Answer with a few words and nothing else.
    """
    if len(options) > len(ascii_uppercase):
        raise ValueError(f"{len(options)} options, but there are only {len(ascii_uppercase)} letters: {question!r}")
    lines = ["Subtitles of the video:", *subtitles, ""] if subtitles else []
    lines.append(question)
    lines += [f"- {option} ({letter})" for letter, option in zip(ascii_uppercase, options, strict=False)]
    if instruction:
        lines.append(instruction.format(form="the letter of the right option" if options else "a few words"))
    return "\n".join(lines)


def answer_text(reasoning: str, conclusion: str, answer: str) -> str:
    """The response that SFT teaches and the format reward looks for.

    >>> answer_text("0-10s: red walks.", "So it is red.", "A")
    '<think>0-10s: red walks. So it is red.</think><answer>A</answer>'
    """
    thoughts = " ".join(part for part in (reasoning.strip(), conclusion.strip()) if part)
    return f"<think>{thoughts}</think><answer>{answer}</answer>"


class ChatError(LongrlError):
    """A tokenizer does not fit the family; the message names what it lacks."""


class ChatFormat:
    """Builds prompts and responses with one tokenizer, in the form of the Qwen-VL families.

    Other families override `PADS`, `MARKS`, `TURN_END` or `slot`. `merge` is the number of patches along a side that
    become one token.
    """

    PADS: ClassVar[dict[str, str]] = {"video": "<|video_pad|>", "image": "<|image_pad|>"}  # of one embedding, by kind
    MARKS: ClassVar[tuple[str, ...]] = ("<|vision_start|>", "<|vision_end|>")  # around a medium
    END = TURN_END  # ends a turn
    TEMPLATE = PLAIN  # taken where the tokenizer has none

    def __init__(self, tokenizer: Any, merge: int = 2):
        self.tokenizer, self.merge = tokenizer, merge
        self.end = self.special(self.END)
        self.pads = {kind: self.special(token) for kind, token in self.PADS.items()}
        self.marks = tuple(self.special(token) for token in self.MARKS)
        self._before, self._after = self.frame()

    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the chat template puts before and after the words of a single user turn, up to the response."""
        messages = [{"role": "user", "content": WORDS}]
        template = None if getattr(self.tokenizer, "chat_template", None) else self.TEMPLATE
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        parts = text.split(WORDS)
        if len(parts) != 2:
            raise ChatError(f"the tokenizer's chat template shows the user's words {len(parts) - 1} times, not once")
        before, after = (tuple(self.tokenizer(part, add_special_tokens=False)["input_ids"]) for part in parts)
        return before, after

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; strings that look like special tokens are spelled out."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def video(self, grid: Sequence[int], second_per_grid: float = 1.0, times: Sequence[float] = ()) -> Medium:
        """A video of this patch grid (t, h, w)."""
        return Medium("video", self._tokens(grid), _grid(grid), float(second_per_grid), tuple(times))

    def image(self, grid: Sequence[int]) -> Medium:
        """An image of this patch grid (1, h, w)."""
        return Medium("image", self._tokens(grid), _grid(grid))

    def slot(self, *media: Medium) -> tuple[tuple[int, ...], Slot, tuple[int, ...]]:
        """Ids before a medium, its slot, ids after it."""
        (medium,) = media
        pad = self.pads[medium.kind]
        start, end = self.marks
        return (start,), Slot(media, (pad,), (pad,), (pad,) * medium.tokens), (end,)

    def prompt(self, text: str, media: Sequence[Medium | tuple[Medium, ...]] = ()) -> Prompt:
        """The prompt that shows `media`, a video with its sound as a tuple, and then asks `text`."""
        opening: list[tuple[int, ...] | Slot] = []
        run = self._before
        for each in media:
            before, slot, after = self.slot(*(each if isinstance(each, tuple) else (each,)))
            opening += [(*run, *before), slot]
            run = after
        if not media:
            opening, run = [run], ()
        return Prompt(tuple(opening), (*run, *self.encode(text), *self._after))

    def response(self, text: str) -> list[int]:
        """Ids of a response, its closing token included."""
        return [*self.encode(text), self.end]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a response up to its closing token; other special tokens stay visible, for format checks to see."""
        ids = list(ids)
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def special(self, token: str) -> int:
        """The id of a special token; raises `ChatError` when the tokenizer does not have it."""
        number = self.tokenizer.convert_tokens_to_ids(token)
        if number is None or number == self.tokenizer.unk_token_id:
            raise ChatError(f"the tokenizer has no {token}; it is not the one that belongs to this model")
        return number

    def _tokens(self, grid: Sequence[int]) -> int:
        t, h, w = grid
        if h % self.merge or w % self.merge or min(t, h, w) < 1:
            raise ValueError(f"grid {_grid(grid)}: height and width must be positive multiples of {self.merge} patches")
        return int(t * h * w) // self.merge**2


def _grid(grid: Sequence[int]) -> Grid:
    t, h, w = (int(n) for n in grid)
    return t, h, w
