-- length: rows whose text is between 40 and 700 characters long; copy the file to change the limits.
-- Takes: rows with a column text. Gives: row_id of the rows to keep; the others, and null texts, are rejected.
SELECT row_id FROM rows WHERE length(text) BETWEEN 40 AND 700
