-- The question is none of a benchmark's: fewer of its n-grams of words than the allowed share are in benchmark
-- questions. A question of fewer words than n is one gram.
WITH grams AS (
    SELECT question_id, unnest(ngrams(words, getvariable('benchmark_ngram'))) AS gram
    FROM (SELECT question_id, string_split(normalised(question), ' ') AS words FROM questions)
),
known AS (
    SELECT question_id, count(benchmark) / count(*) AS share, min(benchmark) AS benchmark
    FROM grams LEFT JOIN benchmark_grams USING (gram) GROUP BY question_id
)
SELECT question_id, format('{:.0f}% of its n-grams are in questions of {}', 100 * share, benchmark) AS reason
FROM known
WHERE share >= getvariable('benchmark_share')
