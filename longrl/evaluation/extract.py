"""Which option a response chose: the one extractor behind the RL reward and every accuracy in the report.

Where it differs from the harnesses it was measured against:

1. What cannot be read is `None`, and `None` is wrong. No option is ever guessed.
2. A letter counts only when it stands as a label: "A man opens it" does not choose option A.
3. Only text after the chain of thought is read, so an option weighed in the chain is not taken for the answer.
4. Answers that contradict each other ("A or B", two answer tags that differ, "(B) red" where red is A) choose nothing.
5. An answer tag that was never closed was cut off, and what was cut off ("A" of "A man") is not read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FORM = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)

END_OF_CHAIN = re.compile(r"</think\s*>", re.IGNORECASE)
ANSWER = re.compile(r"<answer\s*>(.*?)</answer\s*>", re.IGNORECASE | re.DOTALL)
OPEN_TAG = re.compile(r"</?(?:think|answer)\s*>", re.IGNORECASE)

LEAD = re.compile(
    r"(?:(?:the\s+)?(?:(?:correct|final|best|right)\s+)?(?:answer|option|choice)(?:\s+is|\s*:|\s)\s*)+", re.IGNORECASE
)
LONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
BRACKETED = re.compile(r"[(\[]?([A-Za-z])\s*[)\]][.:]?\s*(\S.*)", re.DOTALL)  # "B) red", "(B) red"
POINTED = re.compile(r"([A-Z])(?:[.:,]\s*|\s+(?:[-–—]\s+)?)(\S.*)", re.DOTALL)  # "B. red", "B: red", "B red", "B - red"
TRAILING = re.compile(r"(.*\S)\s*[(\[]([A-Za-z])[)\]]\W*", re.DOTALL)  # "red (B)", as the prompt lists its options
LABEL = re.compile(r"(?<!\w)([B-HJ-Z]|[AI](?!\s+[a-z]))(?!\w|')")  # a capital on its own, but not "A man" or "I see"


@dataclass(frozen=True)
class Score:
    """What one response is worth: the letter read from it (None if there is none), and the two facts rewards use."""

    extracted: str | None
    correct: bool
    well_formed: bool


def score(response: str, options: Sequence[str], gold: str) -> Score:
    """Judge a response against the gold letter.

    >>> score("<think>Red comes first.</think><answer>B</answer>", ["blue", "red"], "B")
    Score(extracted='B', correct=True, well_formed=True)
    >>> score("I cannot tell.", ["blue", "red"], "A")
    Score(extracted=None, correct=False, well_formed=False)
    """
    extracted = extract_choice(response, options)
    return Score(extracted, extracted is not None and extracted == gold, well_formed(response))


def well_formed(response: str) -> bool:
    """Whether the response is one `<think>…</think>`, then one `<answer>…</answer>`, and nothing else but white space.

    >>> well_formed("<think>Red.</think>\\n<answer>B</answer>")
    True
    >>> well_formed("<answer>B</answer>"), well_formed("<think>Red.</think><answer>B</answer> Surely.")
    (False, False)
    """
    return all(response.count(tag) == 1 for tag in TAGS) and FORM.fullmatch(response) is not None


def extract_choice(response: str, options: Sequence[str]) -> str | None:
    """The letter (A for the first option) that the response chose, or None when it chose none or more than one.

    `options` are the texts without letters. The answer tag wins; without one, the text after the chain is read as a
    whole, and it must be a choice and nothing more.

    >>> extract_choice("<think>A no. B yes.</think><answer>(B)</answer>", ["blue", "red"])
    'B'
    >>> extract_choice("<answer>Red.</answer>", ["blue", "red"])
    'B'
    >>> extract_choice("<answer>A man</answer>", ["a dog", "two men"]) is None
    True
    """
    chain = list(END_OF_CHAIN.finditer(response))
    said = response[chain[-1].end() :] if chain else response
    answers = ANSWER.findall(said)
    if not answers:
        return None if OPEN_TAG.search(said) else read_choice(said, options)
    choices = {read_choice(answer, options) for answer in answers}
    return choices.pop() if len(choices) == 1 else None


def read_choice(text: str, options: Sequence[str]) -> str | None:
    """The letter that a short answer such as "B", "(B)", "B) red", "red (B)" or "red" stands for, or None.

    A lone letter is always the label, even where an option's text is a letter. After a bracket any words may follow
    ("B) as it is red"), after a point only the option's own ("A. Lincoln" is a name).

    >>> [read_choice(text, ["blue", "red"]) for text in ("b.", "B) red", "B) blue", "red (B)", "RED", "C", "A or B")]
    ['B', 'B', None, 'B', 'B', None, None]
    """
    text = unicodedata.normalize("NFKC", text).strip()
    if lone := LONE.fullmatch(text):
        return in_range(lone[1], options)
    if named := option_named(text, options):
        return named
    if (lead := LEAD.match(text)) and lead.end() < len(text):
        text = text[lead.end() :]
        if lone := LONE.fullmatch(text):
            return in_range(lone[1], options)
        if named := option_named(text, options):
            return named
    if labelled := BRACKETED.fullmatch(text):
        return consistent(labelled[1], labelled[2], options, free=True)
    if labelled := POINTED.fullmatch(text):
        return consistent(labelled[1], labelled[2], options, free=False)
    if labelled := TRAILING.fullmatch(text):
        return consistent(labelled[2], labelled[1], options, free=False)
    return None


def consistent(letter: str, words: str, options: Sequence[str], free: bool) -> str | None:
    """The letter, unless the words beside it name another option or, where they are not `free`, not its own."""
    letter = in_range(letter, options) or ""
    named = option_named(words, options)
    if not letter or named == letter:
        return letter or None
    if named or any(other != letter for other in LABEL.findall(words)):
        return None
    said, own = bare(words), bare(options[ascii_uppercase.index(letter)])
    return letter if free or (said and own and (f"{said} ".startswith(f"{own} "))) else None


def option_named(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option whose text this is, first as written, then without punctuation; None if not one."""
    for form in (spaced, bare):
        wanted = form(text)
        found = [letter for letter, option in zip(ascii_uppercase, options, strict=False) if form(option) == wanted]
        if wanted and found:
            return found[0] if len(found) == 1 else None
    return None


def in_range(letter: str, options: Sequence[str]) -> str | None:
    """The letter in upper case if there is such an option."""
    return letter.upper() if letter.upper() in ascii_uppercase[: len(options)] else None


def spaced(text: str) -> str:
    """Case and white space made equal; punctuation kept, so that "-3" is not "3"."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def bare(text: str) -> str:
    """Case, white space and punctuation made equal; points inside numbers kept, so that "1.5" is not "15"."""
    return " ".join(re.findall(r"\d+(?:[.,:]\d+)*|[^\W_]+", spaced(text)))
