-- A question and its reasoning speak of the video, not of the captions or the frames they were written from.
SELECT question_id, 'speaks of how it was made: ' || betrayal AS reason
FROM (
    SELECT question_id, regexp_extract(
        lower(concat_ws(' ', question, array_to_string(options, ' '), reasoning, conclusion, answer)),
        '\b(caption(s|ed|ing)?|transcripts?|frames? (no\.? ?)?#?[0-9]+|(sampled|provided|given|these|individual) frames'
        || '|(provided|given|above|following) (descriptions?|text)|(the|each) descriptions? (says?|states?|mentions?)'
        || '|according to the (text|descriptions?))\b'
    ) AS betrayal
    FROM questions
)
WHERE betrayal <> ''
