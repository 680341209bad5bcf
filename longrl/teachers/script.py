"""Whether a text is written in a language's script. Languages that share a script are not told apart."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from longrl.teachers.base import TeacherError

LATIN = ("LATIN",)
SCRIPTS = {
    "English": LATIN,
    "French": LATIN,
    "German": LATIN,
    "Spanish": LATIN,
    "Russian": ("CYRILLIC",),
    "Greek": ("GREEK",),
    "Arabic": ("ARABIC",),
    "Hindi": ("DEVANAGARI",),
    "Chinese": ("CJK",),
    "Japanese": ("HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"),
    "Korean": ("HANGUL", "CJK"),
}
FOREIGN = 0.3  # share of letters in other scripts, at most: names and signs are quoted as they are


def check_language(text: str, language: str) -> None:
    """Raises `TeacherError` when more than `FOREIGN` of a text's letters are not of the language's script."""
    if not language:
        return
    share = foreign_share(text, language)
    if share > FOREIGN:
        raise TeacherError(
            f"not written in {language}: {share:.0%} of the letters are of another script: {text[:60]!r}"
        )


def foreign_share(text: str, language: str) -> float:
    """Share of a text's letters that are not of the language's script; 0 for a text without letters.

    >>> foreign_share("Ein Käse, 1 сыр", "German")
    0.3
    """
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(_script(letter) not in SCRIPTS[language] for letter in letters)
    return foreign / len(letters) if letters else 0.0


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    """The first word of a letter's Unicode name, such as LATIN."""
    return unicodedata.name(letter, "UNKNOWN").split()[0]
