-- A choice has a capital letter for its answer, an open question has a text for its answer and no options; a question
-- has words.
SELECT question_id, CASE
    WHEN normalised(question) = '' THEN format('the question has no words: {}', question)
    WHEN kind = 'open' AND len(options) > 0 THEN format('an open question with {} options', len(options))
    WHEN kind = 'open' THEN format('the answer has no words: {}', answer)
    WHEN kind = 'choice' THEN format('the answer of a choice is a letter, not {}', answer)
    END AS reason
FROM questions
WHERE normalised(question) = ''
   OR (kind = 'open' AND (len(options) > 0 OR normalised(answer) = ''))
   OR (kind = 'choice' AND NOT regexp_full_match(answer, '[A-Z]'))
