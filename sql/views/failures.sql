-- failures: the rows that could not be worked on, with the error.
-- Takes: failed_rows. Gives: row_id, parent_id, step, error, message, attempts.
SELECT row_id, parent_id, reject_step AS step, failed.error, failed.message, failed.attempts
FROM failed_rows
