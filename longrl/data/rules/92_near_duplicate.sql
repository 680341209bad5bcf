-- No question is nearly another one, of this video or of any: question, options and reasoning share most of their
-- five-word shingles, and the answer is the same (see longrl/data/duplicates.py). The first one stays.
SELECT
    later.question_id,
    format('{:.0f}% the same text as {} of {} video', 100 * similarity, earlier.question_id,
           CASE WHEN later.video_id = earlier.video_id THEN 'this' ELSE 'another' END) AS reason
FROM near_duplicates
JOIN questions AS later USING (position)
JOIN questions AS earlier ON earlier.position = near_duplicates.other
