-- Two questions of a video with the same content words in the same order and the same answer are one question.
SELECT question_id, 'same wording and answer as ' || first_id AS reason
FROM (
    SELECT question_id, first_value(question_id) OVER (
        PARTITION BY video_id, content_words(question), normalised(gold) ORDER BY position
    ) AS first_id
    FROM questions
)
WHERE question_id <> first_id
