-- boilerplate: share of the different texts that hold the most widespread run of 6 words, such as a prompt's phrase that
-- leaks into the outputs, or a set answer. Texts that repeat a text count once. The slice names the run. 0 where no two
-- texts have a run in common. A run with a gap, such as a slot that was filled, is as long as what stands between gaps.
-- Takes: rows with a column text. Gives: metric, value, n, slice. Words as in filters/repetition.sql, lower-cased.
WITH different AS (
    SELECT DISTINCT regexp_extract_all(lower(text), '[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|(?:[^\PL\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\pM\pN])+') AS words
    FROM rows
    WHERE text IS NOT NULL
),
runs AS (
    SELECT unnest(list_distinct(list_zip(words, words[2:], words[3:], words[4:], words[5:], words[6:], true))) AS run
    FROM different
),
shared AS (
    SELECT run, count(*) AS texts FROM runs GROUP BY run HAVING count(*) > 1
),
most AS (
    -- The largest count, and of equal ones the last run in the order of words.
    SELECT max({'texts': texts, 'run': run}) AS found FROM shared
),
whole AS (
    SELECT count(*) AS n FROM different WHERE len(words) > 0
)
SELECT 'boilerplate' AS metric, coalesce(found.texts, 0) / nullif(n, 0) AS value, n, NULL AS slice FROM most, whole
UNION ALL
SELECT 'boilerplate', found.texts / n, n, 'run=' || array_to_string(
    [found.run[1], found.run[2], found.run[3], found.run[4], found.run[5], found.run[6]], ' ')
FROM most, whole
WHERE found IS NOT NULL
ORDER BY slice NULLS FIRST
