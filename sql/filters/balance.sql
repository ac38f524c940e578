-- balance: as many rows of each label as the smallest label has, chosen by the recipe's seed.
-- Takes: rows with a column label. Gives: row_id of the rows to keep; the others, and null labels, are rejected.
WITH sizes AS (
    SELECT label, count(*) AS size FROM rows WHERE label IS NOT NULL GROUP BY label
)
SELECT row_id
FROM rows
WHERE label IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY label ORDER BY chance(row_id, 'balance'), row_id) <= (SELECT min(size) FROM sizes)
