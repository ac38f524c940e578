-- bias: how much an attribute tells of the label: the share of the label's entropy that is gone once the attribute is known
-- (mutual information by the label's entropy, Theil's uncertainty coefficient): 0 = nothing, 1 = the label follows from it.
-- It has a direction, as what a student could cheat by has, which Cramer's V and the symmetric forms have not.
-- bias_by_chance is what it is about where they have nothing to do with each other: more for more values and fewer rows.
-- Takes: rows with the columns attribute and label. Gives: metric, value, n.
WITH cells AS (
    SELECT attribute, label, count(*) AS size
    FROM rows
    WHERE attribute IS NOT NULL AND label IS NOT NULL
    GROUP BY ALL
),
margins AS (
    SELECT
        size,
        sum(size) OVER () AS n,
        sum(size) OVER (PARTITION BY attribute) AS of_attribute,
        sum(size) OVER (PARTITION BY label) AS of_label
    FROM cells
),
whole AS (
    -- Decimals add up to the same in any order, floating numbers do not. A label's share stands in each of its cells.
    SELECT
        CAST(coalesce(max(n), 0) AS BIGINT) AS n,
        sum(CAST(size / n * ln(size / of_attribute * n / of_label) AS DECIMAL(38, 15))) AS mutual,
        -sum(CAST(size / n * ln(of_label / n) AS DECIMAL(38, 15))) AS entropy,
        (SELECT (count(DISTINCT attribute) - 1) * (count(DISTINCT label) - 1) FROM cells) AS freedom
    FROM margins
)
SELECT 'bias' AS metric, CASE WHEN entropy > 0 THEN greatest(mutual / entropy, 0) END AS value, n FROM whole
UNION ALL
SELECT 'bias_by_chance', CASE WHEN entropy > 0 THEN least(freedom / (2 * n * entropy), 1) END, n FROM whole
ORDER BY metric
