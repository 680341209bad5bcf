-- The same question with the same options is asked once of a video; the first one stays.
SELECT question_id, 'same question and options as ' || first_id AS reason
FROM (
    SELECT question_id, first_value(question_id) OVER (
        PARTITION BY video_id, normalised(question), list_sort(list_transform(options, lambda text: normalised(text)))
        ORDER BY position
    ) AS first_id
    FROM questions
)
WHERE question_id <> first_id
