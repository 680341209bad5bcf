-- The clips that the answer rests on are named, and each is a clip of this video.
SELECT
    question_id,
    CASE WHEN len(evidence) = 0 THEN 'no clip is named as evidence'
         ELSE 'no such clips in the video: ' || array_to_string(list_filter(
              evidence, lambda clip: NOT list_contains(known, clip)), ', ')
    END AS reason
FROM questions
LEFT JOIN (SELECT video_id, list("index") AS known FROM clips GROUP BY video_id) USING (video_id)
WHERE len(evidence) = 0 OR NOT list_has_all(coalesce(known, []), evidence)
