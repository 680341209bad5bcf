"""The report's sentences claim no more than the errors allow."""

import pytest

from longrl.evaluation.report import control, headline


def summary(sft=0.6, rl=0.7, gain=0.1, se=0.03, shuffled=0.25, help_by=0.45, held_out=200):
    return {
        "splits": {"eval": held_out},
        "final_model": "rl",
        "accuracy": {"chance": 0.25, "base": 0.25, "sft": sft, "rl": rl},
        "gains": {
            "rl_minus_sft": span(gain, se),
            "right_minus_shuffled_video": span(help_by, 0.03),
        },
        "shuffled_video": {"accuracy": shuffled, **span(shuffled, 0.03)},
    }


def span(mean, se):
    reach = 2 * se if se is not None else 1.0
    return {"mean": mean, "se": se, "low": mean - reach, "high": mean + reach}


@pytest.mark.parametrize(
    ("gain", "se", "words"),
    [
        (0.10, 0.03, "RL raised the accuracy"),
        (-0.10, 0.03, "RL lowered the accuracy"),
        (0.05, 0.03, "within its error"),
        (0.10, None, "no telling"),
    ],
)
def test_a_change_by_rl_is_claimed_only_beyond_its_error(gain, se, words):
    assert words in headline(summary(gain=gain, se=se))


@pytest.mark.parametrize(
    ("shuffled", "help_by", "words"),
    [
        (0.25, 0.45, "it answers from the video"),
        (0.45, 0.25, "from the wording alone"),
        (0.25, 0.02, "nothing shows that it is used"),
    ],
)
def test_the_video_is_said_to_be_used_only_if_the_right_one_helps(shuffled, help_by, words):
    assert words in control(summary(shuffled=shuffled, help_by=help_by))
