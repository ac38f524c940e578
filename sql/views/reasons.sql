-- reasons: how many rows each step rejected or failed, and why.
-- Takes: rows. Gives: step, reason, rows.
SELECT reject_step AS step, reject_reason AS reason, count(*) AS rows
FROM rows
WHERE reject_reason IS NOT NULL
GROUP BY ALL
ORDER BY rows DESC, step, reason
