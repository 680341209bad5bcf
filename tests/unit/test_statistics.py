"""Errors against independent calculations: textbook closed forms and a bootstrap over videos."""

import doctest

import numpy as np
import polars as pl
import pytest

from longrl.evaluation import statistics
from longrl.evaluation.statistics import accuracy, clustered_mean, difference, t95


def answers(seed, videos=150, questions=5, spread=0.35):
    """Right/wrong answers whose videos differ in difficulty, so that answers of one video go together."""
    random = np.random.default_rng(seed)
    chance = np.clip(0.6 + spread * random.standard_normal(videos), 0, 1)
    right = random.random((videos, questions)) < chance[:, None]
    return right.astype(float), np.repeat([f"v{i:03d}" for i in range(videos)], questions)


def frame(right, videos):
    return pl.DataFrame(
        {"question_id": [f"q{i:05d}" for i in range(right.size)], "video_id": videos, "correct": right.ravel() > 0.5}
    )


def test_one_question_per_video_is_the_textbook_error_of_a_mean():
    right, videos = answers(0, questions=1)
    assert clustered_mean(right.ravel(), videos)[1] == pytest.approx(right.std(ddof=1) / np.sqrt(right.size), rel=1e-12)


def test_equal_videos_give_the_error_of_the_mean_of_video_means():
    right, videos = answers(1)
    expected = right.mean(axis=1).std(ddof=1) / np.sqrt(len(right))
    assert clustered_mean(right.ravel(), videos)[1] == pytest.approx(expected, rel=1e-12)


def test_the_clustered_error_agrees_with_a_bootstrap_over_unequal_videos():
    right, _ = answers(2)
    random = np.random.default_rng(3)
    rows = [row[: random.integers(1, 6)] for row in right]
    videos = [f"v{i}" for i, row in enumerate(rows) for _ in row]
    sums, sizes = np.array([row.sum() for row in rows]), np.array([row.size for row in rows])
    draws = random.integers(0, len(rows), (20_000, len(rows)))
    bootstrap = (sums[draws].sum(1) / sizes[draws].sum(1)).std()
    assert clustered_mean(np.concatenate(rows), videos)[1] == pytest.approx(bootstrap, rel=0.05)


def test_answers_that_go_together_have_a_larger_error_than_independent_ones():
    right, videos = answers(4)
    independent = np.sqrt(right.mean() * (1 - right.mean()) / right.size)
    assert clustered_mean(right.ravel(), videos)[1] > 1.3 * independent


def test_repeating_every_answer_does_not_shrink_the_error():
    right, videos = answers(5)
    once = clustered_mean(right.ravel(), videos)[1]
    assert clustered_mean(np.tile(right.ravel(), 8), np.tile(videos, 8))[1] == pytest.approx(once, rel=1e-12)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    x = np.linspace(-8, 8, 200_001)
    truth = np.trapezoid(np.clip(0.6 + 0.2 * x, 0, 1) * np.exp(-(x**2) / 2), x) / np.sqrt(2 * np.pi)
    covered = 0
    for seed in range(400):
        right, videos = answers(seed + 100, videos=60, spread=0.2)
        estimate = accuracy(right.ravel().tolist(), videos.tolist())
        covered += estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_interval_of_independent_answers_is_wilsons():
    estimate = accuracy([1.0] * 30 + [0.0] * 10, [f"v{i}" for i in range(40)])
    # Wilson for 30/40 with n = 39 (the error of a mean divides by n - 1): solved from |p - x| = t sqrt(x(1-x)/39)
    for x in (estimate.low, estimate.high):
        assert abs(0.75 - x) == pytest.approx(2.022691 * np.sqrt(x * (1 - x) / 39), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_answers_that_all_agree_still_have_an_interval(value):
    estimate = accuracy([value] * 20, [f"v{i // 2}" for i in range(20)])
    assert 0.2 < estimate.high - estimate.low < 0.4
    assert 0.0 <= estimate.low <= value <= estimate.high <= 1.0


@pytest.mark.parametrize(
    ("freedom", "tabled"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (60, 2.000)]
)
def test_students_t_is_that_of_the_tables(freedom, tabled):
    assert t95(freedom) == pytest.approx(tabled, rel=0.012)


def test_one_video_has_no_error():
    assert accuracy([1.0, 0.0], ["a", "a"]).se is None


def test_no_answers_have_no_accuracy():
    assert accuracy([], []) is None


def test_a_value_without_its_video_is_an_error():
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        clustered_mean([1.0, 0.0], ["a"])


def test_the_paired_difference_agrees_with_a_bootstrap_over_videos():
    before, videos = answers(6)
    random = np.random.default_rng(7)
    after = np.where(random.random(before.shape) < 0.3, 1.0, before)
    estimate = difference(frame(before, videos), frame(after, videos))
    gains = (after - before).mean(axis=1)
    bootstrap = gains[random.integers(0, len(gains), (20_000, len(gains)))].mean(axis=1)
    assert estimate.mean == pytest.approx(gains.mean())
    assert estimate.se == pytest.approx(bootstrap.std(), rel=0.03)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(bootstrap, [0.025, 0.975])), abs=0.01)


def test_pairing_gives_a_smaller_error_than_two_separate_errors():
    before, videos = answers(8)
    after = np.where(np.random.default_rng(9).random(before.shape) < 0.1, 1.0, before)
    separate = np.hypot(*(clustered_mean(right.ravel(), videos)[1] for right in (before, after)))
    assert difference(frame(before, videos), frame(after, videos)).se < 0.7 * separate


def test_samples_of_a_question_are_averaged_before_pairing():
    videos = ["a", "a", "b", "b"]
    first = pl.DataFrame({"question_id": ["1", "1", "2", "2"], "video_id": videos, "correct": [True, False] * 2})
    second = pl.DataFrame({"question_id": ["1", "2"], "video_id": ["a", "b"], "correct": [True, True]})
    estimate = difference(first, second)
    assert (estimate.mean, estimate.count, estimate.videos) == (0.5, 2, 2)


def test_models_without_a_question_in_common_have_no_difference():
    right, videos = answers(0, videos=2)
    other = frame(right, videos).with_columns(pl.col("question_id") + "x")
    assert difference(frame(right, videos), other) is None


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(statistics).failed == 0
