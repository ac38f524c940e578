-- shape: what the texts are made of: share of letters, digits, capitals (of letters with case) among all characters that
-- can be seen, share of lines that are bullets or trail off, share of rows with control characters or lost ones.
-- Takes: rows with a column text. Gives: metric, value, n (what the share is of). In any script.
WITH counted AS (
    SELECT
        length(regexp_replace(text, '[\pZ\pC]+', '', 'g')) AS visible,
        length(regexp_replace(text, '[^\pL\pM]+', '', 'g')) AS letters,
        length(regexp_replace(text, '[^\pN]+', '', 'g')) AS digits,
        length(regexp_replace(text, '[^\p{Lu}]+', '', 'g')) AS capitals,
        length(regexp_replace(text, '[^\p{Lu}\p{Ll}]+', '', 'g')) AS cased,
        list_filter(regexp_split_to_array(text, '\s*\n\s*'), lambda line: line <> '') AS lines,
        regexp_matches(text, '[^\P{Cc}\t\n\r]|\x{FFFD}') AS damaged
    FROM rows
    WHERE text IS NOT NULL
),
summed AS (
    SELECT
        sum(visible) AS visible,
        sum(letters) AS letters,
        sum(digits) AS digits,
        sum(capitals) AS capitals,
        sum(cased) AS cased,
        sum(len(lines)) AS lines,
        sum(len(list_filter(lines, lambda line: regexp_matches(line, '^[-*+•●○■▪‣·–][ \t]')))) AS bullets,
        sum(len(list_filter(lines, lambda line: regexp_matches(line, '(…|\.\.\.)$')))) AS trailing_off,
        count(*) FILTER (damaged) AS damaged,
        count(*) AS n
    FROM counted
)
SELECT 'letters' AS metric, letters / nullif(visible, 0) AS value, CAST(visible AS BIGINT) AS n FROM summed
UNION ALL
SELECT 'digits', digits / nullif(visible, 0), CAST(visible AS BIGINT) FROM summed
UNION ALL
SELECT 'capitals', capitals / nullif(cased, 0), CAST(cased AS BIGINT) FROM summed
UNION ALL
SELECT 'bullet_lines', bullets / nullif(lines, 0), CAST(lines AS BIGINT) FROM summed
UNION ALL
SELECT 'trailing_off_lines', trailing_off / nullif(lines, 0), CAST(lines AS BIGINT) FROM summed
UNION ALL
SELECT 'damaged', damaged / nullif(n, 0), n FROM summed
ORDER BY metric
