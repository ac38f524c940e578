-- rows: every row the run ever had and what became of it.
-- Takes: dataset, rejected_rows, failed_rows. Gives: all columns, reject_step, reject_reason (null = kept);
-- a failed row has the reason 'failed:ERROR' and its error in the column failed.
SELECT *, CAST(NULL AS VARCHAR) AS reject_step, CAST(NULL AS VARCHAR) AS reject_reason FROM dataset
UNION ALL BY NAME
SELECT * FROM rejected_rows
UNION ALL BY NAME
SELECT *, 'failed:' || failed.error AS reject_reason FROM failed_rows
