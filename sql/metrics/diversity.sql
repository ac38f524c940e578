-- diversity: distinct-1 to distinct-3, vocabulary size, share of repeated texts, mean length in words.
-- Takes: texts (row_id, text). Gives: metric, value, n. Words are what white space separates, lower-cased.
WITH split AS (
    SELECT row_id, text, list_filter(regexp_split_to_array(lower(text), '\s+'), lambda w: w <> '') AS words FROM texts
),
grams AS (
    SELECT n.n, unnest(list_transform(
        generate_series(1, len(words) - n.n + 1), lambda i: array_to_string(words[i:i + n.n - 1], ' '))) AS gram
    FROM split, (VALUES (1), (2), (3)) AS n(n)
),
counted AS (
    SELECT n, count(DISTINCT gram) AS kinds, count(*) AS total FROM grams GROUP BY n
)
SELECT 'distinct_' || n AS metric, kinds / total AS value, total AS n FROM counted
UNION ALL
SELECT 'vocabulary', kinds, total FROM counted WHERE n = 1
UNION ALL
SELECT 'duplicates', (count(*) - count(DISTINCT text)) / nullif(count(*), 0), count(*) FROM split
UNION ALL
SELECT 'mean_words', avg(len(words)), count(*) FROM split
ORDER BY metric
