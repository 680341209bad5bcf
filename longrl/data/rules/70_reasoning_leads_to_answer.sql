-- Where the conclusion names options at all, the gold one is among them. An option that is part of a longer one that is
-- named too ("red" in "red box") does not count as named.
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
