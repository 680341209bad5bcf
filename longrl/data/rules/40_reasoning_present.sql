-- The chain of thought is a chain: at least three words.
SELECT question_id, format('the reasoning has only these words: {}', reasoning) AS reason
FROM questions
WHERE len(string_split(normalised(reasoning), ' ')) < 3
