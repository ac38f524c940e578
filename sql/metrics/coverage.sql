-- coverage: how well rows cover the values of an attribute, such as the topic asked for: share of the possible values that
-- occur, evenness (entropy by that of an even split over the possible values), share of label x value pairs that occur,
-- shares of rows without a value (unset) and with one that is not possible (unlisted).
-- Possible are the values of rows that have no row_id (UNION them to the rows); without such rows, the values seen.
-- Takes: rows with the columns attribute and label (row_id, attribute, label). Gives: metric, value, n.
WITH held AS (
    SELECT row_id, CAST(attribute AS VARCHAR) AS value, CAST(label AS VARCHAR) AS label FROM rows
),
named AS (
    SELECT DISTINCT value FROM held WHERE row_id IS NULL AND value IS NOT NULL
),
possible AS (
    SELECT value FROM named
    UNION
    SELECT value FROM held WHERE value IS NOT NULL AND (SELECT count(*) FROM named) = 0
),
cells AS (
    SELECT value, label, count(*) AS size, value IN (SELECT value FROM possible) AS listed
    FROM held
    WHERE row_id IS NOT NULL
    GROUP BY ALL
),
used AS (
    SELECT value, sum(size) AS size, sum(size) / sum(sum(size)) OVER () AS share FROM cells WHERE listed GROUP BY value
),
whole AS (
    SELECT
        CAST(coalesce(sum(size), 0) AS BIGINT) AS n,
        sum(size) FILTER (value IS NULL) AS unset,
        sum(size) FILTER (NOT listed) AS unlisted,
        count(DISTINCT label) AS labels,
        count(*) FILTER (listed AND label IS NOT NULL) AS pairs,
        (SELECT count(*) FROM possible) AS values,
        (SELECT count(*) FROM used) AS used,
        -- Decimals add up to the same in any order, floating numbers do not.
        (SELECT -sum(CAST(share * ln(share) AS DECIMAL(38, 15))) FROM used) AS entropy
    FROM cells
)
SELECT 'coverage' AS metric, used / nullif(values, 0) AS value, n FROM whole
UNION ALL
SELECT 'evenness', CASE WHEN values > 1 THEN entropy / ln(values) END, n FROM whole
UNION ALL
SELECT 'label_coverage', pairs / nullif(labels * values, 0), n FROM whole
UNION ALL
SELECT 'unset', coalesce(unset, 0) / nullif(n, 0), n FROM whole
UNION ALL
SELECT 'unlisted', coalesce(unlisted, 0) / nullif(n, 0), n FROM whole
ORDER BY metric
