-- The judge, who read the captions, finds the question answerable and its answer right.
SELECT question_id, format('{}: {}', answer, verdicts.reason) AS reason
FROM verdicts
WHERE "check" = 'judge' AND NOT correct
