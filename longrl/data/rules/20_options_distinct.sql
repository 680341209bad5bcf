-- No option of a choice is empty, and no two say the same but for case and punctuation.
SELECT question_id, 'options are empty or repeat each other: ' || array_to_string(options, ' | ') AS reason
FROM questions
WHERE len(list_filter(options, lambda text: normalised(text) = '')) > 0
   OR len(list_distinct(list_transform(options, lambda text: normalised(text)))) < len(options)
