-- No question means the same as another one, of this video or of any: the cosine of their embeddings is high and the
-- answer is the same (see longrl/data/duplicates.py). The first one stays.
SELECT
    later.question_id,
    format('cosine {:.3f} with {} of {} video', similarity, earlier.question_id,
           CASE WHEN later.video_id = earlier.video_id THEN 'this' ELSE 'another' END) AS reason
FROM same_meanings
JOIN questions AS later USING (position)
JOIN questions AS earlier ON earlier.position = same_meanings.other
