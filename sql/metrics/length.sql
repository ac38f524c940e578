-- length: quantiles of the text's length in characters (length_p05, p25, p50, p75, p95), whole and by label.
-- Takes: rows with the columns text and label. Gives: metric, value, n, slice ('label=...', null for the whole).
WITH measured AS (
    SELECT
        quantile_cont(length(text), [0.05, 0.25, 0.5, 0.75, 0.95]) AS quantiles,
        count(*) AS n,
        CASE WHEN grouping(label) = 0 THEN 'label=' || coalesce(CAST(label AS VARCHAR), 'null') END AS slice
    FROM rows
    WHERE text IS NOT NULL
    GROUP BY GROUPING SETS ((label), ())
)
SELECT
    unnest(['length_p05', 'length_p25', 'length_p50', 'length_p75', 'length_p95']) AS metric,
    unnest(quantiles) AS value,
    n,
    slice
FROM measured
WHERE n > 0
ORDER BY slice NULLS FIRST, metric
