"""The order in which RL meets its questions."""

import doctest
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrl.training import curriculum as module
from longrl.training.curriculum import curriculum
from longrl.training.rank import TrainingError

QUESTIONS = [{"question_id": str(n), "pass_rate": random.Random(n).choice([0.25, 0.5, 0.75, None])} for n in range(30)]
LENGTHS = [random.Random(-n).randint(50, 300) for n in range(30)]


def epoch(order, number=0, name="0 rl", batch=4):
    taken = curriculum(order, name, QUESTIONS, LENGTHS, batch).take(number * 30, 30)
    return [int(row["question_id"]) for row in taken]


def test_the_examples_hold():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("order", ["shuffle", "easy_to_hard", "length_bucketed"])
def test_an_epoch_has_every_question_once_and_is_shuffled_anew_by_the_seed(order):
    first, second, other = epoch(order), epoch(order, 1), epoch(order, name="1 rl")
    assert sorted(first) == sorted(second) == list(range(30))
    assert first == epoch(order)
    assert first not in (second, other)


@pytest.mark.parametrize("number", [0, 1])
def test_easy_questions_come_first_and_unrated_ones_last(number):
    rates = [QUESTIONS[i]["pass_rate"] for i in epoch("easy_to_hard", number)]
    rated = [rate for rate in rates if rate is not None]
    assert rated == sorted(rated, reverse=True)
    assert rates[: len(rated)] == rated


def test_without_pass_rates_the_remedy_is_named():
    with pytest.raises(TrainingError, match=r"set difficulty\.samples"):
        curriculum("easy_to_hard", "x", [{"pass_rate": None}], [9], 4)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 8), st.integers(0, 99))
def test_buckets_do_not_overlap_in_length(lengths, batch, seed):
    shuffled = list(range(len(lengths)))
    random.Random(seed).shuffle(shuffled)
    order = module.bucketed(shuffled, lengths, batch)
    assert sorted(order) == sorted(shuffled)
    buckets = [[lengths[i] for i in order[start : start + batch]] for start in range(0, len(order), batch)]
    assert all(len(bucket) == batch for bucket in buckets[:-1])
    spans = sorted((min(bucket), max(bucket)) for bucket in buckets)
    assert all(high <= low for (_, high), (low, _) in pairwise(spans))
