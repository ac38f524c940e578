-- funnel: what became of the rows, step by step. In each line
--   rows_in + rows_made = rows_kept + rows_rejected + rows_failed + rows_expanded.
-- Takes: steps. Gives: step, operator and the six counts, in order.
SELECT step, operator, rows_in, rows_made, rows_kept, rows_rejected, rows_failed, rows_expanded
FROM steps
ORDER BY ordinal
