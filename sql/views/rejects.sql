-- rejects: the rows that a step rejected, with the columns they had before that step.
-- Takes: rejected_rows (made from each stage's list of rejects). Gives: all columns, reject_step, reject_reason.
SELECT * FROM rejected_rows
