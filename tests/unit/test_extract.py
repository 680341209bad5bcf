"""The extractor against a table read by hand, and properties that hold for any text."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrl.evaluation import extract
from longrl.evaluation.extract import extract_choice, score, well_formed

COLOURS = ("red", "blue", "dark green", "yellow")
LETTERS = ("C", "A", "D", "B")  # texts that are letters themselves
NUMBERS = ("3", "-3", "1.5", "15")
PEOPLE = ("two women", "a man", "A dog", "a man with a dog")
TWINS = ("red", "red", "blue", "blue!")

CASES = [
    # inside the tag: the letter in its forms
    ("<answer>B</answer>", COLOURS, "B"),
    ("<answer>b</answer>", COLOURS, "B"),
    ("<answer> B </answer>", COLOURS, "B"),
    ("<answer>\nB\n</answer>", COLOURS, "B"),
    ("<answer>(B)</answer>", COLOURS, "B"),
    ("<answer>[B]</answer>", COLOURS, "B"),
    ("<answer>B.</answer>", COLOURS, "B"),
    ("<answer>B)</answer>", COLOURS, "B"),
    ("<answer>**B**</answer>", COLOURS, "B"),
    ("<answer>__B__</answer>", COLOURS, "B"),
    ("<answer>“B”</answer>", COLOURS, "B"),
    ("<answer>Ｂ</answer>", COLOURS, "B"),  # full width
    ("<Answer>B</ANSWER>", COLOURS, "B"),
    # inside the tag: letter and text
    ("<answer>B) blue</answer>", COLOURS, "B"),
    ("<answer>(B) blue</answer>", COLOURS, "B"),
    ("<answer>(B): Blue.</answer>", COLOURS, "B"),
    ("<answer>B. blue</answer>", COLOURS, "B"),
    ("<answer>B: blue</answer>", COLOURS, "B"),
    ("<answer>B, blue</answer>", COLOURS, "B"),
    ("<answer>B blue</answer>", COLOURS, "B"),
    ("<answer>B - blue</answer>", COLOURS, "B"),
    ("<answer>B.blue</answer>", COLOURS, "B"),
    ("<answer>blue (B)</answer>", COLOURS, "B"),
    ("<answer>dark  Green (C).</answer>", COLOURS, "C"),
    ("<answer>B) as it is seen last</answer>", COLOURS, "B"),
    ("<answer>B. blue, seen last</answer>", COLOURS, "B"),
    # inside the tag: the text alone
    ("<answer>blue</answer>", COLOURS, "B"),
    ("<answer>BLUE!</answer>", COLOURS, "B"),
    ("<answer>dark\n green</answer>", COLOURS, "C"),
    ("<answer>dark-green</answer>", COLOURS, "C"),
    ("<answer>-3</answer>", NUMBERS, "B"),
    ("<answer>3.</answer>", NUMBERS, None),  # bare form of "3" and "-3" alike
    ("<answer>1.5</answer>", NUMBERS, "C"),
    ("<answer>15</answer>", NUMBERS, "D"),
    ("<answer>a man</answer>", PEOPLE, "B"),
    ("<answer>A dog</answer>", PEOPLE, "C"),
    ("<answer>A man with a dog.</answer>", PEOPLE, "D"),
    # leads
    ("<answer>Answer: B</answer>", COLOURS, "B"),
    ("<answer>The correct answer is (B).</answer>", COLOURS, "B"),
    ("<answer>The answer is blue.</answer>", COLOURS, "B"),
    ("<answer>Option B</answer>", COLOURS, "B"),
    ("<answer>The answer is option B: blue</answer>", COLOURS, "B"),
    # letters that are texts
    ("<answer>A</answer>", LETTERS, "A"),
    ("<answer>(A) C</answer>", LETTERS, "A"),
    # the tag wins, and the chain is never read
    ("<think>A? A! It is A.</think><answer>B</answer>", COLOURS, "B"),
    ("<think>first <answer>A</answer>, no</think><answer>B</answer>", COLOURS, "B"),
    ("<think>red no. blue yes.</think>\n<answer>B</answer>\nred", COLOURS, "B"),
    ("A. <answer>B</answer>", COLOURS, "B"),
    ("<answer>B</answer><answer>(b)</answer>", COLOURS, "B"),
    ("red no.</think><answer>B</answer>", COLOURS, "B"),  # the prompt had opened the chain
    # no tags: the whole text, or what follows the chain, is a choice
    ("B", COLOURS, "B"),
    ("(B) blue", COLOURS, "B"),
    ("The answer is B.", COLOURS, "B"),
    ("<think>red no.</think> B", COLOURS, "B"),
    # nothing chosen
    ("", COLOURS, None),
    ("   \n", COLOURS, None),
    ("<answer></answer>", COLOURS, None),
    ("<answer>?</answer>", COLOURS, None),
    ("<answer>E</answer>", COLOURS, None),
    ("<answer>7</answer>", COLOURS, None),
    ("<answer>A man</answer>", COLOURS, None),
    ("A man opens the door.", COLOURS, None),
    ("<answer>A. Lincoln</answer>", COLOURS, None),
    ("<answer>e.g. the sea</answer>", (*COLOURS, "white"), None),
    ("<answer>I see blue</answer>", COLOURS, None),
    ("<answer>not B</answer>", COLOURS, None),
    ("<answer>blueish</answer>", COLOURS, None),
    ("<answer>green</answer>", COLOURS, None),
    ("<answer>the first one</answer>", COLOURS, None),
    ("<think>It is B.</think>", COLOURS, None),
    ("<think>It is B, <answer>B</answer>", COLOURS, "B"),  # the chain was never closed, the answer was
    ("<think>It is <answer>B</answer></think>", COLOURS, None),
    ("<think>It is B", COLOURS, None),
    ("<think>blue</think><answer>B", COLOURS, None),  # cut off: perhaps "Blue and red"
    ("I cannot tell.", COLOURS, None),
    # contradictions
    ("<answer>A or B</answer>", COLOURS, None),
    ("<answer>A, B</answer>", COLOURS, None),
    ("<answer>A) or B)</answer>", COLOURS, None),
    ("<answer>A/B</answer>", COLOURS, None),
    ("<answer>AB</answer>", COLOURS, None),
    ("<answer>(B) red</answer>", COLOURS, None),
    ("<answer>B. red</answer>", COLOURS, None),
    ("<answer>red (B)</answer>", COLOURS, None),
    ("<answer>red blue</answer>", COLOURS, None),
    ("<answer>A</answer><answer>B</answer>", COLOURS, None),
    ("<answer>B</answer><answer>perhaps</answer>", COLOURS, None),
    # options that cannot be told apart
    ("<answer>red</answer>", TWINS, None),
    ("<answer>B) red</answer>", TWINS, "B"),
    ("<answer>blue</answer>", TWINS, "C"),
    ("<answer>blue!</answer>", TWINS, "D"),
    ("<answer>A</answer>", (), None),
]


@pytest.mark.parametrize(("response", "options", "letter"), CASES)
def test_the_table_read_by_hand(response, options, letter):
    assert extract_choice(response, options) == letter


FORMS = [
    ("<think>a</think><answer>B</answer>", True),
    (" \n<think>a\nb</think>\n\n<answer>\nB\n</answer>\n", True),
    ("<think></think><answer></answer>", True),
    ("<think>1 < 2</think><answer>B</answer>", True),
    ("<answer>B</answer>", False),
    ("<think>a</think>", False),
    ("<answer>B</answer><think>a</think>", False),
    ("<think>a</think><answer>B</answer>.", False),
    ("Well: <think>a</think><answer>B</answer>", False),
    ("<think>a</think> so <answer>B</answer>", False),
    ("<think>a</think><answer>B</answer><answer>B</answer>", False),
    ("<think>a<think>b</think></think><answer>B</answer>", False),
    ("<think>a<answer>B</think></answer>", False),
    ("<Think>a</Think><answer>B</answer>", False),
    ("<think>a</think><answer>B", False),
    ("", False),
]


@pytest.mark.parametrize(("response", "right"), FORMS)
def test_the_form(response, right):
    assert well_formed(response) is right


def test_an_unparsable_answer_is_wrong_for_every_gold_letter():
    assert not any(score("<answer>maybe</answer>", COLOURS, gold).correct for gold in "ABCD")


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "A",
        "B",
        "(B)",
        "B.",
        " ",
        "red",
        "blue",
        "or",
        "the answer is ",
        "é",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=20).map("".join))
OPTIONS = st.lists(st.one_of(st.text(), st.sampled_from(COLOURS)), max_size=30)
SPACE = st.text(" \t\r\n", max_size=4)


@given(TEXTS, OPTIONS)
def test_any_text_gives_a_letter_in_range_or_none(response, options):
    letter = extract_choice(response, options)
    assert letter is None or letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]


@given(TEXTS, OPTIONS, SPACE, SPACE)
def test_white_space_around_a_response_changes_nothing(response, options, before, after):
    assert score(before + response + after, options, "A") == score(response, options, "A")


@given(TEXTS, st.sampled_from("ABCD"))
def test_the_chain_does_not_change_the_answer(chain, letter):
    assert extract_choice(f"<think>{chain}</think><answer>{letter}</answer>", COLOURS) == letter or "<answer" in chain


@given(
    st.lists(
        st.text("abcdefgh ", min_size=2).filter(lambda text: len(text.replace(" ", "")) > 1), min_size=1, max_size=8
    )
)
def test_every_option_is_read_from_its_own_text_unless_two_are_alike(options):
    plain = [" ".join(option.split()) for option in options]
    for letter, option in zip("ABCDEFGH", plain, strict=False):
        expected = letter if plain.count(option) == 1 else None
        assert extract_choice(f"<answer>{option}</answer>", options) == expected


@given(TEXTS)
def test_a_well_formed_response_stays_so_with_white_space_and_not_with_words(response):
    assert well_formed(f" {response}\n") == well_formed(response)
    assert not well_formed(f"{response} word")


def test_a_long_response_is_read_in_linear_time():
    assert extract_choice("the answer is " * 20_000 + "(" * 20_000, COLOURS) is None


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(extract).failed == 0
