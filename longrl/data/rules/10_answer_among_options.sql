-- A choice has at least two options and the answer's letter is one of them.
SELECT question_id, format('the answer is {} but there are {} options', answer, len(options)) AS reason
FROM questions
WHERE kind = 'choice' AND (len(options) < 2 OR gold IS NULL)
