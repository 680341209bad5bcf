-- Every question that is left has its verdicts: none is let through because a check failed or forgot it.
SELECT
    question_id,
    coalesce(min('the ' || "check" || ' check could not be done: ' || error), 'it was never checked') AS reason
FROM questions LEFT JOIN verdicts USING (question_id)
GROUP BY question_id
HAVING count("check") = 0
    OR count(*) FILTER ("check" = 'judge' AND error IS NOT NULL) > 0
    OR (count(*) FILTER ("check" = 'blind' AND error IS NOT NULL) > 0
        AND count(*) FILTER ("check" = 'blind' AND (correct OR error IS NOT NULL))
            >= getvariable('blind_threshold') * count(*) FILTER ("check" = 'blind'))
