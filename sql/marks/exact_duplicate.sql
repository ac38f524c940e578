-- exact_duplicate: of the rows that share a hash, all but the first name the first.
-- Takes: hashed (row_id, hash, source: number of the older data, place: in the order preferred; both null in older rows and rows). Gives: row_id, of, count, source of the rows that share a hash.
WITH placed AS (
    SELECT *,
        first_value(row_id) OVER w AS first_id,
        first_value(source) OVER w AS first_source,
        row_number() OVER w AS nth,
        count(*) OVER (PARTITION BY hash) AS size
    FROM hashed
    WHERE hash IN (SELECT hash FROM hashed GROUP BY hash HAVING count(*) > 1)
    WINDOW w AS (PARTITION BY hash ORDER BY source NULLS LAST, place, row_id)
)
SELECT row_id, CASE WHEN nth > 1 THEN first_id END AS of, size AS count, CASE WHEN nth > 1 THEN first_source END AS source
FROM placed
WHERE source IS NULL
