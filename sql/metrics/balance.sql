-- balance: how evenly rows fall on labels: share of each label, labels, unlabelled, imbalance (largest label by
-- smallest, 1 = even) and evenness (entropy by that of an even split: 1 = even, 0 = one label).
-- Takes: rows with a column label. Gives: metric, value, n, slice ('label=...' for shares).
WITH sizes AS (
    SELECT label, count(*) AS size, size / sum(size) OVER () AS share FROM rows WHERE label IS NOT NULL GROUP BY label
),
whole AS (
    -- Decimals add up to the same in any order, floating numbers do not.
    SELECT
        count(*) AS labels,
        CAST(sum(size) AS BIGINT) AS n,
        max(size) / min(size) AS imbalance,
        -sum(CAST(share * ln(share) AS DECIMAL(38, 15))) AS entropy
    FROM sizes
)
SELECT 'share' AS metric, share AS value, size AS n, 'label=' || CAST(label AS VARCHAR) AS slice FROM sizes
UNION ALL
SELECT 'labels', labels, n, NULL FROM whole
UNION ALL
SELECT 'imbalance', imbalance, n, NULL FROM whole
UNION ALL
SELECT 'evenness', CASE WHEN labels > 1 THEN entropy / ln(labels) WHEN labels = 1 THEN 0 END, n, NULL FROM whole
UNION ALL
SELECT 'unlabelled', count(*) FILTER (label IS NULL) / nullif(count(*), 0), count(*), NULL FROM rows
ORDER BY metric, slice
