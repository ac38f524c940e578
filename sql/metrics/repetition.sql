-- repetition: how much the texts repeat themselves: share of runs of 4 words said again in their text (seq-rep-4,
-- arXiv 1908.04319), share of lines said again in their text, share of rows in which over 40 % of the runs are.
-- Takes: rows with a column text. Gives: metric, value, n. Words and lines as in filters/repetition.sql.
WITH split AS (
    SELECT
        regexp_extract_all(lower(left(text, 100000)), '[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|(?:[^\PL\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\pM\pN])+') AS words,
        list_filter(regexp_split_to_array(left(text, 100000), '\s*\n\s*'), lambda line: length(line) > 20) AS lines
    FROM rows
    WHERE text IS NOT NULL
),
counted AS (
    SELECT
        len(lines) AS lines,
        len(list_distinct(lines)) AS line_kinds,
        list_zip(words, words[2:], words[3:], words[4:])[:-4] AS fours,
        len(fours) AS runs,
        len(list_distinct(list_transform(fours, lambda run: hash(run)))) AS run_kinds
    FROM split
),
summed AS (
    SELECT
        CAST(sum(runs) AS BIGINT) AS runs,
        sum(runs - run_kinds) AS repeated_runs,
        CAST(sum(lines) AS BIGINT) AS lines,
        sum(lines - line_kinds) AS repeated_lines,
        count(*) FILTER (runs - run_kinds > 0.4 * runs) AS circling,
        count(*) AS n
    FROM counted
)
SELECT 'repeated_runs' AS metric, repeated_runs / nullif(runs, 0) AS value, runs AS n FROM summed
UNION ALL
SELECT 'repeated_lines', repeated_lines / nullif(lines, 0), lines FROM summed
UNION ALL
SELECT 'repetitive_rows', circling / nullif(n, 0), n FROM summed
ORDER BY metric
