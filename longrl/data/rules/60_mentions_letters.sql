-- Options change places when the key is balanced, so no text names an option by its letter alone. An option's text
-- followed by its own letter, "red (B)", is welcome in the conclusion: that letter moves along. An open question has no
-- options that could be named.
WITH spoken AS (
    SELECT question_id, list_reduce(
        list_transform(range(len(options)), lambda place: options[place + 1] || ' (' || chr(65 + place::INTEGER) || ')'),
        lambda text, pair: replace(text, pair, ''),
        concat_ws(' ', question, reasoning, conclusion, CASE WHEN kind = 'open' THEN answer END)
    ) AS text
    FROM questions
)
SELECT question_id, 'names an option by its letter: ' || mention AS reason
FROM (
    SELECT question_id, regexp_extract(
        text, '\([A-H]\)|\b(?i:options?|choices?) \(?[A-H]\b|\b(?i:answer) (is|:) \(?[B-H]\b|\b(?i:answer) (is|:) \(?A[.,;)]'
    ) AS mention
    FROM spoken
)
WHERE mention <> ''
