-- diversity: how varied the words are: distinct-1 to distinct-3 (different n-grams by all, arXiv 1510.03055; distinct_1 is the
-- type-token ratio), vocabulary, root type-token ratio (vocabulary by the root of all words), entropy of words in bits;
-- inter-sample frequency of 3-grams, both published definitions: mean count of a different one, and sum of squared shares;
-- share of rows whose text an earlier row has, mean length in words.
-- Takes: rows with a column text. Gives: metric, value, n. Words as in filters/repetition.sql, lower-cased.
WITH split AS (
    SELECT text, regexp_extract_all(lower(text), '[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|(?:[^\PL\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\pM\pN])+') AS words
    FROM rows
    WHERE text IS NOT NULL
),
places AS (
    -- A word with the two after it; null where the text ends.
    SELECT unnest(list_zip(words, words[2:], words[3:])) AS gram FROM split
),
threes AS (
    SELECT gram[1] AS a, gram[2] AS b, gram[3] AS c, count(*) AS times FROM places GROUP BY ALL
),
twos AS (
    SELECT a, b, sum(times) AS times FROM threes GROUP BY ALL
),
ones AS (
    SELECT a, sum(times) AS times FROM twos GROUP BY ALL
),
counted AS (
    SELECT
        count(*) AS kinds,
        CAST(coalesce(sum(times), 0) AS BIGINT) AS total,
        -- Decimals add up to the same in any order, floating numbers do not.
        sum(CAST(times * log2(times) AS DECIMAL(38, 12))) AS bits
    FROM ones
),
counted_twos AS (
    SELECT count(*) AS kinds, CAST(coalesce(sum(times), 0) AS BIGINT) AS total FROM twos WHERE b IS NOT NULL
),
counted_threes AS (
    SELECT
        count(*) AS kinds,
        CAST(coalesce(sum(times), 0) AS BIGINT) AS total,
        sum(CAST(times AS HUGEINT) * times) AS squares
    FROM threes
    WHERE c IS NOT NULL
),
whole AS (
    SELECT count(*) AS texts, count(DISTINCT text) AS kinds, CAST(sum(len(words)) AS BIGINT) AS words FROM split
)
SELECT 'distinct_1' AS metric, kinds / nullif(total, 0) AS value, total AS n FROM counted
UNION ALL
SELECT 'distinct_2', kinds / nullif(total, 0), total FROM counted_twos
UNION ALL
SELECT 'distinct_3', kinds / nullif(total, 0), total FROM counted_threes
UNION ALL
SELECT 'vocabulary', kinds, total FROM counted
UNION ALL
SELECT 'root_type_token', kinds / sqrt(nullif(total, 0)), total FROM counted
UNION ALL
SELECT 'word_entropy', log2(nullif(total, 0)) - bits / total, total FROM counted
UNION ALL
SELECT 'ingf_mean_count', total / nullif(kinds, 0), total FROM counted_threes
UNION ALL
SELECT 'ingf_squared_share', squares / nullif(CAST(total AS DOUBLE) * total, 0), total FROM counted_threes
UNION ALL
SELECT 'duplicates', (texts - kinds) / nullif(texts, 0), texts FROM whole
UNION ALL
SELECT 'mean_words', words / nullif(texts, 0), texts FROM whole
ORDER BY metric
