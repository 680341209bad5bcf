-- Who never saw the video does not find the answer reliably.
SELECT question_id, format('answered without the video {} of {} times', count(*) FILTER (correct), count(*)) AS reason
FROM verdicts
WHERE "check" = 'blind'
GROUP BY question_id
HAVING count(*) FILTER (correct) >= getvariable('blind_threshold') * count(*)
