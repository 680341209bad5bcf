-- No category has more questions than the cap: each keeps one of every video before a second of any, in hashed order.
SELECT question_id, format('beyond the {} questions of its category', getvariable('category_cap')) AS reason
FROM (
    SELECT question_id, row_number() OVER (PARTITION BY category ORDER BY round, hashed) AS place
    FROM (
        SELECT question_id, category, sha256(getvariable('seed') || question_id) AS hashed,
               row_number() OVER (PARTITION BY category, video_id ORDER BY position) AS round
        FROM questions
    )
)
WHERE place > getvariable('category_cap')
