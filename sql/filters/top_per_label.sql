-- top_per_label: the 100 rows of each label with the highest score; copy the file to change the number or the columns.
-- Takes: rows with the columns label and score (a number). Gives: row_id of the rows to keep; of equal scores the
-- smaller row_id. The others, and rows whose label or score is null or NaN, are rejected.
SELECT row_id
FROM rows
WHERE label IS NOT NULL AND score IS NOT NULL AND NOT isnan(score)
QUALIFY row_number() OVER (PARTITION BY label ORDER BY score DESC, row_id) <= 100
