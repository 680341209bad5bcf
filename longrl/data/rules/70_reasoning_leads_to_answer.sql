-- Where the conclusion of a choice names options at all, the gold one is among them. An option that is part of a longer
-- one that is named too ("red" in "red box") does not count as named. An open answer is spoken of: at least half of its
-- content words are in the reasoning or the conclusion.
WITH named AS (
    SELECT question_id, gold, list_filter(
        options, lambda text: contains(' ' || normalised(conclusion) || ' ', ' ' || normalised(text) || ' ')
    ) AS named
    FROM questions
),
meant AS (
    SELECT question_id, gold, list_filter(named, lambda short: len(list_filter(
        named, lambda long: long <> short
            AND contains(' ' || normalised(long) || ' ', ' ' || normalised(short) || ' ')
    )) = 0) AS meant
    FROM named
)
SELECT question_id, format('concludes {} but the answer is {}', array_to_string(meant, ' | '), gold) AS reason
FROM meant
WHERE len(meant) > 0 AND NOT list_contains(meant, gold)
UNION ALL
SELECT question_id, format('neither reasoning nor conclusion speak of the answer: {}', answer) AS reason
FROM (
    SELECT question_id, answer, list_distinct(content_words(answer)) AS wanted,
           content_words(concat_ws(' ', reasoning, conclusion)) AS said
    FROM questions WHERE kind = 'open'
)
WHERE 2 * len(list_intersect(wanted, said)) < len(wanted)
